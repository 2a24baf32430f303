"""One connection as the hub knows it: a value, and how it becomes rows of the database and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any

from sqlalchemy import Row

from picopayments_cli.channel.stages import REQUESTED
from picopayments_cli.channel.values import Handle, Hash, Pubkey, Quantity, Secret, Token
from picopayments_cli.channel2.document import agreement_json, channel_of
from picopayments_cli.channel2.duplex import Duplex
from picopayments_cli.channel2.keys import Key, Secrets
from picopayments_cli.channel2.state import KEPT_REQUESTS, Commit, Revoked
from picopayments_cli.channel2.terms import Terms
from picopayments_cli.errors import UnknownHandle

WAITING, LISTED, DONE, RETURNED = "waiting", "listed", "done", "returned"


@dataclass(frozen=True)
class Waiting:
    """A payment booked to a connection and not yet in a reply to it."""

    number: int
    payer: Handle
    amount: Quantity
    token: Token


@dataclass(frozen=True)
class Account:
    """A connection as the hub knows it: it sends on h2c and receives on c2h.

    ``due``: what the hub owes the client beyond what has moved. ``unchecked``: the client's hashes for commits whose
    addresses have not been looked at yet. ``due_height``: when it must settle; before mph_deposit, when it is
    forgotten; once closed, when that was. ``listed``: whether the last reply listed payments.
    ``numbers``: of the hub's own revoke hashes. ``client_secret``: the spend secret of h2c, that the client gave at its
    close; ``revealed``: whether the hub's own has left. ``deposit_raw``, ``commit_raw``: signed, ready to publish.
    ``restored``: whether its newest state may be missing, and its client has not told it yet.
    """

    handle: Handle
    client: Pubkey
    asset: str
    asset_id: int
    terms: Terms
    salt: bytes = field(repr=False)
    client_hash: Hash
    stage: str = REQUESTED
    duplex: Duplex | None = None
    agreed_height: int = 0
    deposit_digest: bytes = b""
    deposit_reply: str = ""
    deposit_raw: bytes | None = None
    commit_raw: bytes | None = None
    client_secret: Secret | None = field(default=None, repr=False)
    revealed: bool = False
    restored: bool = False
    due: int = 0
    next_number: int = 0
    unchecked: tuple[Hash, ...] = ()
    due_height: int = 0
    listed: bool = False
    last_hash: Hash | None = None
    last_reply: str | None = None
    version: int = 0
    waiting: tuple[Waiting, ...] = ()
    numbers: Mapping[Hash, int] = field(default_factory=dict, compare=False)

    def secrets(self, key: Key) -> Secrets:
        """Return the hub's own secrets of this connection."""
        return Secrets(key, self.salt)

    @property
    def channels(self) -> Duplex:
        """Return the two channels. Raises UnknownHandle before mph_deposit has made them."""
        if self.duplex is None:
            raise UnknownHandle("The connection has no deposit yet: call mph_deposit first.", handle=self.handle.hex())
        return self.duplex


# Rows ---------------------------------------------------------------------------------------------------------------


def numbers_in_use(account: Account) -> Mapping[Hash, int]:
    """Return the numbers without those of hashes that are gone; look through them once these make up half."""
    if account.duplex is None:
        return account.numbers
    receiving = account.duplex.receiving
    if len(account.numbers) <= 2 * (len(receiving.active) + KEPT_REQUESTS):
        return account.numbers
    in_use = (*receiving.requested, *(item.revoke_hash for item in receiving.active))
    return {item: account.numbers[item] for item in in_use}


_OF_A_SYNC = {"duplex", "due", "next_number", "unchecked", "listed", "last_hash", "last_reply"}
_OF_A_SYNC |= {"version", "waiting", "numbers"}
_rarely_changed = attrgetter(*(item.name for item in fields(Account) if item.name not in _OF_A_SYNC))
_deposit = attrgetter("script", "quantity", "delay", "anchor")


def fixed_part(account: Account) -> tuple[object, ...]:
    """Return as one value what ``fixed_row`` writes: two are equal where nothing of it has changed."""
    pair = account.duplex
    return (_rarely_changed(account), pair and (_deposit(pair.sending), _deposit(pair.receiving)))


def head_row(account: Account) -> dict[str, Any]:
    """Return the row of ``heads``, without its handle."""
    return {
        "version": account.version,
        "head": json.dumps(_head(account)),
        "last_hash": account.last_hash,
        "last_reply": account.last_reply,
    }


def _head(account: Account) -> dict[str, Any]:
    head: dict[str, Any] = {"due": account.due, "next": account.next_number, "listed": account.listed}
    if account.duplex is not None:
        head["unchecked"] = [item.hex() for item in account.unchecked]
        head["asked"] = [item.hex() for item in account.duplex.sending.requested]
        head["given"] = [[item.hex(), account.numbers[item]] for item in account.duplex.receiving.requested]
    return head


