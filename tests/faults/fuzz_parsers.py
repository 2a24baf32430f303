"""The parsers of the package, each with what it is fed, how it is called, and what it may raise."""

from __future__ import annotations

import contextlib
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitcoin.core import CTransaction
from envelope_support import bare
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from faults.fuzz_inputs import mutated_bytes, mutated_value, some_bytes, some_json, some_text
from picopayments_cli import cli, commands, config, quantities
from picopayments_cli.chain import answers
from picopayments_cli.channel import (
    counterparty,
    drafts,
    envelope,
    keys,
    messages,
    payment_request,
    status,
    transactions,
    values,
    wire,
)
from picopayments_cli.channel.keys import Key, XOnly
from picopayments_cli.channel.networks import (
    NETWORKS,
    address_of_script,
    network_named,
    script_of_address,
    secret_of_wif,
    wif_of_secret,
)
from picopayments_cli.channel.receipts import Given, ReceiptsReply, ReceiptsRequest
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.values import Outpoint, Quantity, Token, from_hex
from picopayments_cli.channel.waiting import WaitingReply, WaitingRequest, Waits
from picopayments_cli.client import arguments, legacy
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.document import from_document, rows_between, to_document
from picopayments_cli.client.session import Session
from picopayments_cli.errors import InvalidAsset, PicopaymentsError
from picopayments_cli.hub.marks import Marks
from picopayments_cli.hub.terms import default_text, read_offer
from picopayments_cli.json_arguments import from_json
from picopayments_cli.jsontext import parse_json
from picopayments_cli.limits import party
from picopayments_cli.regtest.journal import Journal
from picopayments_cli.web import JsonRpcEndpoint

REGTEST = NETWORKS["regtest"]


class RoundTripFailed(Exception):
    """A parser read something that its encoder writes otherwise."""


@dataclass(frozen=True)
class Parser:
    """A parser: what it is fed, the call, and what it may raise besides the errors that have a name."""

    name: str
    inputs: SearchStrategy[Any]
    call: Callable[[Any], object]
    raises: tuple[type[BaseException], ...] = ()


@dataclass(frozen=True)
class Samples:
    """Valid inputs: a client's connection, its document and rows as they are on disk, and the messages that passed."""

    connection: Connection
    key: Key
    folder: Path
    document: bytes
    rows: bytes
    messages: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)  # requests and results, by method
    raw: tuple[bytes, ...] = ()  # transactions


def same(read: object, written: object) -> None:
    """Raise RoundTripFailed where two things differ."""
    if read != written:
        raise RoundTripFailed(f"{read!r} became {written!r}")


# Bytes --------------------------------------------------------------------------------------------------------------


def _of_bytes(given: Samples) -> Iterator[Parser]:
    sends = [counterparty.pack_send(1, 5), counterparty.pack_send(counterparty.asset_id("DEMOCOIN"), 2**63 - 1)]
    issued = counterparty.Issuance(counterparty.asset_id("DEMOCOIN"), 5, description="text")
    issuance = counterparty.pack_issuance(issued)
    outputs = [bytes(out.scriptPubKey) for raw in given.raw for out in CTransaction.deserialize(raw).vout]
    yield Parser("send", some_bytes(*sends), counterparty.unpack_send)
    yield Parser("issuance", some_bytes(issuance), counterparty.unpack_issuance)
    yield Parser("longname", some_bytes(b"\x05\x06"), _expand)
    yield Parser("script of an output", some_bytes(*outputs), _read_script)
    yield Parser("transaction", some_bytes(*given.raw), lambda data: _read_transaction(given, data))
    signed = given.key.sign(bytes(32)), given.key.sign_schnorr(bytes(32))
    yield Parser("signature", some_bytes(*signed), lambda data: _read_signature(given.key, data))
    yield Parser("public key", some_bytes(given.key.pubkey), keys.is_pubkey)
    yield Parser("channel's key", some_bytes(given.key.xonly.data), lambda data: same(XOnly(data).data, data))
    yield Parser("secret", some_bytes(bytes(range(32))), keys.read_secret)
    text = json.dumps(given.messages["mph_sync"][0]).encode()
    yield Parser("JSON", some_bytes(text, b"[1, 2.5e3]"), parse_json, (ValueError,))
    yield Parser("JSON-RPC body", some_bytes(b'{"method": "x", "params": {}, "id": 1}', b"[{}]"), _answer)


