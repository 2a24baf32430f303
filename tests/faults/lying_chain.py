"""Part: a hub that lies about the chain to a client without a chain view of its own, in unsigned proxied replies.

Such a client believes its hub what the chain holds; what it signs it believes nobody. So the measure here is: nothing
is signed that pays somebody else or a fee beyond the ceiling, no secret leaves of a commit that is not given back, no
balance is given away; and no failure without a name.
"""

from __future__ import annotations

import json
import random
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bitcoin.core import CTransaction
from hub_support import DEPOSIT

from faults.lying_hub import check_signed
from faults.mutations import Known, Mutation, chosen, mutations
from faults.result import Budget, Result
from faults.town import ASSETS, FEE, Party, Town, heard, running_town
from picopayments_cli.channel.scripts import P2A
from picopayments_cli.channel.values import Handle, Secret, hash_of
from picopayments_cli.errors import PicopaymentsError

QUICK = 1  # lies of either kind to each command at each stage
MAX_RATE = 100  # sat/vB: the default fee_ceiling
NOT_READ = {
    *("last_block", "block_hash", "block_index", "block_time", "last_message_index", "api_limit_rows", "server_ready"),
    *("version_major", "version_minor", "version_revision", "bitcoind_blocks_behind", "scriptPubKey", "(whole)"),
    *("running_regtest", "running_signet", "running_testnet", "running_testnet4", "db_version"),
}
_OUTPOINT = re.compile("[0-9a-f]{64}:[0-9]+")
SLACK = 400  # vB of a parent that is in the mempool already, and paid for by its child
Change = Callable[[str, Any, Any], Any]


