"""A client and a hub written to cheat: they talk by the channel's own rules, and break them where a trial says so."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bitcoin.core import CMutableTransaction, CTransaction
from bitcoin.core.script import CScript
from cheats import DEPOSIT, Town
from memory_support import HubAnswers
from regtest_support import address_of, script_of_key

from picopayments_cli.chain import Query
from picopayments_cli.channel import envelope
from picopayments_cli.channel.values import (
    HANDLE_SIZE,
    Coin,
    Handle,
    Hash,
    Outpoint,
    Pubkey,
    Quantity,
    Secret,
    Token,
    hash160,
)
from picopayments_cli.channel2 import duplex as pair
from picopayments_cli.channel2.keys import Key, Secrets
from picopayments_cli.channel2.messages import (
    ConnectReply,
    ConnectRequest,
    DepositMessage,
    DepositRequest,
    Payment,
    SyncReply,
    SyncRequest,
)
from picopayments_cli.channel2.scripts import (
    DepositScript,
    Unlock,
    change_unlock,
    expire_unlock,
    payout_unlock,
    push,
    wallet_unlock,
)
from picopayments_cli.channel2.state import Channel, Commit, finished
from picopayments_cli.channel2.terms import Terms
from picopayments_cli.channel2.transactions import (
    DUST,
    Anchor,
    Draft,
    Input,
    Output,
    Purse,
    check_deposit,
    compose_deposit,
    compose_payment,
    compose_recovery,
    find_secret,
    output_of,
    parse_transaction,
    spent_outpoints,
)
from picopayments_cli.errors import BadDeposit, BadReply, BroadcastRefused, PicopaymentsError
from picopayments_cli.rpc import RpcClient

XCP = 1
EXPIRE, DELAY = 60, 8  # blocks
TERMS = Terms(0, 0, 1.0, 0, 12, 1, 5)
LENGTHS = (31, 33, 521, 600)  # bytes of secrets that are none
DUSTS = 26  # payments, more than a page of history holds
FLOOD = 400  # coins, more than one transaction can spend
COMMIT_ERRORS = ("BadCommit", "BadCommitQuantity", "BadPayerSignature", "AmountsDiffer", "AmountExceedsSpendable")
RATE = 3  # sat/vB, of what a cheater publishes

Draw = Callable[[int], bytes]  # makes the secret of that number


class Cheater:
    """Somebody with a wallet on a chain, who publishes what suits."""

    def __init__(self, town: Town, rng: random.Random) -> None:
        self.town = town
        self.rng = rng
        self.key = Key(rng.randbytes(32))
        self.script = script_of_key(self.key)

    def fund(self) -> None:
        """Have the faucet fill the wallet: many coins, so that what waits in the mempool blocks nothing."""
        address = address_of(self.script)
        for number in range(12):
            self.town.node.rpc("faucet", address=address, btc=10_000_000, quantity=10 * DEPOSIT if number == 0 else 0)
        self.town.mine()

    @property
    def purse(self) -> Purse:
        """The confirmed coins that nothing spends yet."""
        coins = tuple(coin for coin in self.coins(self.script) if coin.height is not None)
        return Purse(wallet_unlock(self.key.pubkey, self.script), coins, RATE)

    def coins(self, script: bytes) -> tuple[Coin, ...]:
        """The unspent outputs of a script, those of the mempool too."""
        return self.town.coins(script)

    def held(self) -> int:
        """Return what the wallet holds of the asset."""
        address = address_of(self.script)
        return self.town.chain.view(Query(balances=[address])).balances[address].get("XCP", 0)

    def pay(self, script: bytes, value: int = 600) -> Outpoint:
        """Pay satoshis to any script; the output."""
        tx = compose_payment(self.purse, Output(value, script)).signed(self.key)
        self.town.broadcast(tx.serialize())
        return Outpoint(tx.GetTxid(), 0)

    def flood(self, script: bytes, number: int) -> None:
        """Pay a script so many times in one transaction."""
        coin = self.purse.coins[0]
        outputs = [Output(DUST, script)] * number
        change = Output(coin.value - number * (DUST + 40 * RATE), self.script)
        draft = Draft((Input(coin.outpoint, coin.value, self.purse.unlock),), (*outputs, change))
        self.town.broadcast(draft.signed(self.key).serialize())

    def spending_again(self, raw: bytes) -> bytes:
        """The coins that a transaction of the wallet's spends, back to the wallet."""
        coins = spent_outpoints(CTransaction.deserialize(raw))
        known = {coin.outpoint: coin.value for coin in self.purse.coins}
        inputs = tuple(Input(coin, known[coin], self.purse.unlock) for coin in coins)
        value = sum(coin.value for coin in inputs) - 10_000
        return bytes(Draft(inputs, (Output(value, self.script),)).signed(self.key).serialize())

    def replacing(self, raw: bytes) -> bytes:
        """Return what takes the place of a transaction in the mempool, by the wallet's last coin in it alone."""
        tx = CTransaction.deserialize(raw)
        coin = spent_outpoints(tx)[-1]
        made = self.town.chain.view(Query(transactions=[coin.txid])).transactions[coin.txid]
        value = output_of(made, coin).value
        draft = Draft((Input(coin, value, self.purse.unlock),), (Output(value - 50_000, self.script),))
        return bytes(draft.signed(self.key).serialize())

    # Spends of channels, whenever they suit ---------------------------------------------------------------------------

    def finished(self, channel: Channel, commit: Commit) -> bytes:
        """A commit that this cheater received, revoked or not, signed by both."""
        return finished(channel, commit, self.key)

    def payout(self, channel: Channel, revoke_hash: Hash, secret: Secret, coins: Sequence[Outpoint] = ()) -> bytes:
        """A payout of everything on a commit's address by some of its coins, all of them where none are named."""
        script = channel.commit_script(revoke_hash)
        return self._take(script.output, payout_unlock(script, secret), coins, channel.delay, 2)

    def change(self, channel: Channel, secret: Secret) -> bytes:
        """The payer's change of everything on a deposit's address, the anchor too."""
        return self._take(channel.script.output, change_unlock(channel.script, secret), (), None, 1)

    def expire(self, channel: Channel, coins: Sequence[Outpoint] = ()) -> bytes:
        """The payer's expiry by some of the coins on a deposit's address."""
        return self._take(channel.script.output, expire_unlock(channel.script), coins, channel.script.expire, 2)

    def _take(
        self, script: bytes, unlock: Unlock, named: Sequence[Outpoint], sequence: int | None, version: int
    ) -> bytes:
        found = [coin for coin in self.coins(script) if not named or coin.outpoint in named]
        inputs = [
            Input(coin.outpoint, coin.value, unlock)
            if sequence is None
            else Input(coin.outpoint, coin.value, unlock, sequence)
            for coin in found
        ]
        return bytes(compose_recovery(inputs, self.purse, XCP, version, urgent=True).signed(self.key).serialize())

    def disguised(self, raw: bytes, secret: bytes) -> bytes:
        """A payout with another push of the secret, another selector, and something in front: only a miner takes it."""
        tx = CMutableTransaction.from_tx(CTransaction.deserialize(raw))
        words = bytes(tx.vin[0].scriptSig)
        found = b"\x01\x2a" + words.replace(push(secret) + b"\x51", b"\x4d\x20\x00" + secret + b"\x02\x00\x01")
        tx.vin[0].scriptSig = CScript(found)
        return bytes(tx.serialize())

    def tries(self, compose: Callable[[], bytes]) -> bool:
        """Compose something and hand it to the network; whether it was taken."""
        try:
            self.town.broadcast(compose())
        except (BroadcastRefused, IndexError):  # no coin is left to begin with
            return False
        return True