def _expand(data: bytes) -> None:
    longname = counterparty.expand_longname(data)
    if longname is not None and data[:1] != b"\x00":
        same(counterparty.compact_longname(longname), data)


def _read_script(script: bytes) -> None:
    counterparty.script_pushes(script)
    counterparty.message_of(script, bytes(32))
    address = address_of_script(REGTEST, script)
    if address is not None:
        same(script_of_address(REGTEST, address), script)


def _read_transaction(given: Samples, data: bytes) -> None:
    contract = given.connection.duplex.sending.contract
    tx = drafts.parse_transaction(data)
    if tx is not None:
        same(tx.serialize(), data)
        counterparty.read_transaction(tx, contract.deposit.output)
        drafts.spent_outpoints(tx)
        with contextlib.suppress(PicopaymentsError):
            drafts.coin_of(data, Outpoint(tx.GetTxid(), 0))
        with contextlib.suppress(PicopaymentsError):
            transactions.check_deposit(contract, tx)


def _read_signature(key: Key, data: bytes) -> None:
    for changed in (key.sign(bytes(32)) != data, key.sign_schnorr(bytes(32)) != data):
        if key.xonly.verify(bytes(32), data) and changed and data != key.sign_schnorr(bytes(32)):
            raise RoundTripFailed(f"another signature of the same: {data.hex()}")
    keys.verify(key.pubkey, bytes(32), data)


_ENDPOINT = JsonRpcEndpoint({"x": lambda **members: sorted(members)})


def _answer(body: bytes) -> None:
    answer = _ENDPOINT.answer(body)
    try:
        answer.send(None)
    except StopIteration as end:
        text = str(end.value)
        if text:
            json.loads(text)
        if "InternalError" in text:
            raise RoundTripFailed(text) from None
    finally:
        answer.close()


# Text ---------------------------------------------------------------------------------------------------------------


def _of_text(given: Samples) -> Iterator[Parser]:
    address = str(address_of_script(REGTEST, counterparty.p2pkh(bytes(20))))
    wif = wif_of_secret(REGTEST, given.key.secret)
    yield Parser("asset", some_text("XCP", "DEMOCOIN", "A95428956661682177", "PARENT.child"), _asset)
    yield Parser("asset's id", st.integers(-(2**70), 2**70), _asset_of)
    yield Parser("quantity", some_text("1337", "1.5XCP", "0.1BTC", "3PARENT.child"), _quantity)
    yield Parser("address", some_text(address), _address)
    yield Parser("WIF", some_text(wif), _wif)
    yield Parser("network", some_text("regtest"), network_named)
    yield Parser("outpoint", some_text("ab" * 32 + ":0"), _outpoint)
    yield Parser("payment request", some_text(_requested(given)), _payment_request)
    known = given.connection.handle
    written = some_text(known.hex(), known.hex()[:9])
    yield Parser("handle", written, lambda text: arguments.handle_named(text, [known]))
    yield Parser("URL", some_text("http://u:p@h:1/x", "https://[::1]:2/"), lambda text: config.check_url(text, "URL"))
    yield Parser("client's address", some_text("127.0.0.1", "::ffff:1.2.3.4", "2001:db8::1%eth0"), party)
    yield Parser("settings", st.tuples(st.sampled_from(sorted(config.ENVIRONMENT.values())), some_text("5", "http://h/")),
                 lambda pair: config.load_settings(REGTEST, given.folder / "none", {}, {pair[0]: pair[1]}))  # fmt: skip
    words = st.lists(st.one_of(st.sampled_from(_WORDS), some_text(*_WORDS)), max_size=6)
    yield Parser("command line", words, _command_line, (SystemExit,))


