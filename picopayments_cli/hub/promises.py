"""Bounds what the hub has promised and nobody has paid for yet: by key, by address, and by what stands behind it.

A promise takes of what is free until the hub's deposit counts, or its time is over. It costs a stranger nothing, so
nobody is promised everything. Whom this machine itself asks for is its owner, or comes by a way that tells no address:
such are promised as much as stands behind them, and not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, BindParameter, Connection, and_, bindparam, case, func, or_, select

from picopayments_cli.channel.counterparty import asset_id, asset_members, both_names
from picopayments_cli.channel.stages import AGREED, CLOSING, REQUESTED
from picopayments_cli.channel.values import Handle, Pubkey
from picopayments_cli.errors import InsufficientLiquidity, TooManyPromises
from picopayments_cli.hub.schema import connections, promises, withdrawals

MOST_OF_KEY = 50  # promises
MOST_OF_ADDRESS = 1000  # promises, and requests that have not come to one
MOST_REQUESTS = 20_000  # that have not come to a promise, of all addresses: the oldest give way
SHARE = 2  # one key, or one address, is promised at most one part in so many of what is free
UNBACKED_SHARE = 10  # and so are all together behind whom the hub sees no funds

_OF: BindParameter[Any] = bindparam("of")
_ADD = promises.insert()
_AGREE = (
    promises.update()
    .where(promises.c.handle == _OF)
    .values({name: bindparam(f"new_{name}") for name in ("asker", "quantity", "matching", "backed")})
)
_LIVE = (
    connections.c.handle == promises.c.handle,
    or_(  # as of Account.is_promise, requests aside
        connections.c.stage == AGREED,
        and_(connections.c.stage == CLOSING, connections.c.deposit_raw.is_not(None)),
    ),
    connections.c.h2c_anchor.is_(None),
)
_IS_CLIENTS = promises.c.client == bindparam("client")
_IS_ASKERS = promises.c.asker == bindparam("asker")


def _sum(*of: Any) -> Any:
    """The sum of what the hub is to deposit for promises."""
    return func.coalesce(func.sum(case((and_(*of), promises.c.matching), else_=0)), 0, type_=BigInteger)


_SUMS = select(
    func.coalesce(func.sum(promises.c.matching), 0),
    _sum(promises.c.backed.is_(False)),
    _sum(_IS_CLIENTS),
    _sum(_IS_ASKERS),
).where(*_LIVE, promises.c.asset == bindparam("asset"))
_WITHDRAWN = select(func.coalesce(func.sum(withdrawals.c.quantity), 0)).where(withdrawals.c.asset_id == bindparam("id"))
_OWED = select(func.coalesce(func.sum(promises.c.quantity), 0)).where(
    *_LIVE, _IS_CLIENTS, promises.c.asset == bindparam("asset"), connections.c.c2h_anchor.is_(None)
)
_NUMBER_OF_KEY = select(func.count()).select_from(promises.join(connections, _LIVE[0])).where(*_LIVE[1:], _IS_CLIENTS)
_NUMBER_OF_ADDRESS = (
    select(func.count())
    .select_from(promises.join(connections, _LIVE[0]))
    .where(or_(connections.c.stage == REQUESTED, and_(*_LIVE[1:])), _IS_ASKERS)
)


@dataclass(frozen=True)
class Wanted:
    """A promise that is asked for: by whom, from which address (None: this machine), and of what.

    ``quantity``: the client's deposit; ``matching``: the hub's. ``held``: what the hub's wallet holds of the asset;
    ``owned``: what the client's does.
    """

    client: Pubkey
    asker: str | None
    asset: str
    longname: str | None
    quantity: int
    matching: int
    held: int
    owned: int


def ask(db: Connection, handle: Handle, client: Pubkey, asset: str, asker: str | None) -> None:
    """Note that a connection was asked for. Raises TooManyPromises."""
    number = 0 if asker is None else int(db.execute(_NUMBER_OF_ADDRESS, {"asker": asker}).scalar_one())
    _check_number(number, MOST_OF_ADDRESS, "this address")
    row = {"handle": handle, "client": client, "asset": asset, "asker": asker}
    db.execute(_ADD, {**row, "quantity": 0, "matching": 0, "backed": False})


def promise(db: Connection, handle: Handle, wanted: Wanted) -> None:
    """Promise the hub's deposit for a connection that was asked for. Raises TooManyPromises, InsufficientLiquidity."""
    of_key = {"client": wanted.client}
    number = 0 if wanted.asker is None else int(db.execute(_NUMBER_OF_KEY, of_key).scalar_one())
    _check_number(number, MOST_OF_KEY, "this key")
    owed = int(db.execute(_OWED, {"client": wanted.client, "asset": wanted.asset}).scalar_one())
    backed = owed + wanted.quantity <= wanted.owned
    _check_share(db, wanted, backed=backed)
    row = {"asker": wanted.asker, "quantity": wanted.quantity, "matching": wanted.matching, "backed": backed}
    db.execute(_AGREE, {"of": handle, **{f"new_{name}": value for name, value in row.items()}})


def spoken_for(db: Connection, asset: str) -> int:
    """Add up the deposits of an asset that the hub has agreed to and that do not count yet, and withdrawals."""
    return int(db.execute(_SUMS, {"client": b"", "asker": "", "asset": asset}).one()[0]) + _withdrawn(db, asset)


def _withdrawn(db: Connection, asset: str) -> int:
    return int(db.execute(_WITHDRAWN, {"id": str(asset_id(asset))}).scalar_one())


def _check_number(number: int, most: int, whose: str) -> None:
    if number >= most:
        raise TooManyPromises(
            f"{number} connections of {whose} wait for their deposits, and the hub takes {most} at most: deposit on "
            "them, or wait until their time is over.",
            number=number,
            most=most,
        )


def _check_share(db: Connection, wanted: Wanted, *, backed: bool) -> None:
    """Refuse what can't be funded, and more than one may hold of what can."""
    asked = {"client": wanted.client, "asker": wanted.asker or "", "asset": wanted.asset}
    total, unbacked, of_key, of_address = (int(part) for part in db.execute(_SUMS, asked).one())
    free = max(wanted.held - total - _withdrawn(db, wanted.asset), 0)
    bounds = [(free, "")]
    if wanted.asker is not None:
        bounds.append((_left(free, of_key, SHARE), " to one key"))
        bounds.append((_left(free, of_address, SHARE), " to one address"))
    if not backed:
        seen = f", since your wallet holds {wanted.owned} by the hub's node"
        bounds.append((_left(free, unbacked, UNBACKED_SHARE), seen))
    available, why = min(bounds, key=lambda bound: bound[0])
    if wanted.matching > available:
        raise InsufficientLiquidity(
            f"The hub can promise at most {available} of {both_names(wanted.asset, wanted.longname)} now{why}, not the "
            f"{wanted.matching} that match this deposit: connect with less, or later.",
            **asset_members(wanted.asset, wanted.longname),
            quantity=wanted.matching,
            available=available,
            free=free,
            owned=wanted.owned,
        )


def _left(free: int, taken: int, parts: int) -> int:
    """Return how much more of what is free one may be promised, with what one has taken of it."""
    return max((free + taken) // parts - taken, 0)