def shown_secret(town: Town, channel: Channel) -> Secret | None:
    """The spend secret of a channel, where a spend of any of its commits' addresses shows it."""
    hashes = [*(item.revoke_hash for item in channel.active), *(item.revoke_hash for item in channel.revoked)]
    addresses = [address_of(channel.commit_script(item).output) for item in hashes]
    histories = town.chain.view(Query(history=addresses)).history.values()
    transactions = [parse_transaction(entry.raw) for history in histories for entry in history]
    found = (find_secret(tx, channel.script.spend_hash) for tx in transactions if tx is not None)
    return next((secret for secret in found if secret is not None), None)


def refusal(say: Callable[[], Any]) -> str | None:
    """The name by which the hub refuses something; None where it takes it."""
    try:
        say()
    except PicopaymentsError as error:
        return error.name
    return None


def commit_script(channel: Channel, commit: Commit) -> bytes:
    """The scriptPubKey of a commit."""
    return channel.commit_script(commit.revoke_hash).output


def shaped_like_signature(rng: random.Random) -> bytes:
    """Thirty-two bytes that Counterparty takes for a signature of SIGHASH_NONE."""
    return b"\x30\x1d\x02\x0c" + rng.randbytes(12) + b"\x02\x0d" + rng.randbytes(13) + b"\x02"


