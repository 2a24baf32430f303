"""What the original client (1.0.4) left in a basedir: its connections, to be settled on chain, and its history.

Its files are ``<network>.wif``, ``.cfg``, ``.data`` and ``.history.csv``. They are read where they lie, and what
becomes of a connection is kept in a document of ours beside them. Nobody knows the data's age: no new hash is handed
out.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from picopayments_cli.channel.counterparty import asset_id, message_of, unpack_send
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.facts import Facts
from picopayments_cli.channel.keys import Key, normalise, verify
from picopayments_cli.channel.messages import Payment
from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.scripts import CommitScript, DepositScript, commit_unlock, half_commit_unlock
from picopayments_cli.channel.stages import CLOSING
from picopayments_cli.channel.state import Channel, Commit, Revoked
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.transactions import (
    HASH_TYPE,
    Anchor,
    Draft,
    Input,
    Output,
    parse_transaction,
    spent_outpoints,
)
from picopayments_cli.channel.values import (
    HANDLE_SIZE,
    MAX_QUANTITY,
    SECRET_SIZE,
    Handle,
    Hash,
    Outpoint,
    Quantity,
    Secret,
    Token,
    hash_of,
)
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.history import Event
from picopayments_cli.errors import InvalidKey, PicopaymentsError, StoreDamaged, StoreUnusable

log = logging.getLogger(__name__)
BACKUP = ".1.0.4.backup"
_MARK = "hub_verify_ssl_cert"  # the original writes this setting into every settings file
_FEE_RATE = 37  # sat/vB, what its commits pay: a third of 54,000 satoshis for 481 bytes
_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, PicopaymentsError)


# Files --------------------------------------------------------------------------------------------------------------


def data_file(basedir: Path, network: Network) -> Path:
    """Where the original client kept its connections."""
    return basedir / f"{network.name}.data"


def _history_file(basedir: Path, network: Network) -> Path:
    return basedir / f"{network.name}.history.csv"


def make_private(basedir: Path, network: Network) -> None:
    """Take other users' access away from an original basedir's files, which it made as the umask had it.

    Raises StoreUnusable.
    """
    settings = basedir / f"{network.name}.cfg"
    files = (basedir / f"{network.name}.wif", settings, data_file(basedir, network), _history_file(basedir, network))
    with _usable(basedir):
        loose = [path for path in files if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
        if not loose or not (data_file(basedir, network).exists() or is_original_settings(settings)):
            return
        for path in loose:
            path.chmod(stat.S_IMODE(path.stat().st_mode) & 0o700)
            log.warning("%s could be opened by other users of this machine: it is private from here on", path)


def is_original_settings(path: Path) -> bool:
    """Whether the original client wrote a settings file. Raises StoreUnusable."""
    with _usable(path):
        return path.exists() and _MARK.encode() in path.read_bytes()


def keep_backup(path: Path) -> None:
    """Have a copy of an original file beside it; one that is there already is not touched. Raises StoreUnusable."""
    backup = path.with_name(path.name + BACKUP)
    if backup.exists() or not path.exists():
        return
    temporary = backup.with_name(backup.name + ".tmp")
    with _usable(backup):
        temporary.unlink(missing_ok=True)  # left by a process that was killed
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(path.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(backup)


def read_connections(path: Path, key: Key, hub_url: str) -> dict[Handle, Connection]:
    """The connections of a data file, as ``connection_of`` makes them; one that can't be made is named and left out.

    Raises StoreDamaged, StoreUnusable.
    """
    found: dict[Handle, Connection] = {}
    for text, kept in _read_data(path).items():
        try:
            handle = bytes.fromhex(text)
            if len(handle) != HANDLE_SIZE:
                raise ValueError(f"a handle has {HANDLE_SIZE} bytes")
            found[Handle(handle)] = connection_of(Handle(handle), kept, key, hub_url)
        except _UNREADABLE as error:
            log.warning(
                "connection %s of %s can't be settled by this program (%s: %s). It stays in that file as it is: keep "
                "the file and the wallet's, and report this.",
                text,
                path,
                type(error).__name__,
                error,
            )
    return found


def _read_data(path: Path) -> Mapping[str, Any]:
    with _usable(path):
        data = path.read_bytes()
    try:
        connections = json.loads(data)["connections"]
    except (ValueError, KeyError, TypeError, RecursionError):
        connections = None
    if not isinstance(connections, dict):
        raise StoreDamaged(
            f"{path} is not a data file of the original client. Restore it from your backup, or take it away; nothing "
            "was changed.",
            path=str(path),
        )
    return connections


def read_sent(basedir: Path, network: Network) -> list[Event]:
    """The payments that the original client has sent, as events, with what tells one payment from another only.

    One that can't be read is left out. Raises StoreDamaged, StoreUnusable.
    """
    path = data_file(basedir, network)
    found: list[Event] = []
    for handle, kept in (_read_data(path) if path.exists() else {}).items():
        with suppress(*_UNREADABLE):
            for item in kept.get("payments_sent") or []:
                payment = {"payee_handle": item["handle"], "amount": int(item["amount"]), "token": item["token"]}
                found.append({"handle": handle, "action": "sent", **payment})
    return found


def read_history(basedir: Path, network: Network) -> list[Event]:
    """The rows of the original client's history as events, in the order of the file. Raises StoreUnusable.

    They bear ``imported``, and ``id``, ``fee``, ``quantity`` and ``destination`` as text, as that client wrote them. A
    row that was cut off is left out.
    """
    path = _history_file(basedir, network)
    if not path.exists():
        return []
    with _usable(path):
        text = path.read_bytes().decode(errors="replace")
    events: list[Event] = []
    for row in _rows(text):
        if None in row.values():
            continue
        try:
            handle = bytes.fromhex(row["handle"]).hex()
            moment = datetime.fromtimestamp(float(row["timestamp"]), timezone.utc)
            rest = {name: row[name] for name in ("action", "id", "fee", "quantity", "destination") if row[name]}
        except _UNREADABLE:
            continue
        time = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        events.append({"handle": handle, "time": time, "imported": True, **rest})
    return events


def _rows(text: str) -> Iterator[dict[str, Any]]:
    """The rows of a CSV text, up to where it is none."""
    with suppress(csv.Error):
        yield from csv.DictReader(io.StringIO(text, newline=None))


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Raises StoreUnusable in place of the system's own errors."""
    try:
        yield
    except OSError as error:
        raise StoreUnusable(
            f"{error.filename or path} can't be used: {error.strerror or error}. Mend that and run the command again.",
            path=str(path),
        ) from error