def _requested(given: Samples) -> str:
    key, handle = given.key, given.connection.handle
    token = payment_request.token_of(payment_request.receipt_of(key, handle, bytes(16)))
    request = payment_request.PaymentRequest(
        *("regtest", "http://h/", key.pubkey, handle, 1, Quantity(5), 2**31, bytes(16), token, key.xonly, "x")
    )
    return payment_request.write(request, key)


def _payment_request(text: str) -> None:
    same(payment_request.read(text), payment_request.read(text.upper()))


def _asset(text: str) -> None:
    with contextlib.suppress(InvalidAsset):
        counterparty.parent_of(text)
    same(counterparty.asset_name(counterparty.asset_id(text)), text)


def _asset_of(number: int) -> None:
    same(counterparty.asset_id(counterparty.asset_name(number)), number)


def _quantity(text: str) -> None:
    written = quantities.read_quantity(text)
    same(quantities.read_quantity(str(written)), written)
    written.quantity(True)


def _address(text: str) -> None:
    script = script_of_address(REGTEST, text)
    same(script_of_address(REGTEST, str(address_of_script(REGTEST, script))), script)


def _wif(text: str) -> None:
    same(wif_of_secret(REGTEST, secret_of_wif(REGTEST, text)), text.strip())


def _outpoint(text: str) -> None:
    same(Outpoint.parse(str(Outpoint.parse(text))), Outpoint.parse(text))


_WORDS = (
    *("--regtest", "--network=regtest", "--basedir", "--hub_url", "--timeout=1.5", "--debug", "--", "status"),
    *("connect", "queuepayment", "history", "--handle", "XCP", "1.5XCP", "1000", "--expire_time", "config", "serve"),
)