# A hub --------------------------------------------------------------------------------------------------------------


class CheatingHub(HubAnswers):
    """A hub of one connection, on a real chain; a repeated request gets its stored result.

    ``draw`` makes its revoke secrets; ``shape`` changes a result before it is signed, ``kept`` the one that is stored.
    """

    def __init__(self, town: Town, rng: random.Random) -> None:
        self.cheater = Cheater(town, rng)
        super().__init__(TERMS, self.cheater.key, Handle(rng.randbytes(HANDLE_SIZE)))
        self.town = town
        self.secrets = Secrets(self.key, rng.randbytes(16))
        self.draw: Draw = self.secrets.revoke
        self.shape: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda _method, body: body
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self._stored: dict[bytes, dict[str, Any]] = {}

    def method(self, name: str) -> Callable[..., Any]:
        """A method of the hub, for a server."""
        return lambda **params: self.call(name, params)

    def call(self, method: str, params: Mapping[str, Any], *, retry: bool = False) -> Any:
        """The signed result of a request."""
        self.asked.append((method, params))
        digest = envelope.digest(params)
        if self.refuses is not None or digest not in self._stored or method != "mph_sync":
            body = super().call(method, params, retry=retry)
            self._stored[digest] = {name: item for name, item in body.items() if name not in ("pubkey", "signature")}
        shaped: Any = envelope.seal(self.key, self.shape(method, dict(self._stored[digest])))
        return shaped

    def _draw(self) -> Hash:
        secret = self.draw(len(self._drawn))
        made = Hash(hash160(secret))
        self._drawn[made] = Secret(secret)
        return made

    def fund_deposit(self) -> None:
        """Publish its deposit."""
        self.town.broadcast(self.deposited(self.cheater.purse.coins))

    @property
    def c2h(self) -> Channel:
        """The channel on which the client pays it."""
        return self.duplex.receiving

    @property
    def h2c(self) -> Channel:
        """The channel on which it pays the client."""
        return self.duplex.sending

    def commit_named(self, quantity: int) -> Commit:
        """A commit that it once accepted."""
        return next(item for item in self.accepted if item.quantity == quantity)


# A client -----------------------------------------------------------------------------------------------------------


