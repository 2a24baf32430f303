"""The world outside a session's doors, in memory: a chain judged by Bitcoin Core's kernel, a hub's answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bitcoin.core import CTransaction
from channel2_support import PAYEE, kernel_accepts, parsed, wallet_coin
from picopayments_cli.channel2 import duplex as pair
from picopayments_cli.channel2 import recovery
from picopayments_cli.channel2.facts import Facts, anchor_spender, first_output, unspent
from picopayments_cli.channel2.keys import Key, Secrets
from picopayments_cli.channel2.messages import (
    CloseReply,
    CloseRequest,
    ConnectReply,
    ConnectRequest,
    DepositMessage,
    Receipt,
    Refusal,
    SyncReply,
    SyncRequest,
)
from picopayments_cli.channel2.scripts import DepositScript, wallet_unlock
from picopayments_cli.channel2.state import Channel, Commit, Revoked, finished
from picopayments_cli.channel2.terms import Terms
from picopayments_cli.channel2.transactions import (
    DUST,
    Anchor,
    Draft,
    Input,
    Output,
    Purse,
    compose_deposit,
    spent_outpoints,
)

from picopayments_cli.chain import Asset, Query, View
from picopayments_cli.channel import envelope
from picopayments_cli.channel.counterparty import asset_id, asset_name, is_p2sh, read_transaction, unpack_send
from picopayments_cli.channel.networks import NETWORKS, address_of_script, script_of_address
from picopayments_cli.channel.values import (
    Coin,
    Entry,
    Handle,
    Hash,
    Height,
    Outpoint,
    Quantity,
    Secret,
    Token,
    hash160,
)
from picopayments_cli.errors import BroadcastRefused, HubUnreachable

REGTEST = NETWORKS["regtest"]
START = 1000  # the height at which every story begins
GONE = 26**3 + 1  # an asset that every address held once
HANDLE = Handle(hashlib.sha256(b"handle").digest())
STRANGER = Key(hashlib.sha256(b"a stranger").digest())


class MemoryChain:
    """Transactions and their heights. Each published one must spend what is there, by its scripts and at its age."""

    def __init__(self) -> None:
        self.tip = Height(START)
        self.fee_rate = 1
        self.entries: list[Entry] = []
        self.options: dict[str, int] = {}  # of addresses
        self.with_assets: set[Outpoint] = set()  # coins that assets are attached to
        self.granted: list[tuple[bytes, int, int]] = []
        self._made = 0

    # What the tests do with it ---------------------------------------------------------------------------------------

    def grant(self, script: bytes, asset: int, quantity: int) -> None:
        """An asset that was always there."""
        self.granted.append((script, asset, quantity))

    def fund(self, script: bytes, value: int, *, mined: bool = True) -> Outpoint:
        """Bitcoins out of nowhere, in the tip's block or in the mempool."""
        self._made += 1
        nowhere = Outpoint(hashlib.sha256(f"nowhere {self._made}".encode()).digest(), 0)
        unlock = wallet_unlock(STRANGER.pubkey, b"\x76\xa9\x14" + hash160(STRANGER.pubkey) + b"\x88\xac")
        tx = Draft((Input(nowhere, value + 1000, unlock),), (Output(value, script),)).signed(STRANGER)
        self.entries.append(Entry(tx.GetTxid(), tx.serialize(), self.tip if mined else None))
        return Outpoint(tx.GetTxid(), 0)

    def mine(self, blocks: int = 1) -> None:
        """Blocks, the first of which takes the whole mempool."""
        first = Height(self.tip + 1)
        self.entries = [replace(item, height=first) if item.height is None else item for item in self.entries]
        self.tip = Height(self.tip + blocks)

    def disconnect(self, blocks: int) -> None:
        """Take blocks away, and put as many empty ones in their place: what they held is in the mempool again."""
        kept = self.tip - blocks
        self.entries = [
            replace(item, height=None) if item.height is not None and item.height > kept else item
            for item in self.entries
        ]

    def drop(self, txid: bytes) -> None:
        """Forget a transaction."""
        self.entries = [item for item in self.entries if item.txid != txid]

    def facts(self, channel: Channel, revoked: Sequence[Revoked] = (), *, asked: bool = True) -> Facts:
        """Return what a party knows of a channel; ``asked``: of the ledger too."""
        script = channel.script.output
        coins = tuple(
            (item, coin) for item in revoked for coin in self._coins(channel.commit_script(item.revoke_hash).output)
        )
        found = Facts(
            self.tip,
            self._history(script),
            self._coins(script),
            revoked_coins=coins,
            assets=self._asset_ids(script) if asked else None,
        )
        entry = anchor_spender(channel, found)
        paid = first_output(entry) if entry else b""
        if not is_p2sh(paid):
            return found
        return replace(
            found,
            commit_history=self._history(paid),
            commit_coins=self._coins(paid),
            commit_assets=self._asset_ids(paid) if asked else None,
        )

    def held(self, script: bytes, asset: int) -> int:
        """Return what the confirmed ledger says a script holds of an asset."""
        return self._balances().get((script, asset), 0)

    def output(self, outpoint: Outpoint) -> tuple[Output, Height | None] | None:
        """An output that was made, and the height of its block."""
        for entry in self.entries:
            if entry.txid == outpoint.txid:
                out = parsed(entry.raw).vout[outpoint.vout]
                return Output(out.nValue, bytes(out.scriptPubKey)), entry.height
        return None

    # The Chain that a session sees -----------------------------------------------------------------------------------

    def view(self, query: Query) -> View:
        """Answer a query, as of the tip."""
        scripts = {item: script_of_address(REGTEST, item) for item in (*query.coins, *query.history, *query.balances)}
        known = {entry.txid: entry.raw for entry in self.entries}
        return View(
            self.tip,
            self.fee_rate,
            coins={item: self._coins(scripts[item]) for item in query.coins},
            history={item: self._history(scripts[item]) for item in query.history},
            balances={item: self._rows(scripts[item]) for item in query.balances},
            options={item: self.options.get(item, 0) for item in query.options},
            transactions={txid: known[txid] for txid in query.transactions if txid in known},
        )

    def asset(self, name: str) -> Asset:
        """An asset, indivisible but for XCP."""
        return Asset(name, asset_id(name), name == "XCP")

    def attached(self, outpoints: Collection[Outpoint]) -> set[Outpoint]:
        """Those that a test has attached assets to."""
        return self.with_assets.intersection(outpoints)

    def broadcast(self, raw: bytes) -> bytes:
        """Take a transaction into the mempool. Raises BroadcastRefused."""
        tx = parsed(raw)
        txid = bytes(tx.GetTxid())
        if all(entry.txid != txid for entry in self.entries):
            self._check(tx, raw)
            self.entries.append(Entry(txid, raw, None))
        return txid

    def _check(self, tx: CTransaction, raw: bytes) -> None:
        taken = {outpoint for entry in self.entries for outpoint in spent_outpoints(parsed(entry.raw))}
        spent: list[Output] = []
        for coin, outpoint in zip(tx.vin, spent_outpoints(tx), strict=True):
            found = self.output(outpoint)
            if found is None or outpoint in taken:
                raise BroadcastRefused(f"{outpoint} is missing or spent.")
            output, height = found
            depth = 0 if height is None else self.tip - height + 1
            if tx.nVersion >= 2 and coin.nSequence < 2**31 and depth < coin.nSequence:
                raise BroadcastRefused(f"{outpoint} is {depth} blocks old, not {coin.nSequence}.")
            spent.append(output)
        if not kernel_accepts(raw, spent):
            raise BroadcastRefused("A script is not fulfilled.")
        made = sum(out.nValue for out in tx.vout)
        fee = sum(out.value for out in spent) - made
        small = any(out.nValue < DUST and bytes(out.scriptPubKey)[:1] != b"\x6a" for out in tx.vout)
        if fee < len(raw) or small:
            raise BroadcastRefused(f"A fee of {fee} for {len(raw)} bytes, or dust.")

    def _history(self, script: bytes) -> tuple[Entry, ...]:
        made: set[Outpoint] = set()
        found = []
        for entry in self.entries:
            tx = parsed(entry.raw)
            paid = {Outpoint(entry.txid, n) for n, out in enumerate(tx.vout) if bytes(out.scriptPubKey) == script}
            if paid or made.intersection(spent_outpoints(tx)):
                found.append(entry)
            made |= paid
        return tuple(found)

    def _coins(self, script: bytes) -> tuple[Coin, ...]:
        return unspent(script, self._history(script))

    def _balances(self) -> dict[tuple[bytes, int], int]:
        held: dict[tuple[bytes, int], int] = {}
        for script, asset, quantity in self.granted:
            held[script, asset] = held.get((script, asset), 0) + quantity
        mined = [entry for entry in self.entries if entry.height is not None]
        for entry in sorted(mined, key=lambda item: item.height or 0):
            tx = parsed(entry.raw)
            source = self.output(spent_outpoints(tx)[0])
            reading = read_transaction(tx, source[0].script) if source else None
            send = unpack_send(reading.message) if reading and reading.message else None
            if reading is None or send is None:
                continue
            (target,) = reading.destinations
            moved = min(send.quantity, held.get((reading.source, send.asset_id), 0))
            held[reading.source, send.asset_id] = held.get((reading.source, send.asset_id), 0) - moved
            held[target, send.asset_id] = held.get((target, send.asset_id), 0) + moved
        return held

    def _asset_ids(self, script: bytes) -> tuple[int, ...]:
        return tuple(asset for (at, asset), quantity in self._balances().items() if at == script and quantity)

    def _rows(self, script: bytes) -> Mapping[str, int]:
        """As a node tells them: with the bitcoins, and with what is gone."""
        confirmed = sum(coin.value for coin in self._coins(script) if coin.height is not None)
        return {"BTC": confirmed, asset_name(GONE): 0, **self._named(script)}

    def _named(self, script: bytes) -> Mapping[str, int]:
        return {asset_name(asset): self.held(script, asset) for asset in self._asset_ids(script)}