def _command_line(words: list[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli._parser().parse_args(cli.dashed(words))
        except SystemExit as end:
            if end.code not in (0, 2):
                raise RoundTripFailed(f"exit code {end.code}") from end
            raise


# JSON ---------------------------------------------------------------------------------------------------------------


def _of_json(given: Samples) -> Iterator[Parser]:
    sync = given.messages["mph_sync"]
    yield Parser("envelope", some_json(*sync), lambda body: _envelope(given.key, body))
    for method, request, reply in (
        ("mph_key", messages.KeyRequest, messages.KeyReply),
        ("mph_request", messages.ConnectRequest, messages.ConnectReply),
        ("mph_deposit", messages.DepositRequest, messages.DepositReply),
        ("mph_sync", messages.SyncRequest, messages.SyncReply),
        ("mph_close", messages.CloseRequest, messages.CloseReply),
        ("mph_status", status.StatusRequest, status.StatusReply),
    ):
        yield Parser(method, some_json(*given.messages[method]), _again(request.parse))
        yield Parser(f"{method}'s result", some_json(*given.messages[f"{method} result"]), _again(reply.parse))
    for example in _examples(given):
        yield Parser(type(example).__name__, some_json(example.as_json()), _again(type(example).parse))
    refusal = messages.HubRefusal(bytes(32), "UnknownHandle", "text", {"stage": "open"}).as_json()
    yield Parser("refusal", some_json(refusal), _again(messages.HubRefusal.parse))
    terms = wire.terms_json(given.connection.terms)
    yield Parser("terms", some_json(terms), lambda body: _terms(wire.read_terms(body)))
    yield Parser("hex", some_json("ab" * 32, "x"), lambda value: same(from_hex(value, "value").hex(), value))
    yield Parser("amount", some_json(5, 2**63), values.check_quantity)
    row = {"asset": "DEMOCOIN", "asset_id": str(counterparty.asset_id("DEMOCOIN")), "divisible": True}
    yield Parser("asset's row", some_json(row), lambda value: answers.asset_of(value, "DEMOCOIN"))
    yield Parser("bitcoins", some_json(0.1, "0.00000001", 20999999.9769), _bitcoins, (ValueError,))
    called = st.tuples(
        st.sampled_from(sorted(commands.COMMANDS)), st.lists(some_json("XCP", 5), max_size=4), some_json({})
    )
    yield Parser("a served call", called, _served)


def _examples(given: Samples) -> tuple[Any, ...]:
    """Messages of what waits, and of receipts."""
    handle, token = given.connection.handle, Token(bytes(32))
    return (
        WaitingRequest(bytes(32), (handle,), 5),
        WaitingReply(bytes(32), (Waits(handle, 1, 7, 0),)),
        ReceiptsRequest(bytes(32), handle, (Given(handle, bytes(32)),), (token,)),
        ReceiptsReply(bytes(32), (bytes(32),)),
    )


def _again(parse: Callable[[Any], Any]) -> Callable[[Any], object]:
    """Read, write, and read again."""

    def call(body: Any) -> None:
        read = parse(body)
        same(parse(read.as_json()), read)

    return call


def _envelope(key: Key, body: Any) -> None:
    if isinstance(body, dict):
        envelope.named_key(body)
        use = envelope.asking("mph_sync", key.pubkey)
        envelope.signed_by(body, key.pubkey, use)
        sealed = envelope.seal(key, bare(body), use)
        same(envelope.signed_by(json.loads(json.dumps(sealed)), key.pubkey, use), envelope.digest(sealed, use))


def _terms(terms: Terms) -> None:
    same(wire.read_terms(wire.terms_json(terms)), terms)
    terms.matching_deposit(2**63 - 1)
    terms.check_deposit(1_000_000)
    terms.check_expire(1024, REGTEST)


def _bitcoins(value: Any) -> None:
    if isinstance(value, (str, float)):
        answers.satoshis_of(value)


def _served(asked: tuple[str, list[Any], Any]) -> None:
    command, places, names = asked
    declared = commands.COMMANDS[command].arguments
    if isinstance(names, dict):
        from_json(command, declared, (), names)
    else:
        from_json(command, declared, tuple(places), {})


# Files --------------------------------------------------------------------------------------------------------------


def _of_files(given: Samples) -> Iterator[Parser]:
    party = _Files(given)
    settings = json.dumps({"hub_url": "http://h/", "timeout": 2.5, "fee_rate": 7}).encode()
    yield Parser("settings file", some_bytes(settings), party.settings)
    yield Parser("terms file", some_bytes(default_text(REGTEST).encode()), party.terms)
    yield Parser("wallet file", some_bytes(wif_of_secret(REGTEST, given.key.secret).encode()), party.wallet)
    document = json.loads(given.document)
    yield Parser("connection's file", some_bytes(given.document), party.document)
    changed = st.integers(0, 2**64).map(lambda seed: mutated_value(document, random.Random(seed)))
    yield Parser("connection's members", changed.map(lambda value: json.dumps(value).encode()), party.document)
    yield Parser("connection's rows", some_bytes(given.rows), party.commits)
    lines = [json.loads(line) for line in given.rows.splitlines()]
    changed = st.integers(0, 2**64).map(lambda seed: mutated_value(lines, random.Random(seed)))
    yield Parser("rows' members", changed.map(_lines), party.commits)
    yield Parser("marks", some_bytes(f"{'ab' * 32}\n".encode()), party.marks)
    event = json.dumps({"number": 1, "time": "2026-01-01T00:00:00.000Z", "action": "closed", "handle": "ab" * 32})
    yield Parser("history", some_bytes(f"{event}\n{event}\n".encode()), party.history)
    yield Parser("hubs' keys", some_bytes(json.dumps({"http://h/": given.key.pubkey.hex()}).encode()), party.hubs)
    yield Parser("data of 1.0.4", some_json(_original(given)), party.data)
    yield Parser("data file of 1.0.4", some_bytes(json.dumps(_original(given)).encode()), party.data_file)
    row = f"1490000000.25,{'ab' * 32},sync,{'ab' * 32},12500BTC,5XCP,"
    rows = f"timestamp,handle,action,id,fee,quantity,destination\r\n{row}\r\n{row}"
    yield Parser("history of 1.0.4", some_bytes(rows.encode()), party.rows)
    yield Parser("journal", st.integers(0, 2**64), party.journal)


def _lines(values: Any) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in (values if isinstance(values, list) else [values]))


def _original(given: Samples) -> dict[str, Any]:
    kept = {
        "payments_sent": [{"handle": "ab" * 32, "amount": 7, "token": "abcd"}],
        "payments_queued": [{"payee_handle": None, "amount": 7, "token": "abcd"}],
    }
    return {"connections": {given.connection.handle.hex(): kept}}


class _Files:
    """A basedir in which one file after the other is something else."""

    def __init__(self, given: Samples) -> None:
        self.given = given
        self._journals = 0
        self.folder = given.folder / "files"
        self.folder.mkdir(mode=0o700)
        (self.folder / "regtest.connections").mkdir(mode=0o700)
        self._wif = wif_of_secret(REGTEST, given.key.secret).encode()
        self._write("regtest.wif", self._wif)

    def _write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.touch(0o600)
        path.write_bytes(data)
        return path

    @contextlib.contextmanager
    def _written(self, name: str, data: bytes) -> Iterator[Session]:
        path = self._write(name, data)
        session = Session(config.Settings(REGTEST, self.folder, "http://h/"))
        try:
            yield session
        finally:
            session.close()
            path.unlink()

    def settings(self, data: bytes) -> None:
        with self._written("regtest.cfg", data):
            config.load_settings(REGTEST, self.folder, {}, {})

    def terms(self, data: bytes) -> None:
        read_offer(self._write("terms.json", data), REGTEST)

    def wallet(self, data: bytes) -> None:
        try:
            with self._written("regtest.wif", data) as session:
                _ = session.wallet
        finally:
            self._write("regtest.wif", self._wif)

    def document(self, data: bytes) -> None:
        self._connection(data, self.given.rows)

    def commits(self, data: bytes) -> None:
        document = {**json.loads(self.given.document), "rows_size": len(data)}
        self._connection(json.dumps(document).encode(), data)

    def _connection(self, document: bytes, rows: bytes) -> None:
        handle = self.given.connection.handle
        self._write(f"regtest.connections/{handle.hex()}.commits.jsonl", rows)
        with self._written(f"regtest.connections/{handle.hex()}.json", document) as session:
            for found in session.connections().values():
                text = json.dumps({**to_document(found), "rows": rows_between(None, found)})
                same(from_document(handle, json.loads(text)), found)

    def marks(self, data: bytes) -> None:
        Marks(self._write("hub.regtest.marks", data))

    def history(self, data: bytes) -> None:
        with self._written("regtest.history.jsonl", data) as session:
            session.store.history()

    def hubs(self, data: bytes) -> None:
        with self._written("regtest.hubs", data) as session, session.store:
            session.pinned_key()

    def data(self, value: Any) -> None:
        self.data_file(json.dumps(value).encode())

    def data_file(self, data: bytes) -> None:
        with self._written("regtest.data", data):
            legacy.read_handles(self.folder, REGTEST)
            legacy.read_payments(self.folder, REGTEST)

    def rows(self, data: bytes) -> None:
        with self._written("regtest.history.csv", data):
            legacy.read_history(self.folder, REGTEST)

    def journal(self, seed: int) -> None:
        for old in self.folder.glob("journal*"):
            old.unlink(missing_ok=True)
        self._journals += 1
        path = self.folder / f"journal {self._journals}"
        whole = Journal(path)
        whole.add_block(bytes(32), b"\x01" * 200)
        whole.set_mempool([b"\x02" * 100])
        whole.close()
        data = path.read_bytes()
        rng = random.Random(seed)
        path.write_bytes(mutated_bytes(data, (data[:100], b"\x00" * 50, b"\xff" * 16), rng) + data[20_000:])
        damaged = Journal(path)
        try:
            list(damaged.blocks())
            damaged.mempool()
            damaged.get("name")
        finally:
            damaged.close()


def parsers(given: Samples) -> list[Parser]:
    """All of them."""
    return [*_of_bytes(given), *_of_text(given), *_of_json(given), *_of_files(given)]
