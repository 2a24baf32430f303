"""Part: a hub that lies about the chain to a client without a chain view of its own, in unsigned proxied replies.

Such a client believes its hub what the chain holds; what it signs it believes nobody. So the measure here is: no
signature over a wrong amount, to a foreign script or at a fee beyond the ceiling; no spend secret in a message before
its time; and no failure without a name.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bitcoin.core import CTransaction
from network_support import ASSETS, DEPOSIT, Network, running_network
from picopayments_cli.channel2.transactions import spent_outpoints

from faults.harness_client import EXPIRE, HarnessClient, heard
from faults.mutations import Known, Mutation, mutations
from faults.proxy import Proxy, between
from faults.result import Budget, Result
from picopayments_cli.errors import BroadcastRefused, PicopaymentsError

QUICK = 2  # changes of each method's answer at each stage
MAX_RATE = 100  # sat/vB: the default fee_ceiling, and the most that a commit's terms may say
CHANGED = (
    *("get_running_info", "get_unspent_txouts", "search_raw_transactions", "get_balances", "get_address_options"),
    *("getrawtransaction_batch", "utxos_with_balances", "get_asset_info", "sendrawtransaction", "mph_status"),
)
READ = {
    "get_running_info": ("bitcoin_block_count", "fee_rate"),
    "get_unspent_txouts": ("txid", "vout", "value", "confirmations"),
}


class Teller:
    """A network whose hub lies about the chain, and the scripts that a client may pay to."""

    def __init__(self, network: Network, proxy: Proxy, rng: random.Random, result: Result) -> None:
        self.network = network
        self.proxy = proxy
        self.rng = rng
        self.result = result
        self.signed: list[bytes] = []
        self.bob = HarnessClient(network, "bob").fund()
        self.bobs = self.bob.open()

    def capture(self, method: str, params: Any) -> Any:
        """Keep what is to be broadcast; the client hears that it was."""
        if method != "sendrawtransaction":
            return None
        raw = bytes.fromhex(params["tx_hex"])
        self.signed.append(raw)
        return CTransaction.deserialize(raw).GetTxid()[::-1].hex()

    def check_signed(self, party: HarnessClient, what: str) -> None:
        """Hold each transaction that a lie had signed to the real values of its inputs."""
        own = self._own_scripts(party)
        for raw in self.signed:
            tx = CTransaction.deserialize(raw)
            held = 0
            for outpoint in spent_outpoints(tx):
                made = self.network.raw(outpoint.txid[::-1].hex())
                held += made.vout[outpoint.vout].nValue
            fee = held - sum(out.nValue for out in tx.vout)
            self.result.hold(0 < fee <= MAX_RATE * len(raw), f"{what}: signed with a fee of {fee} for {len(raw)} bytes")
            foreign = [out for out in tx.vout if bytes(out.scriptPubKey) not in own and out.nValue]
            self.result.hold(not foreign, f"{what}: signed a payment of {[out.nValue for out in foreign]} elsewhere")
        self.signed.clear()

    def _own_scripts(self, party: HarnessClient) -> set[bytes]:
        scripts = {party.files.wallet_script}
        for handle in party.handles():
            duplex = party.connection(handle).duplex
            for channel in (duplex.sending, duplex.receiving):
                scripts.add(channel.script.output)
                scripts |= {channel.commit_script(item.revoke_hash).output for item in channel.active}
        return scripts

    def check_secrets(self, party: HarnessClient, what: str, start: int) -> None:
        """Hold what was sent meanwhile: no spend secret beside a commit received that is not given back."""
        for handle in party.handles():
            connection = party.connection(handle)
            secret = connection.secrets(party.key()).spend.hex()
            if not connection.duplex.receiving.active:
                continue
            for method, params in self.proxy.asked[start:]:
                if method.startswith("mph_"):
                    self.result.hold(secret not in str(params), f"{what}: the spend secret left in {method}")


def run(rng: random.Random, budget: Budget) -> Result:
    """Lies at each stage of a connection, to each command that asks the chain."""
    result = Result("lying chain")
    with running_network(budget.folder) as network, between(network.hub_url) as proxy, heard():
        teller = Teller(network, proxy, rng, result)
        _lies(teller, budget, "to a new wallet", _new(teller), [("connect", "XCP", DEPOSIT, EXPIRE), ("balances",)])
        _lies(teller, budget, "while it opens", _opening(teller), [("sync",), ("status",)])
        _lies(teller, budget, "while it is open", _open(teller), [("sync",), ("status",), ("hubstatus",)])
        _lies(teller, budget, "while it closes", _closing(teller), [("sync",)])
        _lies(teller, budget, "when it is paid out", _buried(teller), [("sync",)])
    return result


def _new(teller: Teller) -> HarnessClient:
    return HarnessClient(teller.network, "newcomer", teller.proxy.url, own_chain=False).fund()


def _opening(teller: Teller) -> HarnessClient:
    party = HarnessClient(teller.network, "opener", teller.proxy.url, own_chain=False).fund()
    party.do("connect", "XCP", DEPOSIT, EXPIRE)
    teller.network.mine()
    return party


def _received(teller: Teller, name: str) -> HarnessClient:
    """A client with a connection on which it has received."""
    party = HarnessClient(teller.network, name, teller.proxy.url, own_chain=False).fund()
    handle = party.open()
    teller.bob.do("queuepayment", teller.bobs, handle, 700)
    teller.bob.do("sync")
    party.do("sync")
    teller.result.hold(party.connection(handle).duplex.receiving.active, "nothing was received")
    return party


def _open(teller: Teller) -> HarnessClient:
    return _received(teller, "owner")


def _closing(teller: Teller) -> HarnessClient:
    party = _received(teller, "closer")
    party.do("close", party.handles()[0])
    return party


def _buried(teller: Teller) -> HarnessClient:
    party = _received(teller, "payee")
    party.do("close", party.handles()[0])
    teller.network.mine(3)
    return party


def _lies(
    teller: Teller, budget: Budget, stage: str, party: HarnessClient, commands: Sequence[tuple[Any, ...]]
) -> None:
    """Every change of every answer, one at a time, each on the same files and the same chain."""
    kept = party.copy("kept")
    for words in commands:
        for method, mutation in _changes(teller, budget, party, kept, words):
            party.restore(kept)
            _lie(teller, party, words, method, mutation, f"{words[0]} {stage}: {method} {mutation.pair}")
    party.restore(kept)
    _honest(teller, party, stage)


def _changes(
    teller: Teller, budget: Budget, party: HarnessClient, kept: Path, words: Sequence[Any]
) -> list[tuple[str, Mutation]]:
    """The changes of what the hub tells about the chain when a command asks."""
    told: dict[str, Any] = {}

    def listen(method: str, _params: Any, result: Any) -> Any:
        if method in CHANGED and result not in ([], {}, None):
            told.setdefault(method, result)
        return result

    teller.proxy.change, teller.proxy.capture = listen, teller.capture
    party.do(*words)
    teller.proxy.change = teller.proxy.capture = None
    party.restore(kept)
    teller.signed.clear()
    found = []
    for method, answer in told.items():
        changes = mutations({"answer": answer}, Known(), teller.rng)
        changes = [change for change in changes if _is_read(method, change.member)]
        for change in teller.rng.sample(changes, min(QUICK, len(changes))) if budget.quick else changes:
            found.append((method, change))
    return found


def _is_read(method: str, member: str) -> bool:
    """Whether a client looks at the member: the counterparty methods tell much more."""
    last = member.rpartition(".")[2]
    return member in ("answer", "answer[]") or (last in READ.get(method, (last,)) and member != "(whole)")


def _lie(
    teller: Teller, party: HarnessClient, words: Sequence[Any], method: str, mutation: Mutation, what: str
) -> None:
    """One lie to one command."""

    def change(asked: str, _params: Any, said: Any) -> Any:
        if asked != method:
            return said
        try:
            return mutation.apply({"answer": said}).get("answer")
        except (KeyError, IndexError, TypeError):  # this answer lacks the member
            return said

    start = len(teller.proxy.asked)
    captured: Callable[[str, Any], Any] = teller.capture
    if method == "sendrawtransaction":
        honest = captured

        def captured(asked: str, params: Any) -> Any:
            said = honest(asked, params)
            return said if said is None else change(asked, params, said)

    teller.proxy.change, teller.proxy.capture = change, captured
    name = _tried(teller, party, what, words)
    teller.proxy.change = teller.proxy.capture = None
    teller.check_signed(party, what)
    teller.check_secrets(party, what, start)
    teller.result.trials += 1
    teller.result.refused += name is not None
    teller.result.recovered += name is None
    pair = f"{method} {mutation.pair}"
    teller.result.pairs[pair] = name or teller.result.pairs.get(pair, "harmless: nothing wrong was signed")


def _tried(teller: Teller, party: HarnessClient, what: str, words: Sequence[Any]) -> str | None:
    try:
        party.do(*words)
    except PicopaymentsError as error:
        known = error.exit_code in (1, 3, 5)
        teller.result.hold(known, f"{what}: exit code {error.exit_code}")
        return error.name
    except Exception:
        teller.result.failures.append(f"{what}: {traceback.format_exc()}")
    return None


def _honest(teller: Teller, party: HarnessClient, stage: str) -> None:
    """After all the lies an honest hub settles with the client as it should be."""
    teller.proxy.faults.clear()
    if not party.handles():
        teller.result.keep(ASSETS, party.held(), f"{party.name}, who has deposited nothing")
        return
    guaranteed = sum(party.guaranteed(handle) for handle in party.handles())
    open_ones = sum(party.connection(handle).stage == "agreed" for handle in party.handles())
    try:
        teller.result.hold(party.settle(), f"{party.name} is not settled after lies {stage}")
    except BroadcastRefused as error:
        teller.result.failures.append(f"{party.name} can't settle after lies {stage}: {error.message}")
    has = party.held() - ASSETS + DEPOSIT
    teller.result.keep(guaranteed - open_ones, has, f"{party.name} on chain")
