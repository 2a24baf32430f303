"""The terms that the hub offers: what its file says of an asset, and the commits' rates as of the moment."""

from __future__ import annotations

from picopayments_cli.channel.rates import ALONE, DRIFT, MAX_AGREED, PACKAGE_MAX, Bounds, Rate, asked_rate
from picopayments_cli.channel.terms import Terms
from picopayments_cli.hub2.terms import Offer


def terms_of(offer: Offer, asset: str, rate: Rate, bounds: Bounds) -> Terms | None:
    """The terms of an asset at the believed rate; None where it is not offered."""
    told = offer.terms(asset, 1)
    if told is None:
        return None
    return Terms(
        told.deposit_max,
        told.deposit_min,
        told.deposit_ratio,
        told.expire_max,
        told.expire_min,
        told.sync_fee,
        asked_rate(rate, packages=True),
        min(max(PACKAGE_MAX, DRIFT * ALONE * rate.value), MAX_AGREED, bounds.ceiling),
    )
