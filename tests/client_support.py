"""A client on the regtest chain: its real files, somebody at every door, and a hub in memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from channel_support import finish_commit, finish_payout
from envelope_support import answered, counted_by, digest_of
from regtest_support import REGTEST, NodeProcess, address_of

from picopayments_cli.chain import Query
from picopayments_cli.channel import close, duplex, envelope
from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.counterparty import p2pkh
from picopayments_cli.channel.drafts import parse_transaction
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.halves import Commit, sign_commit, sign_remainder
from picopayments_cli.channel.kept import Count, StateReply
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.messages import (
    CloseReply,
    CloseRequest,
    ConnectReply,
    ConnectRequest,
    DepositReply,
    DepositRequest,
    HubRefusal,
    KeyReply,
    Recovered,
    SyncReply,
    SyncRequest,
)
from picopayments_cli.channel.opening import Party, Stake, contract_of
from picopayments_cli.channel.receipts import Given, ReceiptsReply, ReceiptsRequest
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.standing import Found, doubts, learned, proofs, standing
from picopayments_cli.channel.state import Changes, Held, Receiving, Sending, Signed
from picopayments_cli.channel.status import ShownConnection, StatusReply, StatusRequest
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.transactions import check_deposit, compose_deposit
from picopayments_cli.channel.values import Coin, Handle, Hash, Quantity, Token, hash_of
from picopayments_cli.channel.wire import Anchors, Payment, Receipt, RefusedPayment
from picopayments_cli.client import hubs, life, opening
from picopayments_cli.client.closing import Outcome
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.connection_files import Row
from picopayments_cli.client.history import Action
from picopayments_cli.client.mirror import Mirror, MirroredStore
from picopayments_cli.client.session import Session
from picopayments_cli.config import Settings
from picopayments_cli.errors import BadClientSignature, HubUnreachable, InvalidParams, PicopaymentsError

XCP, QUANTITY, EXPIRE, DELAY = 1, 1000, 60, 3
URL = "http://hub.invalid/api/"
NO_TOTALS = {"opening": 0, "open": 0, "closing": 0}
NO_BACKUP = Path("/")
SILENT = HubUnreachable("The hub does not answer.")


class Killed(BaseException):
    """The process ended at a door."""


@dataclass
class Doors:
    """The doors that were passed, and the one at which the process is to be killed."""

    passed: list[str] = field(default_factory=list)
    deadly: str | None = None

    def through(self, label: str) -> None:
        self.passed.append(label)
        if label == self.deadly:
            self.deadly = None
            raise Killed


class WatchedStore(MirroredStore):
    """The real files, and their backup where there is one, with somebody at the door."""

    doors: Doors

    def save(
        self,
        handle: Handle,
        document: dict[str, Any],
        label: str,
        actions: Sequence[Action] = (),
        rows: Sequence[Row] = (),
    ) -> None:
        super().save(handle, document, label, actions, rows)
        self.doors.through(f"save {label}")


class WatchedSession(Session):
    """A session whose hub is in memory."""

    def __init__(
        self, basedir: Path, hub: Hub, node: NodeProcess, doors: Doors, *, bitcoin: bool, backup: Path = NO_BACKUP
    ) -> None:
        settings = Settings(
            REGTEST, basedir, hub_url=URL, chain_url=node.url, bitcoin_url=f"{node.url}bitcoin/" if bitcoin else None
        )
        super().__init__(settings)
        self.doors = doors
        mirror = Mirror(backup, basedir, REGTEST, lambda: None if backup == NO_BACKUP else self.home._kept_wallet())
        store = WatchedStore(basedir, REGTEST, 60.0, mirror)
        store.doors = doors
        self.home.__dict__.update(store=self.home._stack.enter_context(store))
        self.__dict__.update(rpc=_Line(hub, doors))

    def broadcast(self, raw: bytes, label: str) -> str:
        self.doors.through(f"broadcast {label}")
        txid = super().broadcast(raw, label)
        self.doors.through(f"{label} is out")
        return txid

    def submit(self, raws: Sequence[bytes], label: str) -> tuple[bytes, ...]:
        if len(raws) == 1:
            return super().submit(raws, label)
        self.doors.through(f"broadcast {label}")
        taken = super().submit(raws, label)
        self.doors.through(f"{label} is out")
        return taken


class _Line:
    """The hub, with somebody at the door."""

    url = URL

    def __init__(self, hub: Hub, doors: Doors) -> None:
        self.hub, self.doors = hub, doors

    def call(self, method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        if method == "get_running_info":
            return {"network": REGTEST.name}
        self.doors.through(f"call {method}")
        answer = self.hub.call(method, params)
        self.doors.through(f"{method} is answered")
        return answer


# The hub ------------------------------------------------------------------------------------------------------------


class Hub:
    """One connection's hub, by the ground floor's own rules; on the chain it does what a test tells it to."""

    def __init__(self, node: NodeProcess, key: Key) -> None:
        self.node, self.key, self.script = node, key, p2pkh(key.pubkey_hash)
        self.secrets = Secrets(key, b"salt of the hub.")
        self.terms = Terms(0, 1, 1.0, 0, 12, 1, 1, 5)
        self.handle = Handle(hash_of(self.secrets.revoke(10**6)) + bytes(12))
        self.silent = False
        self.lost = 0  # so many replies get lost on the way
        self.refuses: PicopaymentsError | None = None
        self.forgives = False  # takes what it refuses once it carries no payments
        self.to_pay: list[int] = []
        self.tokens: dict[int, Token] = {}  # of payments to the client, by their amount
        self.time = 0  # when it says that it took them
        self.receipts: list[bytes] = []  # that it has of payments of the client's
        self.given: list[Given] = []  # by the client
        self.refusing: set[Token] = set()
        self.known: dict[Handle, str] | None = None  # connections and their assets; None: it tells nobody
        self.closes_alone = False
        self.signed: dict[Hash, Signed] = {}
        self.received: list[Commit] = []
        self.numbers: dict[Hash, int] = {}  # of its secrets, of the commits received
        self.outcome = close.Outcome()
        self.asked: list[CloseRequest] = []
        self.due = 0
        self.now: Duplex
        self.agreed: tuple[DepositRequest, Stake] | None = None
        self._client: Party
        self._salt: bytes
        self._answers: dict[bytes, dict[str, Any]] = {}
        self.counter = 0
        self.clock = 0  # seconds by which it is ahead
        self.kept: dict[int, tuple[Mapping[str, Any], dict[str, Any]]] = {}  # requests with a state, and their results
        self.lies: Callable[[StateReply], StateReply] = lambda reply: reply  # about what it keeps

    def call(self, method: str, params: Mapping[str, Any]) -> Any:
        """The signed reply to a signed request, the same to the same one."""
        if self.silent:
            raise SILENT
        if method == "mph_status":
            return self._status(params)
        self._check(method, params)
        asked = digest_of(method, self.key.pubkey, params)
        asks = ("mph_close", "mph_key", "mph_state")
        if method not in asks and self.refuses is not None and (params.get("sends") or not self.forgives):
            raise self.refuses
        if asked not in self._answers:
            answers: dict[str, Callable[[Any, bytes], Any]] = {
                "mph_key": self._key,
                "mph_request": self._request,
                "mph_deposit": self._deposit,
                "mph_sync": self._sync,
                "mph_close": self._close,
                "mph_receipts": self._receipts,
                "mph_state": self._state,
            }
            self._answers[asked] = answers[method](json.loads(json.dumps(params)), asked).as_json()
            if method in ("mph_deposit", "mph_sync"):
                self.kept[self.counter] = params, answered(method, self.key, self._answers[asked])
        if self.lost:
            self.lost -= 1
            raise SILENT
        return answered(method, self.key, self._answers[asked])

    def _check(self, method: str, params: Mapping[str, Any]) -> None:
        """See that a request which names a key is signed with it, for this method and this hub."""
        key = envelope.named_key(params)
        if key is not None and envelope.signed_by(params, key, envelope.asking(method, self.key.pubkey)) is None:
            error = BadClientSignature("Not signed for this.")
            refusal = HubRefusal(digest_of(method, self.key.pubkey, params), error.name, error.message)
            error.said = answered(method, self.key, refusal.as_json())
            raise error

    def _status(self, params: Mapping[str, Any]) -> dict[str, Any]:
        if self.known is None:
            raise InvalidParams("No handles.")
        named = StatusRequest.parse(params).handles
        shown = {item: self.known[item] for item in named if item in self.known}
        connections = {item: ShownConnection(asset, None, 0, 5, "open") for item, asset in shown.items()}
        return StatusReply("there", "nonce", "signature", {"BTC": 0}, {}, {}, NO_TOTALS, connections).as_json()

    def _key(self, body: Any, asked: bytes) -> KeyReply:
        if self.agreed is None or "pubkey" not in body:
            return KeyReply(asked)
        c2h, h2c = self.now.receiving.anchor, self.now.sending.anchor
        request, stake = self.agreed
        anchors = Anchors(None if c2h is None else c2h.outpoint, None if h2c is None else h2c.outpoint)
        own = (self.handle, "XCP", self._salt, self._client, self._own)
        return KeyReply(asked, (Recovered(*own, request.height, request.stake, stake, anchors),))

    def _request(self, body: Any, asked: bytes) -> ConnectReply:
        self._client, self._salt = ConnectRequest.parse(body).client, ConnectRequest.parse(body).salt
        return ConnectReply(asked, self.handle, self._own, self.terms)

    @property
    def _own(self) -> Party:
        return Party(self.secrets.payer.xonly, self.secrets.payee.xonly, self.script)

    def _deposit(self, body: Any, asked: bytes) -> DepositReply:
        request = DepositRequest.parse(body)
        c2h = contract_of(self._client, self._own, XCP, request.height, request.stake)
        assert c2h.deposit.output == request.output
        stake = Stake(Quantity(self.terms.matching_deposit(request.stake.quantity)), DELAY, request.h2c_rate)
        h2c = contract_of(self._own, self._client, XCP, request.height, stake)
        self.agreed = request, stake
        begun = duplex.add_request(Duplex(Sending(h2c), Receiving(c2h)), request.next_hash, seen=False)
        self.now, own_hash = duplex.hand_out(begun, self.secrets)
        by, fee = request.height - EXPIRE + 12, self.terms.lock_fee(stake.quantity, EXPIRE)
        return DepositReply(asked, stake, request.height, h2c.deposit.output, own_hash, by, fee)

    def _keep(self, after: Duplex, changes: Changes) -> None:
        self.now = after
        self.signed |= {row.revoke_hash: row for row in changes.signed}
        self.received += [row.commit for row in changes.held]
        self.numbers |= {row.revoke_hash: row.number for row in changes.held}

    def _sync(self, body: Any, asked: bytes) -> SyncReply:
        request = SyncRequest.parse(body)
        assert self.now.receiving.anchor is not None
        assert request.anchors.c2h == self.now.receiving.anchor.outpoint
        before = self.now.net
        self._keep(*duplex.accept(self.now, request.half))
        back = [item for item in request.payments if item.token in self.refusing]
        paid = sum(item.amount for item in request.payments if item not in back)
        self.due += self.now.net - before - self.terms.sync_fee - paid
        self.now = duplex.add_request(self.now, request.next_hash, seen=False)
        count, total = duplex.deliverable(self.now, self.due, self.to_pay)
        after, half, changes = duplex.transfer(self.now, total, self.secrets)
        self._keep(after, changes)
        self.due += sum(self.to_pay[:count]) - total
        receipts = tuple(
            Receipt(self.handle, Quantity(n), self.tokens.get(n, Token(b"paid %d" % n)), self.time)
            for n in self.to_pay[:count]
        )
        del self.to_pay[:count]
        self.now, own_hash = duplex.hand_out(self.now, self.secrets)
        refused = tuple(RefusedPayment(item.token, "UnknownHandle") for item in back)
        self.counter = request.counter
        return SyncReply(asked, half, receipts, refused, own_hash, self.count(self.counter))

    def count(self, counter: int, since: int = 0) -> Mapping[str, Any]:
        """Its signed count, as it was so many seconds ago."""
        return counted_by(self.key, Count(self.handle, counter, int(time.time()) + self.clock - since).as_json())

    def _state(self, body: Any, asked: bytes) -> StateReply:
        receiving, sending = self.now.receiving, self.now.sending
        newest = {item.revoke_hash: item for item in receiving.active}
        signed = []
        for made in self.received:
            assert receiving.anchor is not None
            number = self.numbers[made.revoke_hash]
            remainder = sign_remainder(receiving.contract, receiving.anchor, made, self.secrets.payee)
            secret = None if made.revoke_hash in newest else self.secrets.revoke(number)
            signed.append(Signed(made.quantity, made.revoke_hash, remainder.signature, secret))
        held = []
        for item in sending.active:
            assert sending.anchor is not None
            held.append(
                sign_commit(sending.contract, sending.anchor, item.quantity, item.revoke_hash, self.secrets.payer)
            )
        request, result = self.kept[self.counter]
        return self.lies(StateReply(asked, self.count(self.counter), request, result, tuple(signed), tuple(held)))

    def _receipts(self, body: Any, asked: bytes) -> ReceiptsReply:
        self.given += ReceiptsRequest.parse(body).given
        return ReceiptsReply(asked, tuple(self.receipts))

    def _close(self, body: Any, asked: bytes) -> CloseReply:
        request = CloseRequest.parse(body)
        self.asked.append(request)
        said = request.standing
        names = {hash_of(item) for item in said.revokes} | set(said.doubts)
        rows = [row for name, row in self.signed.items() if name in names]
        held: list[Held] = [row for row in self.now.receiving.active if row.revoke_hash in names]
        self._keep(*learned(self.now, said, Found(rows, held), self.secrets))
        shown = proofs(said.doubts, rows)
        answer = standing(self.now, self.secrets, shown, doubts(self.now.receiving, said.commit))
        if self.closes_alone:
            request = replace(request, anchors=replace(request.anchors, c2h=None, h2c=None))
        self.now, reply, self.outcome = close.answer(self.now, request, asked, answer, self.secrets)
        return reply

    # What a test tells it to do -------------------------------------------------------------------------------------

    def see(self, connection: Connection) -> None:
        """Take the client's deposit for confirmed."""
        tx = parse_transaction(connection.deposit_raw)
        assert tx is not None
        anchor = check_deposit(self.now.receiving.contract, tx)
        self.now = replace(self.now, receiving=replace(self.now.receiving, anchor=anchor))

    def fund(self, coins: Sequence[Coin]) -> None:
        """Publish its deposit."""
        contract = self.now.sending.contract
        raw = finish_wallet(compose_deposit(contract, Purse(self.script, tuple(coins), 2)), self.key)
        tx = parse_transaction(raw)
        assert tx is not None
        self.now = replace(self.now, sending=replace(self.now.sending, anchor=check_deposit(contract, tx)))
        self.node.bitcoin("sendrawtransaction", raw.hex())

    def publish(self, commit: Commit) -> str:
        """Publish a commit that it has received, revoked or not; its txid."""
        side = self.now.receiving
        assert side.anchor is not None
        raw = finish_commit(side.contract, side.anchor, commit, self.secrets.payee)
        return str(self.node.bitcoin("sendrawtransaction", raw.hex()))

    def pay_out(self, commit: Commit) -> str:
        """Publish the payout of a commit; its txid."""
        side = self.now.receiving
        assert side.anchor is not None
        raw = finish_payout(side.contract, side.anchor, commit, self.secrets.payee)
        return str(self.node.bitcoin("sendrawtransaction", raw.hex()))


