"""One connection as the hub knows it: a value, and how it becomes rows of the database and back.

Only the highest commits are loaded, see ``channel.state``: what a sync costs does not grow with the syncs before it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

from sqlalchemy import Row

from picopayments_cli.channel.deadlines import Expiry
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.halves import Commit
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.opening import Party, Stake, contract_of
from picopayments_cli.channel.stages import AGREED, CLOSING, REQUESTED
from picopayments_cli.channel.state import Handed, Held, Receiving, Sending, Signed
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.transactions import Contract
from picopayments_cli.channel.values import Coin, Handle, Hash, Outpoint, Pubkey, Quantity, Secret, Token
from picopayments_cli.channel.wire import Reader, commit_json, kept_terms, party_json, stake_json, terms_json
from picopayments_cli.errors import DatabaseUnusable, UnknownHandle

# States of a payment. One is stranded whose payer and payee both have closed.
WAITING, LISTED, DONE, RETURNED, STRANDED = "waiting", "listed", "done", "returned", "stranded"


@dataclass(frozen=True)
class Waiting:
    """A payment booked to a connection and not yet in a reply to it. ``time``: when, by the hub's clock (Unix time)."""

    number: int
    payer: Handle
    amount: Quantity
    token: Token
    time: int


@dataclass(frozen=True)
class Queue:
    """All that waits for a connection: so many payments, and their sum. It is false where nothing does."""

    count: int = 0
    amount: int = 0

    def __bool__(self) -> bool:
        return self.count > 0

    def __add__(self, other: Queue) -> Queue:
        return Queue(self.count + other.count, self.amount + other.amount)

    def __sub__(self, other: Queue) -> Queue:
        return Queue(self.count - other.count, self.amount - other.amount)


@dataclass(frozen=True)
class Agreement:
    """The agreement that mph_deposit fixed: when both deposits expire, and what is agreed of each channel."""

    expiry: Expiry
    c2h: Stake
    h2c: Stake


@dataclass(frozen=True)
class Fixed:
    """All that mph_deposit fixes for good. ``client_salt`` is kept for the client; ``salt``: the hub's."""

    client: Pubkey
    asset: str
    asset_id: int
    terms: Terms
    parties: tuple[Party, Party]  # the client's, the hub's
    client_salt: bytes
    salt: bytes = field(repr=False)
    agreement: Agreement | None = None

    @cached_property
    def contracts(self) -> tuple[Contract, Contract]:
        """Of the channel that the hub sends on, and of the other. Raises as ``contract_of``, and UnknownHandle."""
        agreed, (client, hub) = self.agreed, self.parties
        height = agreed.expiry.height
        return (
            contract_of(hub, client, self.asset_id, height, agreed.h2c),
            contract_of(client, hub, self.asset_id, height, agreed.c2h),
        )

    @property
    def agreed(self) -> Agreement:
        """Return what was agreed on. Raises UnknownHandle before mph_deposit."""
        if self.agreement is None:
            raise UnknownHandle("The connection has no deposit yet: call mph_deposit first.")
        return self.agreement

    def secrets(self, key: Key) -> Secrets:
        """The hub's own keys and secrets of this connection."""
        return Secrets(key, self.salt)


@dataclass(frozen=True)
class Account:
    """A connection as the hub knows it: it sends on h2c and receives on c2h.

    ``due``: what the hub owes the client beyond what has moved. ``lock_due``: what the client owes for locking the
    hub's deposit, which is not made before. ``due_height``: when it must settle; before
    mph_deposit, when it is forgotten; once closed, when that was. ``since``: the tip when it was stopped. ``stale``:
    whether its newest state may be missing here. ``listed``: whether the last reply listed payments. ``deposit_raw``:
    the hub's own deposit. ``counter``: of the last sync. ``last_request``: the text of the newest request with the
    client's state, where this value brings one; it is not read with the others.
    """

    handle: Handle
    fixed: Fixed
    stage: str = REQUESTED
    due_height: int = 0
    duplex: Duplex | None = None
    deposit_digest: bytes | None = None
    deposit_reply: str | None = None
    deposit_raw: bytes | None = field(default=None, repr=False)
    since: int | None = None
    stale: bool = False
    close_digest: bytes | None = None
    close_reply: str | None = field(default=None, repr=False)
    due: int = 0
    lock_due: int = 0
    listed: bool = False
    last_hash: Hash | None = None
    last_reply: str | None = field(default=None, repr=False)
    last_request: str | None = field(default=None, repr=False)
    counter: int = 0
    version: int = 0
    waiting: Queue = Queue()

    @property
    def channels(self) -> Duplex:
        """The two channels. Raises UnknownHandle before mph_deposit has made them."""
        if self.duplex is None:
            raise UnknownHandle("The connection has no deposit yet: call mph_deposit first.", handle=self.handle.hex())
        return self.duplex

    @property
    def is_promise(self) -> bool:
        """Whether the hub's deposit is still to come, and what it is made of kept for it.

        One that has left may be mined however the connection ends, and until then the wallet seems to hold it.
        """
        leaves = self.stage == CLOSING and self.deposit_raw is not None
        to_come = self.duplex is None or self.duplex.sending.anchor is None
        return to_come and (leaves or self.stage in (REQUESTED, AGREED))

    @property
    def pending(self) -> int:
        """Return what is to be moved to the client: what is due, and the payments that wait."""
        return self.due + self.waiting.amount