# Connections --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kept:
    """A commit as the original kept it."""

    quantity: int
    script: CommitScript
    raw: bytes


def connection_of(handle: Handle, kept: Mapping[str, Any], key: Key, hub_url: str) -> Connection:
    """A connection of the original client as one of ours that is being settled, without a word to its hub.

    Of c2h come back what expires, what the hub gave its spend secret for, and what it takes by a revoked commit; of h2c
    the highest commit whose signatures are sound, signed here. Raises KeyError, TypeError, ValueError and
    PicopaymentsError where the data are not what that client wrote.
    """
    c2h, h2c = (DepositScript.parse(bytes.fromhex(kept[name]["deposit_script"])) for name in ("c2h_state", "h2c_state"))
    if c2h.payer != key.pubkey or h2c.payee != key.pubkey:
        raise InvalidKey("it was made with another key than the wallet's")
    number = asset_id(kept["asset"])
    secrets = _secrets(kept["secrets"])
    deposit = Quantity(int(kept["c2h_deposit_quantity"]))
    sent = _commits(kept["c2h_state"], c2h, number)
    revoked = _revoked(kept["c2h_state"], c2h, deposit)
    delays = [item.script.delay for item in sent] + [script.delay for script, _ in revoked]
    sending = Channel(
        number,
        c2h,
        deposit,
        delays[0] if delays else int(kept["c2h_commit_delay_time"]),
        _FEE_RATE,
        active=tuple(Commit(Quantity(item.quantity), item.script.revoke_hash, b"") for item in sent),
        revoked=tuple(item for _, item in revoked),
    )
    spend = secrets.get(h2c.spend_hash)
    received = _commits(kept["h2c_state"], h2c, number) if spend else []
    receiving, commit_raw = _receiving(received, h2c, number, key)
    return Connection(
        handle=handle,
        hub_url=hub_url,
        hub_key=c2h.payee,
        asset=kept["asset"],
        terms=_terms(kept["channel_terms"]),
        salt=b"",
        duplex=Duplex(sending, receiving),
        stage=CLOSING,
        proposal={},
        deposit_raw=b"",
        queue=tuple(_payments(kept.get("payments_queued") or [])),
        hub_secret=secrets.get(c2h.spend_hash),
        told=True,
        commit_raw=commit_raw,
        own_spend=spend,
    )


