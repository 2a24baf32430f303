"""Read the words of a command: the asset, the quantity and the connection that its user names."""

from __future__ import annotations

import logging
from collections.abc import Collection

from picopayments_cli.chain import Asset
from picopayments_cli.chain.answers import unknown_asset
from picopayments_cli.channel.counterparty import asset_id, asset_name, both_names, is_longname
from picopayments_cli.channel.values import HANDLE_SIZE, Handle, Quantity, check_quantity, from_hex
from picopayments_cli.client.session import Session
from picopayments_cli.errors import (
    AmbiguousHandle,
    InvalidAsset,
    InvalidHex,
    InvalidQuantity,
    UnknownAsset,
    UnknownHandle,
)
from picopayments_cli.quantities import read_quantity

log = logging.getLogger(__name__)
MIN_DIGITS = 8  # of a handle that is not given in full


def asset_named(session: Session, name: str) -> Asset:
    """Look up an asset by its exact name or long name. Raises UnknownAsset, with the spellings there are."""
    return session.chain.asset(exact_name(session, name))


def exact_name(session: Session, name: str) -> str:
    """Check that an asset can have this name, issued or not. Raises UnknownAsset, with the spellings there are."""
    parent, dot, child = name.partition(".")
    proper = parent.upper() + dot + child
    try:
        valid = is_longname(proper) or asset_name(asset_id(proper)) == proper
    except InvalidAsset:
        valid = False
    if not valid:
        raise UnknownAsset(
            f"{name!r} can't be the name of an asset: those are XCP, BTC, 4 to 12 capital letters, A and a long "
            "number, or a subasset such as PARENT.child.",
            asset=name,
        )
    if proper == name:
        return name
    try:
        spellings = [session.chain.asset(proper).longname or proper]
    except UnknownAsset as error:
        spellings = error.data.get("spellings", [])
    raise unknown_asset(name, spellings)


def quantity_of(session: Session, value: int | str, asset: str, what: str = "quantity") -> Quantity:
    """Read a quantity, as satoshis or with the asset as its unit. Raises InvalidQuantity, UnknownAsset.

    ``asset``: the name of what the command is about. The unit is that, or the long name that it has, letter for letter.
    """
    if not isinstance(value, str):
        return check_quantity(value, what)
    written = read_quantity(value, what)
    unit = written.unit
    if unit is None:
        return written.quantity(False, what)
    known = asset_named(session, unit) if unit == asset or "." in unit else None
    if known is None or asset not in (unit, known.name):
        longname = session.chain.asset(asset).longname if asset.startswith("A") else None
        raise InvalidQuantity(
            f"The {what} {value} is in {unit}, where it is {both_names(asset, longname)} that counts. "
            "Name it in that, or in satoshis.",
            what=what,
            value=value,
            unit=longname or asset,
        )
    quantity = written.quantity(known.divisible, what)
    if session.chain_source == "hub" and known.name not in ("XCP", "BTC"):
        log.info("%s is %d satoshis, says the hub.", value, quantity)  # which knows whether it has decimals
    return quantity


def whole_handle(text: str, what: str = "handle") -> Handle:
    """Read a handle of which no digit is left out. Raises InvalidHex."""
    try:
        return Handle(from_hex(text, what, HANDLE_SIZE))
    except InvalidHex as error:
        owner = "the payee's" if what == "destination handle" else "your own"
        raise InvalidHex(f"{error.message} `picopayments-cli status` shows {owner} in full.", **error.data) from error


def handle_named(text: str, known: Collection[Handle]) -> Handle:
    """Find the one handle that begins with these digits, 8 at least. Only for commands that change nothing.

    Raises InvalidHex, UnknownHandle, AmbiguousHandle.
    """
    if len(text) < MIN_DIGITS:
        raise InvalidHex(
            f"Give at least {MIN_DIGITS} digits of the handle, not {len(text)}: `picopayments-cli status` shows it in "
            "full.",
            what="handle",
            digits=len(text),
        )
    part = MIN_DIGITS <= len(text) <= 2 * HANDLE_SIZE
    from_hex(text + "0" * (part * len(text) % 2), "handle", None if part else HANDLE_SIZE)
    found = sorted(handle for handle in known if handle.hex().startswith(text))
    if not found:
        raise UnknownHandle(
            f"There is no connection {text} here. `picopayments-cli status` lists those that there are, "
            "`picopayments-cli history` those that were culled, too.",
            handle=text,
        )
    if len(found) > 1:
        raise AmbiguousHandle(
            f"{len(found)} handles begin with {text}: give more digits.",
            handle=text,
            handles=[handle.hex() for handle in found],
        )
    return found[0]