# The fixed part -----------------------------------------------------------------------------------------------------


def fixed_text(fixed: Fixed) -> str:
    """Return what never changes, as its column holds it."""
    client, hub = fixed.parties
    told: dict[str, Any] = {
        "client": fixed.client.hex(),
        "asset": fixed.asset,
        "asset_id": fixed.asset_id,
        "terms": terms_json(fixed.terms),
        "client_party": party_json(client),
        "hub_party": party_json(hub),
        "client_salt": fixed.client_salt.hex(),
        "salt": fixed.salt.hex(),
    }
    if fixed.agreement is not None:
        agreed = fixed.agreement
        told |= {"height": agreed.expiry.height, "time": agreed.expiry.time}
        told |= {"c2h": stake_json(agreed.c2h), "h2c": stake_json(agreed.h2c)}
    return json.dumps(told)


@lru_cache(maxsize=8192)
def fixed_of(text: str) -> Fixed:
    """The fixed part of its column; remembered, as the scripts in it take a while to make."""
    told = json.loads(text)
    reader = Reader(told, DatabaseUnusable)
    agreement = None
    if "height" in told:
        agreement = Agreement(Expiry(told["height"], told["time"]), reader.stake("c2h"), reader.stake("h2c"))
    return Fixed(
        Pubkey(bytes.fromhex(told["client"])),
        told["asset"],
        told["asset_id"],
        kept_terms(told["terms"]),
        (reader.party("client_party"), reader.party("hub_party")),
        bytes.fromhex(told["client_salt"]),
        bytes.fromhex(told["salt"]),
        agreement,
    )


# The rows -----------------------------------------------------------------------------------------------------------


def fixed_row(account: Account) -> dict[str, Any]:
    """The row of ``connections``, without its handle."""
    duplex, agreed = account.duplex, account.fixed.agreement
    return {
        "asset": account.fixed.asset,
        "agreed_at": None if agreed is None else agreed.expiry.height - agreed.expiry.time,
        "expiry": None if agreed is None else agreed.expiry.height,
        "promised": None if agreed is None else agreed.h2c.quantity,
        "client": account.fixed.client,
        "stage": account.stage,
        "due_height": account.due_height,
        "fixed": fixed_text(account.fixed),
        "deposit_digest": account.deposit_digest,
        "deposit_reply": account.deposit_reply,
        "deposit_raw": account.deposit_raw,
        "c2h_anchor": None if duplex is None else _coin_text(duplex.receiving.anchor),
        "h2c_anchor": None if duplex is None else _coin_text(duplex.sending.anchor),
        "since": account.since,
        "stale": account.stale,
        "close_digest": account.close_digest,
        "close_reply": account.close_reply,
    }


def rarely_changed(account: Account) -> tuple[object, ...]:
    """Return what ``fixed_row`` writes, as one value: two are equal where nothing of it has changed."""
    duplex = account.duplex
    return (
        *(account.fixed, account.stage, account.due_height, account.deposit_digest, account.deposit_raw),
        *(account.since, account.stale, account.close_digest, account.close_reply),
        None if duplex is None else (duplex.receiving.anchor, duplex.sending.anchor),
    )


def head_row(account: Account) -> dict[str, Any]:
    """The row of ``heads``, without its handle and ``last_request``."""
    return {
        "version": account.version,
        "head": json.dumps(_head(account)),
        "last_hash": account.last_hash,
        "last_reply": account.last_reply,
    }