class HubAnswers:
    """A hub's answers on one connection, made by the channel's own rules; it knows nothing of a chain."""

    def __init__(self, terms: Terms, key: Key = PAYEE, handle: Handle = HANDLE) -> None:
        self.terms = terms
        self.key = key
        self.secrets = Secrets(self.key, b"salt of the hub.")
        self.handle = handle
        self.refuses: Exception | None = None  # what it answers instead
        self.reveals = True  # its spend secret, at a close
        self.shows = False  # how its deposit stands, at a close; originals don't
        self.refusing: set[Token] = set()  # payments that it gives back
        self.lies: dict[str, Mapping[str, Any]] = {}  # by method, members that it signs in the place of the right ones
        self.to_pay: list[int] = []  # what others have paid to the client
        self.accepted: list[Commit] = []
        self.client_secret: Secret | None = None
        self.duplex: pair.Duplex
        self._client_hash: Hash
        self._due = 0
        self._drawn: dict[Hash, Secret] = {}
        self._answers: dict[bytes, dict[str, Any]] = {}

    @property
    def script(self) -> bytes:
        """The scriptPubKey of its wallet."""
        return b"\x76\xa9\x14" + hash160(self.key.pubkey) + b"\x88\xac"

    def call(self, method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        """The signed reply to a signed request, the same to the same one."""
        if self.refuses is not None:
            raise self.refuses
        methods: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "mph_key": lambda _body: {},
            "mph_request": self._request,
            "mph_deposit": self._deposit,
            "mph_sync": self._sync,
            "mph_close": self._close,
        }
        request = envelope.digest(params)
        if request not in self._answers or method == "mph_close":
            self._answers[request] = {**methods[method](params), "request_sha256": request.hex()}
        return envelope.seal(self.key, {**self._answers[request], **self.lies.get(method, {})})

    def _draw(self) -> Hash:
        number = len(self._drawn)
        made = self.secrets.revoke_hash(number)
        self._drawn[made] = self.secrets.revoke(number)
        return made

    def _request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._client_hash = ConnectRequest.parse(body).spend_hash
        return ConnectReply(self.handle, self.secrets.spend_hash, self.terms.as_json()).as_json()

    def _deposit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        asked = DepositMessage.parse(body, HubUnreachable)
        c2h = DepositScript.parse(asked.script)
        h2c = DepositScript(self.key.pubkey, c2h.payer, self._client_hash, c2h.expire)
        matching, asset = Quantity(self.terms.matching_deposit(asked.quantity)), asset_id(body["asset"])
        channels = pair.Duplex(
            Channel(asset, h2c, matching, asked.delay, self.terms.fee_rate),
            Channel(asset, c2h, asked.quantity, asked.delay, self.terms.fee_rate),
        )
        own = self._draw()
        self.duplex = pair.hand_out(pair.add_request(channels, asked.next_hash), own)
        return DepositMessage(h2c.redeem, own, matching, asked.delay).as_json()

    def _sync(self, body: Mapping[str, Any]) -> dict[str, Any]:
        request = SyncRequest.parse(body)
        taken = pair.accept(self.duplex, request.half)
        back = [item for item in request.payments if item.token in self.refusing]
        paid = sum(item.amount for item in request.payments if item not in back)
        self._due += taken.net - self.duplex.net - self.terms.sync_fee - paid
        if request.half.offer:
            self.accepted.append(taken.receiving.active[-1])
        count, total = pair.deliverable(taken, self._due, self.to_pay)
        moved, half = pair.transfer(taken, total, self.key, self._drawn.__getitem__)
        self._due += sum(self.to_pay[:count]) - total
        own = self._draw()
        self.duplex = pair.hand_out(pair.add_request(moved, request.next_hash), own)
        receipts = tuple(
            Receipt(self.handle, Quantity(amount), Token(b"paid %d" % amount)) for amount in self.to_pay[:count]
        )
        del self.to_pay[:count]
        refused = tuple(Refusal(item.token, "UnknownHandle") for item in back)
        return SyncReply(half, receipts, own, refused).as_json()

    def _close(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.client_secret = CloseRequest.parse(body).spend_secret
        reveals = self.reveals and not self.duplex.receiving.active
        standing = pair.standing(self.duplex.sending) if self.shows else None
        return CloseReply(self.secrets.spend if reveals else None, standing).as_json()

    def owes(self, amount: int) -> None:
        """Have it move so much more to the client."""
        self._due += amount

    def see(self, anchor: Anchor | None) -> None:
        """Take the client's deposit for confirmed."""
        self.duplex = replace(self.duplex, receiving=replace(self.duplex.receiving, anchor=anchor))

    def deposited(self, coins: Iterable[Coin], rate: int = 1) -> bytes:
        """Its deposit, signed, out of coins of its wallet; from here on its commits spend that."""
        channel = self.duplex.sending
        purse = Purse(wallet_unlock(self.key.pubkey, self.script), tuple(coins), rate)
        draft = compose_deposit(purse, channel.script, channel.asset_id, channel.quantity, channel.budget)
        tx = draft.signed(self.key)
        anchor = Anchor(Outpoint(tx.GetTxid(), 0), draft.outputs[0].value)
        self.duplex = replace(self.duplex, sending=replace(channel, anchor=anchor))
        return bytes(tx.serialize())


class ScriptedHub(HubAnswers):
    """A hub on a chain in memory; what it does there, the test tells it to do."""

    url = "http://hub.invalid/api/"

    def __init__(self, chain: MemoryChain, terms: Terms) -> None:
        super().__init__(terms)
        self.chain = chain

    def fund(self) -> None:
        """Publish its deposit."""
        coin = self.chain.fund(self.script, 1_000_000)
        self.chain.broadcast(self.deposited([wallet_coin(coin, 1_000_000)]))

    def publish(self, commit: Commit) -> bytes:
        """Publish a commit that it has received, revoked or not; its txid."""
        return self.chain.broadcast(finished(self.duplex.receiving, commit, self.key))

    def pay_out(self) -> bytes:
        """Publish the payout of its published commit; its txid."""
        receiving = self.duplex.receiving
        facts = self.chain.facts(receiving)
        purse = Purse(wallet_unlock(self.key.pubkey, self.script), (), 1)
        (draft,) = recovery.payouts(receiving, facts, self.secrets.spend, purse, REGTEST.safe_depth)
        return self.chain.broadcast(draft.signed(self.key).serialize())


def address(script: bytes) -> str:
    """The regtest address of a script."""
    return str(address_of_script(REGTEST, script))