# A life -------------------------------------------------------------------------------------------------------------


class Life:
    """One client, its hub and their chain."""

    def __init__(self, basedir: Path, node: NodeProcess, key: Key, *, bitcoin: bool = True) -> None:
        self.node, self.basedir, self.bitcoin = node, basedir, bitcoin
        self.backup = NO_BACKUP  # a file that gets each change, too
        self.hub = Hub(node, key)
        self.doors = Doors()
        self.session = self._open()
        self.wallet = self.session.wallet_or_new().script
        self.outcome = Outcome()
        for script in (self.wallet, self.hub.script):
            for _ in range(3):
                node.rpc("faucet", address=address_of(script), btc=100_000, asset="XCP", quantity=0)
            node.rpc("faucet", address=address_of(script), btc=0, asset="XCP", quantity=QUANTITY)
        self.mine()

    def _open(self) -> WatchedSession:
        given = (self.basedir, self.hub, self.node, self.doors)
        return WatchedSession(*given, bitcoin=self.bitcoin, backup=self.backup)

    def restart(self) -> None:
        """Let the process end, and another one begin."""
        self.session.close()
        self.session = self._open()

    def mine(self, blocks: int = 1) -> None:
        """Blocks."""
        self.node.rpc("generate", blocks=blocks)

    def until(self, height: int) -> None:
        """Blocks up to a height."""
        self.mine(height - self.tip)

    @property
    def tip(self) -> int:
        return int(self.node.bitcoin("getblockcount"))

    @property
    def connection(self) -> Connection:
        (found,) = self.session.connections().values()
        return found

    @property
    def handle(self) -> str:
        return self.connection.handle.hex()

    def files(self) -> dict[str, bytes]:
        """What stands on disk."""
        return {str(path): path.read_bytes() for path in self.basedir.rglob("*") if path.is_file()}

    def held(self, script: bytes | None = None) -> int:
        """The XCP that an address holds."""
        address = address_of(script or self.wallet)
        return self.session.chain.view(Query(balances=[address])).balances[address].get("XCP", 0)

    def coins(self, script: bytes) -> tuple[Coin, ...]:
        """The coins of an address."""
        address = address_of(script)
        return self.session.chain.view(Query(coins=[address])).coins[address]

    def told(self) -> list[dict[str, Any]]:
        """What the history says."""
        return sorted(self.session.store.history(), key=lambda event: int(event["number"]))

    def mempool(self) -> list[str]:
        return list(self.node.bitcoin("getrawmempool"))

    # Steps ----------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        opening.connect(self.session, self.session.chain.asset("XCP"), QUANTITY, EXPIRE, DELAY)

    def open(self) -> None:
        """Both deposits in blocks, and the first sync."""
        self.connect()
        self.fund()
        self.sync()

    def fund(self) -> None:
        self.mine()
        self.hub.see(self.connection)
        self.hub.fund(self.coins(self.hub.script))
        self.mine()

    def queue(self, amount: int, token: bytes = b"token") -> None:
        life.queue(self.session, self.connection, Payment(None, Quantity(amount), Token(token)))

    def sync(self) -> Outcome:
        """What one command does; a new process each time."""
        self.restart()
        self.doors.passed.clear()
        self.outcome = Outcome()
        (group,) = hubs.seen(self.session, [self.connection])
        (connection,) = group.connections
        life.sync(group.session, connection, group.look(), self.outcome)
        return self.outcome

    def pay(self, amount: int, token: bytes = b"token") -> None:
        self.queue(amount, token)
        self.sync()

    def receive(self, amount: int) -> None:
        self.hub.to_pay = [amount]
        self.sync()

    def close(self) -> None:
        self.restart()
        self.doors.passed.clear()
        with suppress(HubUnreachable):
            life.close(self.session, self.connection)

    def status(self) -> str:
        connection = self.connection
        look = self.session.sight.look(self.session.wallet.address, [connection])
        seen, look, deposits = life.observe(self.session, connection, look)
        return life.status(self.session, seen, look, deposits)

    def killed_at(self, label: str, step: Callable[[], object]) -> None:
        self.doors.deadly = label
        with pytest.raises(Killed):
            step()

    def settle(self, blocks: int = 40) -> None:
        """Sync before each block until the connection is closed."""
        for _ in range(blocks):
            self.sync()
            if self.connection.stage == "closed":
                return
            self.mine()
        raise AssertionError(f"not closed: {self.connection.ending}")