class Teller:
    """A town whose hub lies about the chain, and what it told before."""

    def __init__(self, town: Town, rng: random.Random, result: Result, number: int | None) -> None:
        self.town, self.rng, self.result, self.number = town, rng, result, number
        self.before: dict[str, Any] = {}  # by method and params, as an earlier stage heard it
        self.bob = Party(town, "bob")
        self.bobs = self.bob.open()

    def party(self, name: str) -> Party:
        """A client that sees the chain through the hub."""
        return Party(self.town, name, own_chain=False)

    def received(self, name: str) -> Party:
        """One with a connection on which it has paid and received."""
        party = self.party(name)
        handle = party.open()
        party.pay(handle, self.bobs, 300)
        self.bob.sync(self.bobs)
        self.bob.pay(self.bobs, handle, 700)
        party.sync(handle)
        self.result.hold(party.connection(handle).duplex.receiving.active, "nothing was received")
        return party

    def stage(self, stage: str, party: Party, *commands: str) -> None:
        """Every lie to each command, one at a time, each on the same files and the same chain; then the truth."""
        party.left = []
        party.keep()
        self.town.keep()
        for command in commands:
            heard_now = self._listen(party, command)
            for lies in (_tales(self.before), self._changes(heard_now)):
                for name in chosen(list(lies), self.number, self.rng):
                    self._lie(party, command, lies[name], f"{command} {stage}: {name}", name)
            self.before |= heard_now
        party.left = None

    def _listen(self, party: Party, command: str) -> dict[str, Any]:
        """What the hub tells about the chain when a command asks."""
        told: dict[str, Any] = {}

        def listen(method: str, params: Any, said: Any) -> Any:
            if not method.startswith("mph_"):
                told[_question(method, params)] = said
            return said

        self.town.proxy.change = listen
        _do(party, command)
        self._back(party)
        return told

    def _back(self, party: Party) -> None:
        self.town.proxy.change = None
        party.back()
        self.town.back()
        if party.left is not None:
            party.left.clear()

    def _changes(self, told: Mapping[str, Any]) -> dict[str, Change]:
        """Each change of each member of an answer."""
        answers: dict[str, Any] = {}
        for question, said in told.items():
            if said not in ([], {}, None):
                answers.setdefault(question.partition(" ")[0], said)
        found = {}
        for method, said in answers.items():
            for mutation in mutations({"answer": said}, Known(), self.rng):
                if mutation.member.rpartition(".")[2] not in NOT_READ:
                    pair = f"{method} {_OUTPOINT.sub('{}', mutation.pair)}"
                    found[pair] = _changing(method, mutation)
        return found

    def _lie(self, party: Party, command: str, change: Change, what: str, pair: str) -> None:
        """One lie to one command."""
        handles = party.handles()
        before = {handle: party.guaranteed(handle) for handle in handles}
        start = len(self.town.proxy.asked)
        self.town.proxy.change = lambda method, params, said: (
            said if method.startswith("mph_") else change(method, params, said)
        )
        name = self._tried(party, command, what)
        for handle in party.handles():
            self._check(party, handle, before.get(handle, DEPOSIT), start, what)
        self._check_left(party, what)
        self._back(party)
        self.result.trials += 1
        self.result.refused += name is not None
        self.result.recovered += name is None
        self.result.pairs[pair] = name or self.result.pairs.get(pair, "harmless: nothing wrong was signed")

    def _tried(self, party: Party, command: str, what: str) -> str | None:
        try:
            _do(party, command)
        except PicopaymentsError as error:
            self.result.hold(error.exit_code in (1, 3, 5), f"{what}: exit code {error.exit_code}")
            return error.name
        except Exception:
            self.result.failures.append(f"{what}: {traceback.format_exc()}")
        return None

    def _check(self, party: Party, handle: Handle, before: int, start: int, what: str) -> None:
        """Hold what a connection is worth, what was signed of its close, and which secrets left."""
        connection = party.connection(handle)
        self.result.keep(before - FEE, connection.duplex.guaranteed, what)
        check_signed(connection, self.result, what)
        held = {item.revoke_hash for item in connection.duplex.receiving.active}
        for method, params in self.town.proxy.asked[start:]:
            shown = params.get("revokes", ()) if method.startswith("mph_") and isinstance(params, dict) else ()
            gone = {hash_of(Secret(bytes.fromhex(text))) for text in shown}
            self.result.hold(not gone & held, f"{what}: the secret of a commit that counts left in {method}")

    def _check_left(self, party: Party, what: str) -> None:
        """Hold what was signed to the real values of its inputs, and to the scripts that it may pay."""
        raws = {CTransaction.deserialize(raw).GetTxid(): raw for raw in party.left or ()}
        own, fees, size = self._scripts(party), 0, SLACK
        for raw in raws.values():
            tx = CTransaction.deserialize(raw)
            made = [raws.get(item.prevout.hash) or self._raw(item.prevout.hash) for item in tx.vin]
            spent = zip((CTransaction.deserialize(item) for item in made), tx.vin, strict=True)
            fees += sum(source.vout[item.prevout.n].nValue for source, item in spent)
            fees -= sum(out.nValue for out in tx.vout)
            size += len(raw)
            foreign = [out.nValue for out in tx.vout if bytes(out.scriptPubKey) not in own and out.nValue]
            self.result.hold(not foreign, f"{what}: signed a payment of {foreign} elsewhere")
        self.result.hold(0 <= fees <= MAX_RATE * size, f"{what}: signed fees of {fees} for {size} bytes")

    def _raw(self, txid: bytes) -> bytes:
        return bytes.fromhex(self.town.node.bitcoin("getrawtransaction", txid[::-1].hex()))

    def _scripts(self, party: Party) -> set[bytes]:
        scripts = {party.script, self.town.desk.hub.script, P2A}
        for handle in party.handles():
            for side in (party.connection(handle).duplex.sending, party.connection(handle).duplex.receiving):
                commits = [side.contract.commit_script(item.revoke_hash).output for item in side.active]
                scripts |= {side.contract.deposit.output, *commits}
        return scripts


def _question(method: str, params: Any) -> str:
    return f"{method} {json.dumps(params, sort_keys=True)}"


def _do(party: Party, command: str) -> None:
    if command == "connect":
        party.connect()
    elif command == "close":
        party.close(party.handles()[0])
    else:
        party.do(command)


def _changing(method: str, mutation: Mutation) -> Change:
    def change(asked: str, _params: Any, said: Any) -> Any:
        return mutation.apply({"answer": said}).get("answer") if asked == method else said

    return change


# Tales --------------------------------------------------------------------------------------------------------------


