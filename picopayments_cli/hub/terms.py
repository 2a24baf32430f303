"""The terms that the hub's operator offers, asset by asset, in a JSON file; the rates are added as of the moment."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from picopayments_cli.chain import Chain
from picopayments_cli.channel.counterparty import BTC_ID, asset_id, both_names, is_longname
from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.rates import Bounds, Rate, asked_rate, most_agreed
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.wire import kept_terms
from picopayments_cli.errors import BadTerms, InvalidAsset, InvalidSetting, NodeUnreachable, UnknownAsset

# docs/hub.rst has the sums: 2,000 satoshis for what a connection costs on the chain, with 5,000 for one XCP; 5 % a year
# for the capital; and deposits of which that is a few hundredths.
REAL_DEPOSIT_MIN = 1_000_000_000
REAL_LOCK_BASE, REAL_LOCK_RATE = 40_000_000, 1_000
REAL_EXPIRE_MAX = 2016  # blocks: a client that never answers again holds the hub's deposit as long
MEMBERS = ("deposit_max", "deposit_min", "deposit_ratio", "expire_max", "expire_min", "sync_fee")
MAY_LACK = ("lock_base", "lock_rate")  # and are 0 then: locking the hub's deposit costs nothing


class Offer:
    """The hub's offer: an asset's members as they stand in the file, checked when it is read.

    A subasset goes by its long name there, or by its number, and by its number here, once ``resolve`` was called.
    An asset whose members are null is not on offer. On regtest an asset that the file does not name has default terms
    once the hub has held it (``include``); elsewhere ``default`` is None.
    """

    def __init__(self, members: dict[str, dict[str, Any] | None], default: dict[str, Any] | None = None) -> None:
        self._members = members
        self._default = default

    @property
    def assets(self) -> tuple[str, ...]:
        """The assets that connections are offered in, without those whose names are not looked up yet."""
        return tuple(asset for asset, members in self._members.items() if members is not None and "." not in asset)

    @property
    def members(self) -> dict[str, dict[str, Any] | None]:
        """Return what a file would hold that says the same: all that is on offer, and what no longer is."""
        return dict(self._members)

    @property
    def resolved(self) -> bool:
        """Whether all names of the file are looked up."""
        return not any("." in name for name in self._members)

    def has_withdrawn(self, asset: str) -> bool:
        """Whether connections in an asset are to end; none while it may be one that is not looked up yet."""
        return self.resolved and asset not in self.assets

    def check_resolved(self) -> None:
        """Refuse to call an asset not offered while not all names are looked up. Raises NodeUnreachable."""
        if not self.resolved:
            raise NodeUnreachable(
                "The hub can't look up all of its assets now, since its Counterparty node is away. Try again later."
            )

    def changed(self, members: dict[str, dict[str, Any] | None]) -> Offer:
        """Return the offer of other members, as ``members`` tells them."""
        return Offer(members, self._default)

    def resolve(self, chain: Chain) -> None:
        """Find the subassets that the file names by their long names. Raises InvalidSetting, and as ``Chain.asset``."""
        found: dict[str, dict[str, Any] | None] = {}
        for name, members in self._members.items():
            try:
                asset = chain.asset(name).name if "." in name else name
            except UnknownAsset as error:
                raise InvalidSetting(f"The terms: {error.message}", **error.data) from error
            if asset in found:
                raise InvalidSetting(
                    f"The terms name {both_names(asset, chain.asset(asset).longname)} twice.", asset=name
                )
            found[asset] = members
        self._members = found

    def include(self, assets: Iterable[str]) -> None:
        """Offer these assets too, where the network has default terms; they stay on offer while the hub runs.

        An asset that the deposits have emptied out of the wallet must not end the connections that hold it. Nothing is
        added before the file's names are looked up, since it may be one of them.
        """
        fresh = [asset for asset in assets if asset not in self._members]
        if fresh and self._default is not None and self.resolved:
            self._members = {**self._members, **dict.fromkeys(fresh, self._default)}  # others read it meanwhile

    def terms(self, asset: str, rate: Rate, bounds: Bounds) -> Terms | None:
        """The terms of an asset at the believed rate; None where it is not offered."""
        members = self._members.get(asset)
        if members is None:
            return None
        rates = {"fee_rate": asked_rate(rate, packages=True), "fee_rate_max": most_agreed(rate, bounds)}
        return kept_terms({**members, **rates})


def default_text(network: Network) -> str:
    """The file of a new hub."""
    return json.dumps({"XCP": _default_members(network)}, indent=2) + "\n"


def _default_members(network: Network) -> dict[str, Any]:
    """Default terms; small deposits and long times lock the hub's capital, and are refused on a real network."""
    real = network.name != "regtest"
    deposit_min, longest = (REAL_DEPOSIT_MIN, REAL_EXPIRE_MAX) if real else (0, 0)
    times = {"expire_min": network.expire_min, "expire_max": longest}
    fees = {"sync_fee": 1, "lock_base": REAL_LOCK_BASE if real else 0, "lock_rate": REAL_LOCK_RATE if real else 0}
    return {"deposit_min": deposit_min, "deposit_max": 0, "deposit_ratio": 1.0, **times, **fees}


def read_offer(path: Path, network: Network) -> Offer:
    """Read the offer of a file. Raises InvalidSetting."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidSetting(f"The terms in {path} can't be read: {error}. Mend the file, or move it away.") from error
    return offer_of(content, network, f"in {path}")


def nothing_yet(network: Network) -> Offer:
    """The offer of a process that has not heard yet what its hub offers."""
    return Offer({}, _default_members(network) if network.name == "regtest" else None)


def offer_of(content: Any, network: Network, where: str) -> Offer:
    """Read the offer of a file's content; ``where`` names it in errors. Raises InvalidSetting."""
    if not isinstance(content, dict) or not content:
        raise InvalidSetting(f"The terms {where} must be a JSON object of assets and their terms.")
    for asset, members in content.items():
        told = f"The terms {where}, {asset}"
        _check_asset(told, asset)
        if members is not None:
            _check(told, members, network)
    return Offer(content, _default_members(network) if network.name == "regtest" else None)


def _check_asset(where: str, asset: str) -> None:
    try:
        valid = is_longname(asset) or asset_id(asset) != BTC_ID
    except InvalidAsset:
        valid = False
    if not valid:
        raise InvalidSetting(
            f"{where}: not the name of an asset: those are capital letters, A and a long number, or PARENT.child for a "
            "subasset.",
            asset=asset,
        )


def _check(where: str, members: Any, network: Network) -> None:
    if not isinstance(members, dict) or set(members) - set(MAY_LACK) != set(MEMBERS):
        raise InvalidSetting(
            f"{where}: the members of terms are {', '.join(MEMBERS)}, all of them, and {', '.join(MAY_LACK)} (0), and "
            "no other."
        )
    try:
        terms = kept_terms({**members, "fee_rate": 1, "fee_rate_max": 1})
    except BadTerms as error:
        raise InvalidSetting(f"{where}: {error.message}", **error.data) from error
    longest = terms.expire_max or network.expire_max
    if not network.expire_min <= terms.expire_min <= longest <= network.expire_max:
        raise InvalidSetting(
            f"{where}: the times must lie between {network.expire_min} and {network.expire_max} blocks, expire_min not "
            "above expire_max.",
            expire_min=terms.expire_min,
            expire_max=terms.expire_max,
        )