def fixed_row(account: Account) -> dict[str, Any]:
    """Return the row of ``connections``, without its handle."""
    duplex = account.duplex
    return {
        "stage": account.stage,
        "fixed": _fixed_text(account),
        "sending_script": duplex.sending.script.output if duplex else None,
        "receiving_script": duplex.receiving.script.output if duplex else None,
        "due_height": account.due_height,
    }


def _fixed_text(account: Account) -> str:
    fixed: dict[str, Any] = {
        "client": account.client.hex(),
        "asset": account.asset,
        "asset_id": account.asset_id,
        "terms": account.terms.as_json(),
        "salt": account.salt.hex(),
        "client_hash": account.client_hash.hex(),
        "deposit_digest": account.deposit_digest.hex(),
        "deposit_reply": account.deposit_reply,
        "deposit_raw": account.deposit_raw.hex() if account.deposit_raw else None,
        "commit_raw": account.commit_raw.hex() if account.commit_raw else None,
        "client_secret": account.client_secret.hex() if account.client_secret else None,
        "revealed": account.revealed,
        "restored": account.restored,
        "agreed_height": account.agreed_height,
    }
    if account.duplex is not None:
        fixed["sending"] = agreement_json(account.duplex.sending)
        fixed["receiving"] = agreement_json(account.duplex.receiving)
    return json.dumps(fixed)


def account_of(row: Row[Any], commits: Iterable[Row[Any]], pending: Iterable[Row[Any]]) -> Account:
    """Build a connection from its rows; ``row`` joins ``connections`` and ``heads``."""
    fixed, head = json.loads(row.fixed), json.loads(row.head)
    account = Account(
        handle=Handle(bytes(row.handle)),
        client=Pubkey(bytes.fromhex(fixed["client"])),
        asset=fixed["asset"],
        asset_id=fixed["asset_id"],
        terms=Terms.parse(fixed["terms"]),
        salt=bytes.fromhex(fixed["salt"]),
        client_hash=Hash(bytes.fromhex(fixed["client_hash"])),
        stage=row.stage,
        agreed_height=fixed["agreed_height"],
        deposit_digest=bytes.fromhex(fixed["deposit_digest"]),
        deposit_reply=fixed["deposit_reply"],
        deposit_raw=_optional_bytes(fixed["deposit_raw"]),
        commit_raw=_optional_bytes(fixed["commit_raw"]),
        client_secret=Secret(secret) if (secret := _optional_bytes(fixed["client_secret"])) else None,
        revealed=fixed["revealed"],
        restored=fixed.get("restored", False),
        due=head["due"],
        unchecked=tuple(Hash(bytes.fromhex(text)) for text in head.get("unchecked", ())),
        due_height=row.due_height,
        next_number=head["next"],
        listed=head["listed"],
        last_hash=Hash(bytes(row.last_hash)) if row.last_hash else None,
        last_reply=row.last_reply,
        version=row.version,
    )
    return _with_channels(account, fixed, head, commits, pending) if "sending" in fixed else account


def _optional_bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _with_channels(
    account: Account,
    fixed: dict[str, Any],
    head: dict[str, Any],
    commits: Iterable[Row[Any]],
    pending: Iterable[Row[Any]],
) -> Account:
    sent: list[Commit] = []
    received: list[Commit] = []
    revoked: list[Revoked] = []
    numbers: dict[Hash, int] = {}
    for row in commits:
        made = Commit(Quantity(row.quantity), Hash(bytes(row.revoke_hash)), bytes(row.signature))
        if row.revoked:
            revoked.append(Revoked(made.quantity, made.revoke_hash, Secret(bytes(row.secret))))
        elif row.sent:
            sent.append(made)
        else:
            received.append(made)
            numbers[made.revoke_hash] = row.number
    given = [(Hash(bytes.fromhex(text)), number) for text, number in head["given"]]
    numbers.update(given)
    asked = tuple(Hash(bytes.fromhex(text)) for text in head["asked"])
    sending = channel_of(fixed["sending"], account.asset_id, account.terms.fee_rate)
    sending = replace(sending, requested=asked, active=tuple(sent), revoked=tuple(revoked))
    receiving = channel_of(fixed["receiving"], account.asset_id, account.terms.fee_rate)
    receiving = replace(receiving, requested=tuple(item for item, _ in given), active=tuple(received))
    waiting = tuple(
        Waiting(row.number, Handle(bytes(row.payer)), Quantity(row.amount), Token(bytes(row.token)))
        for row in pending
        if row.state == WAITING
    )
    return replace(account, duplex=Duplex(sending, receiving), waiting=waiting, numbers=numbers)