def _tales(before: Mapping[str, Any]) -> dict[str, Change]:
    """Lies that hold together over a whole command. ``before``: the answers of an earlier time."""

    def only(method: str, make: Callable[[Any], Any]) -> Change:
        return lambda asked, _params, said: make(said) if asked == method else said

    def member(method: str, name: str, make: Callable[[Any], Any]) -> Change:
        def changed(said: Any) -> Any:
            return [{**item, name: make(item.get(name))} for item in said] if isinstance(said, list) else said

        return only(method, changed)

    def height(more: int) -> Change:
        name = "bitcoin_block_count"
        return only("get_running_info", lambda said: {**said, name: said[name] + more})

    def older(*methods: str) -> Change:
        def change(method: str, params: Any, said: Any) -> Any:
            return before.get(_question(method, params), said) if not methods or method in methods else said

        return change

    def confirmed(number: Callable[[Any], Any]) -> Change:
        changes = {method: member(method, "confirmations", number) for method in _DATED}
        return lambda asked, params, said: changes[asked](asked, params, said) if asked in changes else said

    def estimate(rate: Any) -> Change:
        return only("get_running_info", lambda said: {**said, "fee_rate": rate})

    coins, history, sends = "get_unspent_txouts", "search_raw_transactions", "get_sends"
    return {
        **{f"a height of {more:+}": height(more) for more in (-100, -10, -1, 1, 10, 200, 10**6)},
        **{f"an estimate of {rate}": estimate(rate) for rate in (0, 1, 5, 99, 101, 5000, 10**9, None, 0.5)},
        "all as it was before": older(),
        "coins as they were before": older(coins),
        "history as it was before": older(history, sends),
        "no coins": only(coins, lambda _said: []),
        "coins of less": member(coins, "value", lambda value: (value or 1000) // 2),
        "coins of more": member(coins, "value", lambda value: 2 * (value or 1000)),
        "coins twice": only(coins, lambda said: said * 2),
        "no history": only(history, lambda _said: []),
        "half of the history": only(history, lambda said: said[len(said) // 2 :]),
        "a history that is cut": member(history, "truncated", lambda _: True),
        "nothing in the mempool": lambda method, _params, said: (
            [item for item in said if item.get("confirmations")] if method in _DATED else said
        ),
        "all unconfirmed": confirmed(lambda _: 0),
        "all buried": confirmed(lambda _: 40),
        "no sends": only(sends, lambda _said: []),
        "sends of twice as much": member(sends, "quantity", lambda value: 2 * value),
        "sends of less": member(sends, "quantity", lambda value: value - 1),
        "sends of another kind": member(sends, "send_type", lambda _: "attach"),
        "sends that are void": member(sends, "status", lambda _: "invalid: of all things"),
        "sends to another": member(sends, "destination", lambda _: "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"),
        "no assets": only("get_balances", lambda _said: []),
        "assets without end": member("get_balances", "quantity", lambda _: 2**62),
        "an option set": only("get_address_options", lambda said: {**said, "options": 1}),
        "assets on every coin": only("utxos_with_balances", lambda said: dict.fromkeys(said, True)),
        "no transactions": only("getrawtransaction_batch", lambda _said: {}),
        "transactions exchanged": only("getrawtransaction_batch", _exchanged),
    }


_DATED = ("get_unspent_txouts", "search_raw_transactions")


def _exchanged(said: Mapping[str, Any]) -> dict[str, Any]:
    return dict(zip(said, reversed(list(said.values())), strict=True))


# Stages -------------------------------------------------------------------------------------------------------------


def run(rng: random.Random, budget: Budget) -> Result:
    """Lies at each stage of a connection, to each command that asks the chain; then all settle on the chain."""
    result = Result("lying chain")
    with heard(), running_town(budget.folder / "town", result) as town:
        teller = Teller(town, rng, result, QUICK if budget.quick else None)
        newcomer = teller.party("newcomer")
        teller.stage("to a new wallet", newcomer, "connect", "balances")
        newcomer.connect()
        town.mine()
        teller.stage("while it opens", newcomer, "sync")
        owner = teller.received("owner")
        teller.stage("while it is open", owner, "sync", "status", "close")
        owner.close(owner.handles()[0])
        teller.stage("while it closes", owner, "sync")
        town.mine(3)
        teller.stage("when its close is buried", owner, "sync")
        lone = teller.received("lone")
        _stopped(town, lone)
        teller.stage("when the hub has published its commit", lone, "sync")
        _settle(teller, [newcomer, owner, lone, teller.bob])
    return result


def _stopped(town: Town, party: Party) -> None:
    """The hub closes alone, a few blocks ago."""
    town.desk.hub.draining = True
    town.mine(8)
    town.desk.hub.draining = False
    party.do("status")


def _settle(teller: Teller, parties: Sequence[Party]) -> None:
    """What was lied about settles by the truth, and every wallet holds what was guaranteed."""
    for party in parties:
        guaranteed = sum(map(party.guaranteed, party.handles()))
        teller.result.hold(party.settle(), f"{party.name} is not settled")
        teller.result.keep(guaranteed - FEE, party.held - ASSETS + DEPOSIT, f"{party.name} on chain")