def _secrets(kept: Mapping[str, str]) -> dict[Hash, Secret]:
    """The secrets, own ones and those that the hub gave, by the hashes that they have."""
    values = [Secret(bytes.fromhex(text)) for text in kept.values()]
    return {hash_of(secret): secret for secret in values if len(secret) == SECRET_SIZE}


def _commits(state: Mapping[str, Any], deposit: DepositScript, number: int) -> list[_Kept]:
    """The active commits of a channel, by quantity, ascending."""
    found = []
    for item in state["commits_active"]:
        script = _commit_script(item["script"], deposit)
        raw = bytes.fromhex(item["rawtx"])
        found.append(_Kept(_quantity(raw, number), script, raw))
    return sorted(found, key=lambda item: item.quantity)


def _commit_script(text: str, deposit: DepositScript) -> CommitScript:
    script = CommitScript.parse(bytes.fromhex(text))
    if (script.payer, script.payee, script.spend_hash) != (deposit.payer, deposit.payee, deposit.spend_hash):
        raise ValueError("a commit has other keys or another spend hash than its deposit")
    return script


def _quantity(raw: bytes, number: int) -> int:
    """The cumulative quantity that a commit sends."""
    tx = parse_transaction(raw)
    if tx is not None and tx.vin:
        for out in tx.vout:
            message = message_of(bytes(out.scriptPubKey), tx.vin[0].prevout.hash)
            sent = unpack_send(message) if message else None
            if sent is not None and sent.destination is None and sent.asset_id == number:
                return sent.quantity
    raise ValueError("a commit does not send the connection's asset")


def _revoked(state: Mapping[str, Any], deposit: DepositScript, most: Quantity) -> list[tuple[CommitScript, Revoked]]:
    """The revoked commits; their quantities, which the original forgets, are at most the deposit's."""
    found = []
    for item in state["commits_revoked"]:
        script = _commit_script(item["script"], deposit)
        secret = Secret(bytes.fromhex(item["revoke_secret"]))
        if hash_of(secret) != script.revoke_hash:
            raise ValueError("a revoke secret is not that of its commit")
        found.append((script, Revoked(most, script.revoke_hash, secret)))
    return found


def _receiving(
    received: Sequence[_Kept], deposit: DepositScript, number: int, key: Key
) -> tuple[Channel, bytes | None]:
    """The h2c channel with the highest commit that is sound as its only one, and that commit, signed by both."""
    for item in reversed(received):
        raw = finished(item.raw, item.script, deposit, key)
        tx = parse_transaction(raw) if raw is not None else None
        if tx is not None:
            quantity = Quantity(item.quantity)
            channel = Channel(
                number,
                deposit,
                quantity,
                item.script.delay,
                _FEE_RATE,
                Anchor(spent_outpoints(tx)[0], 0),  # what it holds is of no use: the commit is made
                active=(Commit(quantity, item.script.revoke_hash, b""),),
            )
            return channel, raw
    if received:
        raise ValueError("no commit received has the hub's valid signature")
    return Channel(number, deposit, Quantity(0), 0, _FEE_RATE), None