def _head(account: Account) -> dict[str, Any]:
    head: dict[str, Any] = {"due": account.due, "lock_due": account.lock_due, "listed": account.listed}
    head["counter"] = account.counter
    if account.duplex is not None:
        receiving = account.duplex.receiving
        head |= {
            "asked": [item.hex() for item in account.duplex.sending.requested],
            "given": [[item.revoke_hash.hex(), item.number] for item in receiving.requested],
            "next": receiving.next_number,
            "newest": commit_json(receiving.newest),
            "owing": receiving.owing,
            "half_left": receiving.half_left,
            "close_signed": account.duplex.close_signed,
        }
    return head


def _coin_text(coin: Coin | None) -> str | None:
    return None if coin is None else f"{coin.outpoint} {coin.value}"


def _coin_of(text: str | None, script: bytes) -> Coin | None:
    if text is None:
        return None
    outpoint, value = text.split()
    return Coin(Outpoint.parse(outpoint), int(value), script, None)


def account_of(row: Row[Any], waiting: Queue) -> Account:
    """A connection from its rows, without any commit; ``row`` joins ``connections`` and ``heads``."""
    fixed, head = fixed_of(row.fixed), json.loads(row.head)
    account = Account(
        Handle(bytes(row.handle)),
        fixed,
        row.stage,
        row.due_height,
        deposit_digest=_bytes(row.deposit_digest),
        deposit_reply=row.deposit_reply,
        deposit_raw=_bytes(row.deposit_raw),
        since=row.since,
        stale=bool(row.stale),
        close_digest=_bytes(row.close_digest),
        close_reply=row.close_reply,
        due=head["due"],
        lock_due=head.get("lock_due", 0),
        listed=head["listed"],
        last_hash=None if row.last_hash is None else Hash(bytes(row.last_hash)),
        last_reply=row.last_reply,
        counter=head.get("counter", 0),
        version=row.version,
        waiting=waiting,
    )
    return account if fixed.agreement is None else replace(account, duplex=_duplex_of(fixed, row, head))


def _duplex_of(fixed: Fixed, row: Row[Any], head: dict[str, Any]) -> Duplex:
    of_sending, of_receiving = fixed.contracts
    newest = None if head["newest"] is None else Reader(head, DatabaseUnusable).commit("newest")
    return Duplex(
        Sending(
            of_sending,
            _coin_of(row.h2c_anchor, of_sending.deposit.output),
            tuple(Hash(bytes.fromhex(text)) for text in head["asked"]),
        ),
        Receiving(
            of_receiving,
            _coin_of(row.c2h_anchor, of_receiving.deposit.output),
            tuple(Handed(Hash(bytes.fromhex(text)), number) for text, number in head["given"]),
            newest=newest,
            owing=head["owing"],
            half_left=head["half_left"],
            next_number=head["next"],
        ),
        head["close_signed"],
    )


def waiting_of(row: Row[Any]) -> Waiting:
    """A payment that waits."""
    return Waiting(row.number, Handle(bytes(row.payer)), Quantity(row.amount), Token(bytes(row.token)), row.time)


# Commits ------------------------------------------------------------------------------------------------------------


def signed_row(handle: Handle, item: Signed) -> dict[str, Any]:
    """The row of a commit that the hub signed."""
    return {
        **{"handle": handle, "revoke_hash": item.revoke_hash, "sent": True, "active": item.secret is None},
        **{"quantity": item.quantity, "remainder": item.remainder, "secret": item.secret},
        **{"number": None, "signature": None, "payout_signature": None},
    }


def held_row(handle: Handle, item: Held) -> dict[str, Any]:
    """The row of a commit that the hub received."""
    made = item.commit
    return {
        **{"handle": handle, "revoke_hash": made.revoke_hash, "sent": False, "active": True},
        **{"quantity": made.quantity, "remainder": None, "secret": None},
        **{"number": item.number, "signature": made.signature, "payout_signature": made.payout_signature},
    }


def signed_of(row: Row[Any]) -> Signed:
    """A commit that the hub signed."""
    secret = _bytes(row.secret)
    return Signed(
        Quantity(row.quantity),
        Hash(bytes(row.revoke_hash)),
        _bytes(row.remainder),
        None if secret is None else Secret(secret),
    )


def held_of(row: Row[Any]) -> Held:
    """A commit that the hub received."""
    made = Commit(
        Quantity(row.quantity), Hash(bytes(row.revoke_hash)), bytes(row.signature), bytes(row.payout_signature)
    )
    return Held(made, row.number)


def _bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)
