"""Write a connection as the JSON document and the rows that it is on disk, and read it back.

The document's size does not grow with a connection's age. The rows, JSON arrays, do: ``signed``, a commit to the hub
(a later row of that hash replaces it); ``held``, one from it; ``back``, one that was given back; ``own``, an own hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from picopayments_cli.channel.counterparty import asset_members
from picopayments_cli.channel.deadlines import Expiry
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.facts import Counter, Sent
from picopayments_cli.channel.fees import FeeFrac
from picopayments_cli.channel.halves import Closing, Commit, Remainder
from picopayments_cli.channel.kept import Count
from picopayments_cli.channel.keys import XOnly
from picopayments_cli.channel.messages import CloseRequest, SyncRequest
from picopayments_cli.channel.payment_request import SALT_SIZE, TOKEN_SIZE, Requested
from picopayments_cli.channel.scripts import DepositScript
from picopayments_cli.channel.state import Handed, Held, Receiving, Sending, Signed
from picopayments_cli.channel.transactions import Contract
from picopayments_cli.channel.values import (
    HANDLE_SIZE,
    HASH_SIZE,
    PUBKEY_SIZE,
    SECRET_SIZE,
    Coin,
    Handle,
    Hash,
    Outpoint,
    Pubkey,
    Quantity,
    Secret,
    Token,
    check_quantity,
    from_hex,
)
from picopayments_cli.channel.wire import MAX_TIME, PROTOCOL, Payment, kept_terms, terms_json
from picopayments_cli.client import kinds
from picopayments_cli.client.connection import STAGES, Connection, Ending, Pending, Rows
from picopayments_cli.errors import BadReply

Row = list[Any]


def to_document(connection: Connection) -> dict[str, Any]:
    """Write a connection as a JSON document, without its handle and its rows."""
    duplex, pending = connection.duplex, connection.pending
    return {
        "protocol": PROTOCOL,
        "hub_url": connection.hub_url,
        "hub_key": connection.hub_key.hex(),
        **asset_members(connection.asset, connection.longname),
        "terms": terms_json(connection.terms),
        "salt": connection.salt.hex(),
        "stage": connection.stage,
        "expiry": [connection.expiry.height, connection.expiry.time],
        "c2h": _sending_json(duplex.sending),
        "h2c": _receiving_json(duplex.receiving),
        "close_signed": duplex.close_signed,
        "proposal": dict(connection.proposal),
        "deposit": connection.deposit_raw.hex(),
        "hub_deposit": _hex(connection.hub_deposit),
        "counted": list(connection.counted),
        "queue": [_payment_json(payment) for payment in connection.queue],
        "pending": pending
        and {
            "bodies": [dict(body) for body in pending.bodies],
            "payments": [_payment_json(payment) for payment in pending.payments],
            "cause": pending.cause,
        },
        "owed": connection.owed,
        "ending": _ending_json(connection.ending),
        "sent": [[_sent_json(item) for item in side] for side in connection.sent],
        "publishing": connection.publishing,
        "published": list(connection.published),
        "final": connection.final,
        "requests": [_requested_json(item) for item in connection.requests],
        "receipts_due": [token.hex() for token in connection.receipts_due],
        "deposit_by": connection.deposit_by,
        "lock_due": connection.lock_due,
        "counter": connection.counter,
        "count": connection.count and dict(connection.count),
        "jumps": [list(item) for item in connection.jumps],
        "restored": connection.restored,
        "unproven": connection.unproven,
        "taken_back": connection.taken_back,
    }


def rows_between(before: Connection | None, after: Connection) -> list[Row]:
    """List the rows that lead from one value of a connection to a later one."""
    old = Rows() if before is None else before.rows
    had = {} if before is None else {item.revoke_hash: item for item in before.duplex.receiving.active}
    has = {item.revoke_hash: item for item in after.duplex.receiving.active}
    changed = [item for name, item in after.rows.signed.items() if old.signed.get(name) != item]
    return [
        *(["own", item.hex()] for item in sorted(after.rows.own - old.own)),
        *map(signed_row, changed),
        *(held_row(item) for name, item in has.items() if had.get(name) != item),
        *(["back", name.hex()] for name in had if name not in has),
    ]


def signed_row(item: Signed) -> Row:
    """Write the row of a commit that was signed."""
    return ["signed", item.quantity, item.revoke_hash.hex(), _hex(item.remainder), _hex(item.secret)]


def held_row(item: Held) -> Row:
    """Write the row of a commit that is held."""
    return ["held", *_commit_json(item.commit), item.number]


def from_document(handle: Handle, document: Mapping[str, Any]) -> Connection:
    """Read a connection and its rows. Raises KeyError, TypeError, ValueError, PicopaymentsError where damaged."""
    if document["protocol"] != PROTOCOL or document["stage"] not in STAGES:
        raise ValueError("it is of another protocol, or in no such stage")
    height, time = (kinds.whole(item) for item in kinds.items(document["expiry"]))
    publishing, pending = document["publishing"], document["pending"]
    rows, held = _read_rows(kinds.items(document["rows"]))
    sent = [tuple(_sent(item) for item in kinds.items(side)) for side in kinds.items(document["sent"])]
    counted = [None if item is None else kinds.whole(item) for item in kinds.items(document["counted"])]
    return Connection(
        handle=handle,
        hub_url=kinds.text(document["hub_url"]),
        hub_key=Pubkey(from_hex(document["hub_key"], "hub's key", PUBKEY_SIZE)),
        asset=kinds.text(document["asset"]),
        terms=kept_terms(document["terms"]),
        salt=bytes.fromhex(document["salt"]),
        duplex=Duplex(
            replace(_sending(document["c2h"]), active=_active(rows)),
            replace(_receiving(document["h2c"]), active=tuple(sorted(held, key=lambda item: item.quantity))),
            kinds.switch(document["close_signed"]),
        ),
        expiry=Expiry(height, time),
        stage=document["stage"],
        proposal=kinds.members(document["proposal"]),
        deposit_raw=bytes.fromhex(document["deposit"]),
        hub_deposit=_bytes(document["hub_deposit"]),
        counted=(counted[0], counted[1]),
        rows=rows,
        queue=_payments(document["queue"]),
        pending=None if pending is None else _pending(pending),
        owed=kinds.whole(document["owed"]),
        ending=_ending(document["ending"]),
        sent=(sent[0], sent[1]),
        publishing=None if publishing is None else (kinds.text(publishing[0]), _txid(publishing[1])),
        published=tuple(_txid(item) for item in kinds.items(document["published"])),
        final=kinds.switch(document["final"]),
        requests=tuple(_requested(item) for item in kinds.items(document["requests"])),
        receipts_due=tuple(_token(item) for item in kinds.items(document["receipts_due"])),
        deposit_by=None if document.get("deposit_by") is None else kinds.whole(document["deposit_by"]),
        lock_due=kinds.whole(document.get("lock_due", 0)),
        counter=kinds.whole(document.get("counter", 0)),
        count=_count(document.get("count")),
        jumps=tuple(_jump(item) for item in kinds.items(document.get("jumps", []))),
        restored=kinds.switch(document.get("restored", False)),
        unproven=kinds.switch(document.get("unproven", False)),
        taken_back=kinds.whole(document.get("taken_back", 0)),
        longname=None if document.get("asset_longname") is None else kinds.text(document["asset_longname"]),
    )


def _count(told: Any) -> Mapping[str, Any] | None:
    """Read the count that a hub has signed, as it signed it. Raises TypeError, ValueError."""
    if told is None:
        return None
    try:
        Count.parse(told)
    except BadReply as error:
        raise ValueError("it is no count") from error
    return kinds.members(told)


# Rows ---------------------------------------------------------------------------------------------------------------


def _read_rows(lines: Sequence[Any]) -> tuple[Rows, list[Held]]:
    signed: dict[Hash, Signed] = {}
    held: dict[Hash, Held] = {}
    own: set[Hash] = set()
    for kind, *items in map(kinds.items, lines):
        if kind == "own":
            own.add(_hash(items[0]))
        elif kind == "back":
            held.pop(_hash(items[0]), None)
        elif kind == "held":
            commit = _commit(items[:4])
            held[commit.revoke_hash] = Held(commit, kinds.whole(items[4]))
        elif kind == "signed":
            row = Signed(_quantity(items[0]), _hash(items[1]), _bytes(items[2]), _secret(items[3]))
            signed[row.revoke_hash] = row
        else:
            raise ValueError("a row is of no kind that is known")
    return Rows(signed, frozenset(own)), list(held.values())


def _active(rows: Rows) -> tuple[Signed, ...]:
    return tuple(sorted((row for row in rows.signed.values() if row.secret is None), key=lambda row: row.quantity))


# Channels -----------------------------------------------------------------------------------------------------------


def _contract_json(contract: Contract) -> dict[str, Any]:
    deposit = contract.deposit
    return {
        "script": [str(deposit.payer), str(deposit.payee), deposit.height],
        "wallets": [contract.payer_wallet.hex(), contract.payee_wallet.hex()],
        "asset_id": str(contract.asset_id),
        "quantity": contract.quantity,
        "delay": contract.delay,
        "fee_rate": contract.rate,
    }


def _contract(body: Mapping[str, Any]) -> Contract:
    payer, payee, height = body["script"]
    wallets = [bytes.fromhex(item) for item in kinds.items(body["wallets"])]
    return Contract(
        DepositScript(XOnly(bytes.fromhex(payer)), XOnly(bytes.fromhex(payee)), kinds.whole(height)),
        wallets[0],
        wallets[1],
        int(kinds.text(body["asset_id"])),
        _quantity(body["quantity"]),
        kinds.whole(body["delay"]),
        kinds.whole(body["fee_rate"]),
    )


def _anchor_json(anchor: Coin | None) -> list[Any] | None:
    return None if anchor is None else [str(anchor.outpoint), anchor.value]


def _anchor(item: Any, contract: Contract) -> Coin | None:
    if item is None:
        return None
    return Coin(Outpoint.parse(kinds.text(item[0])), kinds.whole(item[1]), contract.deposit.output, None)


def _sending_json(side: Sending) -> dict[str, Any]:
    anchor, requested = _anchor_json(side.anchor), [item.hex() for item in side.requested]
    return {**_contract_json(side.contract), "anchor": anchor, "requested": requested}


def _sending(body: Mapping[str, Any]) -> Sending:
    contract = _contract(body)
    requested = tuple(_hash(item) for item in kinds.items(body["requested"]))
    return Sending(contract, _anchor(body["anchor"], contract), requested)


def _receiving_json(side: Receiving) -> dict[str, Any]:
    return {
        **_contract_json(side.contract),
        "anchor": _anchor_json(side.anchor),
        "requested": [[item.revoke_hash.hex(), item.number] for item in side.requested],
        "newest": None if side.newest is None else _commit_json(side.newest),
        "owing": side.owing,
        "half_left": side.half_left,
        "next_number": side.next_number,
    }


def _receiving(body: Mapping[str, Any]) -> Receiving:
    contract = _contract(body)
    return Receiving(
        contract,
        _anchor(body["anchor"], contract),
        tuple(Handed(_hash(item), kinds.whole(number)) for item, number in kinds.items(body["requested"])),
        newest=None if body["newest"] is None else _commit(body["newest"]),
        owing=kinds.switch(body["owing"]),
        half_left=kinds.switch(body["half_left"]),
        next_number=kinds.whole(body["next_number"]),
    )


def _commit_json(commit: Commit) -> Row:
    return [commit.quantity, commit.revoke_hash.hex(), commit.signature.hex(), commit.payout_signature.hex()]


def _commit(items: Any) -> Commit:
    quantity, revoke_hash, signature, payout_signature = kinds.items(items)
    return Commit(_quantity(quantity), _hash(revoke_hash), bytes.fromhex(signature), bytes.fromhex(payout_signature))


# The end ------------------------------------------------------------------------------------------------------------


def _ending_json(ending: Ending) -> dict[str, Any]:
    return {
        "since": ending.since,
        "asked": None if ending.asked is None else dict(ending.asked),
        "counters": [[item.quantity, _hex(item.signature)] for item in ending.counters],
        "closings": [[item.quantity, item.signature.hex(), _hex(item.rest_signature)] for item in ending.closings],
        "remainders": [[item.quantity, item.revoke_hash.hex(), item.signature.hex()] for item in ending.remainders],
        "told": ending.told,
        "rival": ending.rival,
    }


def _ending(body: Mapping[str, Any]) -> Ending:
    asked, rival = body["asked"], body["rival"]
    if asked is not None:
        CloseRequest.parse(asked)
    return Ending(
        None if body["since"] is None else kinds.whole(body["since"]),
        None if asked is None else kinds.members(asked),
        tuple(
            Counter(kinds.whole(quantity), _bytes(signature)) for quantity, signature in kinds.items(body["counters"])
        ),
        tuple(
            Closing(kinds.whole(quantity), bytes.fromhex(signature), _bytes(rest))
            for quantity, signature, rest in kinds.items(body["closings"])
        ),
        tuple(
            Remainder(_quantity(quantity), _hash(revoke_hash), bytes.fromhex(signature))
            for quantity, revoke_hash, signature in kinds.items(body["remainders"])
        ),
        kinds.switch(body["told"]),
        None if rival is None else _txid(rival),
    )


def _sent_json(sent: Sent) -> Row:
    coins = [[str(coin.outpoint), coin.value, coin.script.hex(), coin.height] for coin in sent.coins]
    return [sent.txid.hex(), str(sent.spends), sent.feefrac.fee, sent.feefrac.size, coins]


def _sent(items: Any) -> Sent:
    txid, spends, fee, size, listed = kinds.items(items)
    coins = tuple(
        Coin(Outpoint.parse(kinds.text(outpoint)), kinds.whole(value), bytes.fromhex(script), height)
        for outpoint, value, script, height in kinds.items(listed)
    )
    return Sent(
        from_hex(txid, "txid", 32),
        Outpoint.parse(kinds.text(spends)),
        FeeFrac(kinds.whole(fee), kinds.whole(size)),
        coins,
    )


def _pending(body: Mapping[str, Any]) -> Pending:
    bodies = tuple(kinds.members(item) for item in kinds.items(body["bodies"]))
    for item in bodies:
        SyncRequest.parse(item)
    if not bodies:
        raise ValueError("a sync that waits for its answer has a body")
    cause = body["cause"]
    return Pending(bodies, _payments(body["payments"]), None if cause is None else kinds.text(cause))


def _requested_json(item: Requested) -> Row:
    return [item.token.hex(), item.salt.hex(), item.quantity, item.expires, _hex(item.payer), item.given]


def _requested(items: Any) -> Requested:
    token, salt, quantity, expires, payer, given = kinds.items(items)
    return Requested(
        _token(token),
        from_hex(salt, "salt", SALT_SIZE),
        check_quantity(quantity),
        _time(expires),
        None if payer is None else Handle(from_hex(payer, "payer", HANDLE_SIZE)),
        kinds.switch(given),
    )


def _time(value: Any) -> int:
    if kinds.whole(value) > MAX_TIME:
        raise ValueError("it should be a time")
    return int(value)


def _token(value: Any) -> Token:
    return Token(from_hex(value, "token", TOKEN_SIZE))


def _jump(items: Any) -> tuple[int, int]:
    at, to = (kinds.whole(item) for item in kinds.items(items))
    return at, to


# A document may hold anything. A value of another kind is refused here, not where it is used. -------------------


def _quantity(value: Any) -> Quantity:
    return Quantity(kinds.whole(value))


def _hash(value: Any) -> Hash:
    return Hash(from_hex(value, "hash", HASH_SIZE))


def _txid(value: Any) -> str:
    return from_hex(value, "txid", 32).hex()


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def _secret(text: str | None) -> Secret | None:
    return None if text is None else Secret(from_hex(text, "secret", SECRET_SIZE))


def _payment_json(payment: Payment) -> dict[str, Any]:
    told = {"payee": _hex(payment.payee), "amount": payment.amount, "token": payment.token.hex()}
    return told if payment.expires is None else {**told, "expires": payment.expires}


def _payment(body: Mapping[str, Any]) -> Payment:
    payee = None if body["payee"] is None else Handle(from_hex(body["payee"], "payee", HANDLE_SIZE))
    expires = None if body.get("expires") is None else _time(body["expires"])
    return Payment(payee, check_quantity(body["amount"]), Token(bytes.fromhex(body["token"])), expires)


def _payments(value: Any) -> tuple[Payment, ...]:
    return tuple(_payment(item) for item in kinds.items(value))