def finished(raw: bytes, script: CommitScript, deposit: DepositScript, key: Key) -> bytes | None:
    """A half-signed commit of the original hub, as it is, signed by the payee too; None where it is not sound.

    It may spend several outputs of the deposit's address. Its outputs are the hub's choice; but the first, which is to
    pay to the commit's address.
    """
    tx = parse_transaction(raw)
    if tx is None or not tx.vin or bytes(tx.vout[0].scriptPubKey) != script.output:
        return None
    half = half_commit_unlock(deposit)
    inputs = tuple(Input(Outpoint(coin.prevout.hash, coin.prevout.n), 0, half, coin.nSequence) for coin in tx.vin)
    draft = Draft(inputs, tuple(Output(out.nValue, bytes(out.scriptPubKey)) for out in tx.vout), tx.nVersion)
    starts = [bytes(coin.scriptSig) for coin in tx.vin]
    signatures = [sig[2 : 2 + sig[1]] if len(sig) > 1 else b"" for sig in starts]
    if not all(signatures) or draft.with_signatures(signatures).serialize() != raw:
        return None
    whole = []
    for place, (coin, signature) in enumerate(zip(inputs, signatures, strict=True)):
        low = normalise(signature[:-1])
        if signature[-1:] != HASH_TYPE or low is None or not verify(deposit.payer, draft.digest(place), low):
            return None
        whole.append(replace(coin, unlock=commit_unlock(deposit, low + HASH_TYPE)))
    return bytes(replace(draft, inputs=tuple(whole)).signed(key).serialize())


def _terms(kept: Mapping[str, Any]) -> Terms:
    """The terms as far as they can be told: no sync follows that they would rule."""

    def whole(name: str) -> int:
        value = kept.get(name)
        fits = isinstance(value, (int, float)) and 0 <= value <= MAX_QUANTITY
        return min(int(value), MAX_QUANTITY) if fits and value is not None else 0

    ratio = kept.get("deposit_ratio")
    return Terms(
        deposit_max=whole("deposit_max"),
        deposit_min=whole("deposit_min"),
        deposit_ratio=float(ratio) if isinstance(ratio, (int, float)) and 0 <= ratio <= 1_000_000 else 1.0,
        expire_max=whole("expire_max"),
        expire_min=whole("expire_min"),
        sync_fee=max(whole("sync_fee"), 1),
        fee_rate=_FEE_RATE,
    )


def _payments(kept: Sequence[Mapping[str, Any]]) -> Iterator[Payment]:
    """The payments that were queued: shown, never sent."""
    for item in kept:
        payee = item["payee_handle"]
        yield Payment(
            Handle(bytes.fromhex(payee)) if payee else None,
            Quantity(int(item["amount"])),
            Token(bytes.fromhex(item["token"])),
        )


def located(connection: Connection, facts: Facts) -> Connection:
    """An imported connection with what its data lack and the chain shows: the deposit, and the height it is seen at."""
    sending = connection.duplex.sending
    if sending.anchor is None:
        sending = replace(sending, anchor=_anchor(sending, facts))
    return replace(
        connection,
        duplex=replace(connection.duplex, sending=sending),
        agreed_height=connection.agreed_height or facts.tip,
    )


def _anchor(channel: Channel, facts: Facts) -> Anchor | None:
    """The output of the deposit itself: the first one of the transaction that carried the asset to the address."""
    for entry in sorted(facts.history, key=lambda item: MAX_QUANTITY if item.height is None else item.height):
        tx = parse_transaction(entry.raw)
        if tx is None or bytes(tx.vout[0].scriptPubKey) != channel.script.output:
            continue
        try:
            carried = _quantity(entry.raw, channel.asset_id)
        except ValueError:
            continue
        if carried >= channel.quantity:
            return Anchor(Outpoint(entry.txid, 0), tx.vout[0].nValue)
    return None