class CheatingClient(Cheater):
    """A client of one connection with an honest hub. ``draw`` makes its revoke secrets."""

    handle: Handle
    duplex: pair.Duplex

    def __init__(self, town: Town, rng: random.Random, key: Key | None = None) -> None:
        super().__init__(town, rng)
        if key is not None:
            self.key, self.script = key, script_of_key(key)
        self.secrets = Secrets(self.key, rng.randbytes(16))
        self.draw: Draw = self.secrets.revoke
        self.received: list[Commit] = []
        self.agreed = 0
        self._drawn: dict[Hash, bytes] = {}

    def call(self, method: str, body: Mapping[str, Any]) -> Any:
        """The result of a request that it signs. Raises what the hub refuses."""
        sealed = envelope.seal(self.key, body)
        return RpcClient(self.town.hub_url).call(method, sealed, retry=False)

    def drawn(self) -> Hash:
        """The hash of a fresh revoke secret."""
        secret = self.draw(len(self._drawn))
        made = Hash(hash160(secret))
        self._drawn[made] = secret
        return made

    @property
    def drawn_hashes(self) -> int:
        """How many hashes it has handed out: the number of the next one."""
        return len(self._drawn)

    def secret_of(self, wanted: Hash) -> Secret:
        """The revoke secret of a hash that it drew."""
        return Secret(self._drawn[wanted])

    def agree(
        self, expire: int = EXPIRE, delay: int = DELAY, meanwhile: Callable[[DepositScript], object] = bool
    ) -> bytes:
        """Agree on a connection; the deposit, signed. ``meanwhile``: what is done before the hub is told its script."""
        answer = self.call("mph_request", ConnectRequest("XCP", self.secrets.spend_hash).as_json())
        reply, hub = ConnectReply.parse(answer), Pubkey(bytes.fromhex(answer["pubkey"]))
        rate = Terms.parse(reply.terms).fee_rate
        self.handle = reply.handle
        c2h = DepositScript(self.key.pubkey, hub, reply.spend_hash, expire)
        h2c = DepositScript(hub, self.key.pubkey, self.secrets.spend_hash, expire)
        meanwhile(c2h)
        own = self.drawn()
        deposit = DepositMessage(c2h.redeem, own, Quantity(DEPOSIT), delay)
        message = DepositRequest(deposit, "XCP", self.handle).as_json()
        self.agreed = self.town.height
        agreed = DepositMessage.parse(self.call("mph_deposit", message), BadReply)
        sending = Channel(XCP, c2h, Quantity(DEPOSIT), delay, rate)
        draft = compose_deposit(self.purse, c2h, XCP, DEPOSIT, sending.budget)
        tx = draft.signed(self.key)
        anchor = Anchor(Outpoint(tx.GetTxid(), 0), draft.outputs[0].value)
        receiving = Channel(XCP, h2c, agreed.quantity, agreed.delay, rate)
        channels = pair.Duplex(replace(sending, anchor=anchor), receiving)
        self.duplex = pair.hand_out(pair.add_request(channels, agreed.next_hash), own)
        return bytes(tx.serialize())

    def open(self, expire: int = EXPIRE, delay: int = DELAY) -> None:
        """Open a connection, and wait until the hub sees it open."""
        self.town.broadcast(self.agree(expire, delay))
        self.wait_open()

    def wait_open(self) -> None:
        """Mine until the hub has deposited, and sees the connection open."""
        h2c = self.duplex.receiving
        address = address_of(h2c.script.output)

        def funded() -> Anchor | None:
            """The newest deposit on the address, which may be another connection's too."""
            found = None
            history = self.town.chain.view(Query(history=[address])).history[address]
            for entry in sorted(history, key=lambda entry: entry.height or 0):
                tx = parse_transaction(entry.raw)
                with contextlib.suppress(BadDeposit):
                    found = check_deposit(tx or CTransaction(), h2c.script, XCP, h2c.quantity, h2c.budget)
            return found

        self.town.mine_until(lambda: self.town.stages()[self.handle.hex()] == "open", "an open connection")
        self.duplex = replace(self.duplex, receiving=replace(h2c, anchor=funded()))

    def request(self, amount: int, *payments: Payment, duplex: pair.Duplex | None = None) -> dict[str, Any]:
        """A sync that moves an amount and makes payments, and what it leaves behind on this side."""
        self.duplex, half = pair.transfer(duplex or self.duplex, amount, self.key, self.secret_of)
        own = self.drawn()
        self.duplex = pair.hand_out(self.duplex, own)
        return {**SyncRequest(self.handle, half, payments, own).as_json(), "partial": False}

    def say(self, request: Mapping[str, Any]) -> SyncReply:
        """Send a sync, and take its reply. Raises what the hub refuses."""
        reply = SyncReply.parse(self.call("mph_sync", request))
        self.duplex = pair.add_request(pair.accept(self.duplex, reply.half), reply.next_hash)
        if reply.half.offer:
            self.received.append(self.duplex.receiving.active[-1])
        return reply

    def sync(self, amount: int, *payments: Payment) -> SyncReply:
        """A sync that moves an amount, the fee included."""
        return self.say(self.request(amount, *payments))

    def payment(self, amount: int, payee: Handle | None) -> Payment:
        """A payment; payee None: the hub."""
        return Payment(payee, Quantity(amount), Token(self.rng.randbytes(16)))

    @property
    def expires(self) -> int:
        """A height at which the deposits have expired."""
        return self.agreed + self.duplex.sending.script.expire

    def close(self, secret: Secret | None = None) -> Any:
        """Close the connection, saying no more than the original client did; the hub's answer."""
        return self.call("mph_close", {"handle": self.handle.hex(), "spend_secret": secret.hex() if secret else None})

    def guaranteed_to_hub(self) -> int:
        """Return what the hub says that it has in the connection."""
        shown = self.town.hub.call("mph_status", assets=None)["connections"]
        return int(shown[self.handle.hex()]["balance"])

    # What it does on the chain ----------------------------------------------------------------------------------------

    def publish(self, commit: Commit) -> None:
        """Publish a commit that it received, revoked or not."""
        self.town.broadcast(self.finished(self.duplex.receiving, commit))

    def paying_out(self, commit: Commit) -> bytes:
        """The payout of a commit that it received."""
        return self.payout(self.duplex.receiving, commit.revoke_hash, self.secrets.spend)

    def grabs(self, commit: Commit) -> bool:
        """Pay a commit out, if the network lets it."""
        return self.tries(lambda: self.paying_out(commit))

    def rob(self) -> bool:
        """Take its whole deposit back, where the hub has shown its spend secret; and what has expired."""
        channel = self.duplex.sending
        secret = shown_secret(self.town, channel)
        if secret is not None:
            self.tries(lambda: self.change(channel, secret))
        return self.tries(lambda: self.expire(channel))
