"""Read the words of a command: the asset, the quantity and the connection that its user names."""

from __future__ import annotations

import logging
from collections.abc import Collection

from picopayments_cli.chain import Asset
from picopayments_cli.chain.answers import unknown_asset
from picopayments_cli.channel.counterparty import asset_id, asset_name, both_names, is_longname
from picopayments_cli.channel.values import HANDLE_SIZE, LEAST_DIGITS, Handle, Quantity, check_quantity, from_hex
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
_LISTED = 10  # handles in a message


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


def own_handle(session: Session, text: str) -> Handle:
    """Find the handle of a connection of the user's own, of which the first digits are enough.

    In full it need not be here. Raises InvalidHex, UnknownHandle, AmbiguousHandle.
    """
    _check_digits(text)
    if len(text) == 2 * HANDLE_SIZE:
        return Handle(bytes.fromhex(text))
    return handle_named(text, {*session.store.handles(), *session.store.missing(), *session.older()})


def payee_handle(text: str) -> Handle:
    """Read the handle of a payee, of which no digit is left out: a part could mean somebody else. Raises InvalidHex."""
    try:
        return Handle(from_hex(text, "destination handle", HANDLE_SIZE))
    except InvalidHex as error:
        told = "Ask the payee for it: their `status` shows it in full."
        raise InvalidHex(f"{error.message} {told}", **error.data) from error


def handle_named(text: str, known: Collection[Handle]) -> Handle:
    """Find the one handle that begins with these digits, 8 at least.

    Raises InvalidHex, UnknownHandle, AmbiguousHandle.
    """
    _check_digits(text)
    found = sorted(handle for handle in known if handle.hex().startswith(text))
    if not found:
        raise UnknownHandle(
            f"There is no connection {text} here. `picopayments-cli status` lists those that there are, "
            "`picopayments-cli history` those that were culled, too. If its file is lost, `picopayments-cli wallet "
            "restore` asks the hub for it.",
            handle=text,
        )
    if len(found) > 1:
        candidates = ", ".join(handle.hex() for handle in found[:_LISTED]) + (", ..." if found[_LISTED:] else "")
        raise AmbiguousHandle(
            f"{len(found)} handles begin with {text}, give more digits: {candidates}.",
            handle=text,
            handles=[handle.hex() for handle in found],
        )
    return found[0]


def _check_digits(text: str) -> None:
    """Refuse what can't be the beginning of a handle. Raises InvalidHex."""
    if len(text) < LEAST_DIGITS:
        raise InvalidHex(
            f"Give at least {LEAST_DIGITS} digits of the handle, not {len(text)}: `picopayments-cli status` shows it "
            "in full.",
            what="handle",
            digits=len(text),
        )
    try:
        from_hex(text.ljust(2 * HANDLE_SIZE, "0"), "handle", HANDLE_SIZE)
    except InvalidHex as error:
        raise InvalidHex(f"{error.message} `picopayments-cli status` shows your own in full.", **error.data) from error
