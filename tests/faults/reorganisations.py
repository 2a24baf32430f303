"""Part: blocks are lost at every stage of connections' lives, while fees rise and fall, and some cheat meanwhile.

One town has a client for each way in which a connection may end. Which kinds of transactions were lost at which depth
is counted; everybody ends with exactly what its history and its connection tell.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from channel_support import finish_commit, finish_payout
from regtest_support import running_node

from faults.proxy import between
from faults.reorganised_network import DEEPEST, DELAY, EXPIRE, KINDS, REFUSALS, REVOKE, Member, ReorganisedTown
from faults.result import Budget, Result
from faults.town import FEE, heard
from picopayments_cli.channel.drafts import txid_of
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.stages import AGREED, CLOSED, OPEN
from picopayments_cli.channel.state import Receiving, known_anchor
from picopayments_cli.channel.values import Handle

QUANTITY, BANKS = 100_000, 2_000_000
TIME = 80  # blocks until the deposits go back: a margin that is longer than what is lost at once, as on real networks
PATIENCE = 2 * TIME
LEAST, MOST = 6, 48  # towns
APART = DEEPEST + 3  # blocks between two reorganisations, so that something is buried
EARLY = 2  # of them before the connections are open: with less than half of the time left no hub deposits
SLOW = 8  # blocks in which a deposit that was lost is published and mined again
FAR_APART = DELAY + DEEPEST  # while somebody cheats
# The ways in which connections end: agreed (of nothing, and of the whole deposit), without the hub, by the deadline, by
# the expiry, by a revoked commit of either side, by a deposit of either side that is spent elsewhere before it counts.
PAYING = ("agreed", "through hub", "no packages", "alone", "margin", "cheat", "robbed")
CHEATED = ("cheat", "robbed")
YOUNG = ("thief", "robber")
LATE = ("margin", "never")
SILENT = ("alone", *LATE)
TOWNS = (
    *(("agreed", "no packages", "alone", "thief"), ("through hub", "unused", "spent", "robber")),
    *(("agreed", *CHEATED), ("alone", *LATE)),
)
QUICK = ("agreed", "alone", "robber")
ONLY_IN = {REVOKE: 2, EXPIRE: 3}  # the towns in which a kind is there
_WORTH = {"received": 1, "sent": -1, "fee": -1}  # of what a history tells


def run(rng: random.Random, budget: Budget) -> Result:
    """Towns until each kind of transaction was lost at each depth; in a quick run a single one."""
    result = Result("reorganisations")
    wanted = set(product(KINDS, range(1, DEEPEST + 1)))
    number = 0
    while budget.goes_on(number, budget.share(LEAST, 1)) or (not budget.quick and wanted and number < MOST):
        trials = result.trials
        endings = QUICK if budget.quick else TOWNS[_town(number, wanted)]
        with heard(), running(budget.folder / f"town{number}", result, rng) as town:
            Lives(town, endings, wanted).live()
        result.recovered += result.trials - trials
        number += 1
    result.hold(budget.quick or not wanted, f"never lost: {sorted(wanted)}")
    return result


def _town(number: int, wanted: Collection[tuple[str, int]]) -> int:
    """Which town comes next: each in its turn, then one in which something is that was not lost yet."""
    kinds = {kind for kind, _ in wanted}
    of_use = [ONLY_IN[kind] for kind in sorted(kinds & ONLY_IN.keys())]
    if number < len(TOWNS) or not of_use or kinds - ONLY_IN.keys():
        return number % len(TOWNS)
    return of_use[number % len(of_use)]


@contextmanager
def running(
    folder: Path, result: Result, rng: random.Random, kind: type[ReorganisedTown] = ReorganisedTown
) -> Iterator[ReorganisedTown]:
    """A town for the length of a ``with`` block."""
    folder.mkdir()
    with running_node(folder / "node", 0) as node:
        town = kind(folder, node, result, rng)
        try:
            with between(town.answer) as town.proxy:
                yield town
        finally:
            town.desk.stop()


class Lives:
    """The clients of a town, and all that happens to them. ``wanted``: kinds and depths that were never lost."""

    kind: type[Member] = Member

    def __init__(self, town: ReorganisedTown, endings: Sequence[str], wanted: set[tuple[str, int]]) -> None:
        self.town, self.wanted, self.rng, self.result = town, wanted, town.rng, town.result
        self.bank = self.kind(town, "bank")
        self.members = {
            name: self.kind(town, name, own_chain=name != "through hub", packages=name != "no packages")
            for name in endings
        }
        self.everybody = {"bank": self.bank, **self.members}
        town.mine(DEEPEST)  # nobody's own coins lie where blocks are lost
        self.first = town.tip
        self.held = {name: town.held(member.script) for name, member in self.everybody.items()}
        self.hubs = town.held(town.desk.hub.script)
        self.shaken = 0  # the height of the last reorganisation
        self.lost = 0  # times that blocks were lost in this phase
        self.phase = ""
        self.young = [name for name in YOUNG if name in endings]
        self.rogue: dict[str, tuple[bytes, bytes]] = {}  # revoked commits, with their payouts

    def live(self) -> None:
        """From the deposits to the end."""
        self.phase = "opening"
        for name, member in self.everybody.items():
            self._connect(member, BANKS if name == "bank" else QUANTITY)
        self._until(self._all_open, "open connections")
        self.phase = "open"
        self._pay()
        self.phase, self.town.restless = "ending", True
        self.lost = 0
        self._end()
        self._until(self._all_over, "the end")
        self.town.node.rpc("feerate", rate=1)
        self._check()

    # Time -----------------------------------------------------------------------------------------------------------

    def _until(self, reached: Callable[[], bool], what: str) -> None:
        """Blocks, syncs, now and then a reorganisation."""
        for _ in range(PATIENCE):
            if reached():
                return
            self.town.block()
            self._look_around()
            self._respend()
            depth = self._depth()
            if depth:
                self._lose(depth)
        stages = {name: (m.now.stage, self._hubs(m)) for name, m in self.everybody.items()}
        raise AssertionError(f"not reached in {PATIENCE} blocks: {what}; {stages}")

    def _look_around(self) -> None:
        """Have everybody sync who has a reason to, or look a block later; cheats try what they can."""
        for commit, payout in self.rogue.values():
            self.town.offer(commit)
            self.town.offer(payout)
        for name, member in self.everybody.items():
            if self.rng.random() < 0.7 and self._has_reason(member):
                self._sync(name, member)

    def _has_reason(self, member: Member) -> bool:
        """Whether a sync serves something, and costs no fee."""
        connection = member.now
        if connection.stage == AGREED:
            counts = None not in connection.counted
            ends = self.phase == "ending" and member.name not in LATE
            return ends or not counts or self.town.tip >= connection.expiry.settle_height
        return connection.stage != CLOSED or not connection.final

    def _sync(self, name: str, member: Member) -> None:
        error = member.error("sync")
        allowed = (*REFUSALS, "HubUnreachable") if member.silent else REFUSALS
        self.result.hold(error is None or error in allowed or self.phase == "opening", f"{name} in sync: {error}")

    def _depth(self) -> int:
        """How many blocks are lost now: mostly as many as take a kind away that was not lost so deep yet."""
        since = self.town.tip - self.shaken
        far = FAR_APART if self.rogue and self.phase == "ending" else APART
        soon = self.phase == "ending" and not self.lost  # that was long enough ago, before anybody cheated
        if (since < far and not soon) or (self.phase == "opening" and self.lost >= EARLY):
            return 0
        kinds = self.town.kinds(self._deposits(), self.first)
        new = {
            depth: sum((kind, depth) in self.wanted for kind in kinds.get(depth, ())) for depth in range(1, DEEPEST + 1)
        }
        depth = max(new, key=lambda item: (new[item], self.rng.random()))
        return depth if (new[depth] or self.rng.random() < 0.1) and not self._makes_late(depth) else 0

    def _makes_late(self, depth: int) -> bool:
        """Whether a deposit in the last blocks may come too late once they are lost: then its connection closes."""
        for name, member in self.everybody.items():
            connection = member.now
            lost = 0 < self.town.depth(txid_of(connection.deposit_raw)) <= depth
            by = connection.deposit_by
            if name not in YOUNG and lost and by is not None and self.town.tip + SLOW > by:
                return self.phase == "opening"
        return False

    def _lose(self, depth: int, *conflicts: bytes) -> None:
        kinds = self.town.kinds(self._deposits(), self.first)
        forget = bool(conflicts) or self.rng.random() < 0.5
        for at in range(1, depth + 1):
            for kind in kinds.get(at, ()):
                self.wanted.discard((kind, at))
                self.result.pairs[f"{kind}, {at} deep"] = "lost"
        guaranteed = {name: self._duplex(member).guaranteed for name, member in self.everybody.items()}
        self.town.lose(depth, forget=forget, conflicts=list(conflicts))
        self.shaken = self.town.tip
        self.lost += 1
        self.result.trials += 1
        for name, member in self.everybody.items():
            self.result.keep(guaranteed[name], self._duplex(member).guaranteed, f"{name}, {depth} blocks lost")
            if self.town.tip >= member.now.expiry.settle_height and self._has_reason(member):
                self._sync(name, member)  # most of its margin may be over

    # The connections ------------------------------------------------------------------------------------------------

    def _connect(self, member: Member, quantity: int) -> None:
        member.handle = Handle(bytes.fromhex(member.do("connect", "XCP", quantity, TIME, DELAY)["handle"]))

    def _duplex(self, member: Member) -> Duplex:
        return member.now.duplex

    def _hubs(self, member: Member) -> str:
        return self.town.account(member.handle).stage

    def _deposits(self) -> set[bytes]:
        duplexes = [self._duplex(member) for member in self.everybody.values()]
        return {side.contract.deposit.output for item in duplexes for side in (item.sending, item.receiving)}

    def _all_open(self) -> bool:
        """Whether all are open on both sides whose deposits stay what they are."""
        honest = [member for name, member in self.everybody.items() if name not in YOUNG]
        return all(self._hubs(member) == OPEN and None not in member.now.counted for member in honest)

    def _all_over(self) -> bool:
        return all(member.now.stage == CLOSED and self._hubs(member) == CLOSED for member in self.everybody.values())

    def _respend(self) -> None:
        """Have a deposit that does not count yet taken away, and its coins spent elsewhere, by who deposited."""
        hub = self.town.desk.hub
        for name in list(self.young):
            member = self.members[name]
            mine = name == "thief"
            raw = member.now.deposit_raw if mine else self.town.account(member.handle).deposit_raw
            depth = self.town.depth(txid_of(raw)) if raw else 0
            lost = max(depth, self.rng.randint(1, DEEPEST))
            if 0 < depth <= DEEPEST and self.rng.random() < 0.5 and not self._makes_late(lost):
                self.young.remove(name)
                owner = (member.key, member.script) if mine else (hub.key, hub.script)
                self._lose(lost, self.town.respent(raw or b"", *owner))

    def _move(self, payer: Member, payee: Member, amount: int) -> None:
        """A payment that arrives."""
        self.town.desk.rounds.once()
        token = payer.queue(payer.handle, payee.handle, amount)
        payer.do("sync")
        received = payee.do("sync")[payee.handle.hex()]["received_payments"]
        self.result.hold(token in [item["token"] for item in received], f"{payee.name} was not paid by {payer.name}")

    def _pay(self) -> None:
        """Payments both ways, which leave active and revoked commits on both sides."""
        for name, member in self.members.items():
            if name not in PAYING:
                continue
            spread = self.rng.randrange(500)
            self._move(self.bank, member, 5000 + spread)
            self._move(member, self.bank, 3000 + spread)
            hubs = self._rogue(name == "robbed", self.town.account(member.handle).channels.receiving, member, hub=True)
            self._move(self.bank, member, 4000 + spread)
            own = self._rogue(name == "cheat", self._duplex(member).receiving, member, hub=False)
            self._move(member, self.bank, 6500 + spread)
            self._move(self.bank, member, 2000 + spread)
            self._move(member, self.bank, 100)
            if rogue := hubs or own:
                self.rogue[name] = rogue
        if spent := self.members.get("spent"):
            self._move(spent, self.bank, self._duplex(spent).guaranteed - FEE)

    def _rogue(self, wanted: bool, side: Receiving, member: Member, *, hub: bool) -> tuple[bytes, bytes] | None:
        """The highest commit of a payee that is to be given back, and its payout, ready to publish."""
        if not wanted:
            return None
        hubs = self.town.account(member.handle).fixed.secrets(self.town.desk.hub.key)
        secrets = hubs if hub else member.secrets(member.handle)
        signed = (side.contract, known_anchor(side), side.active[-1].commit, secrets.payee)
        return finish_commit(*signed), finish_payout(*signed)

    def _end(self) -> None:
        """Let each connection come to its end."""
        for name, member in self.everybody.items():
            member.silent = name in SILENT
            if name not in (*LATE, *CHEATED):
                member.error("close", member.handle.hex())
        for name, (commit, _) in self.rogue.items():
            self.result.hold(self.town.offer(commit), f"no revoked commit of {name}")
        self.town.block()

    # Sums -----------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Hold everybody to what is due."""
        hubs = 0
        for name, member in self.everybody.items():
            least, most = self._due(name, member)
            has = self.town.held(member.script) - self.held[name]
            self.result.keep(least, has, f"{name} in the end")
            self.result.hold(has <= most, f"{name} has {has} in the end, not {most}")
            hubs -= has
        has = self.town.held(self.town.desk.hub.script) - self.hubs
        self.result.keep(hubs, has, "the hub in the end")

    def _due(self, name: str, member: Member) -> tuple[int, int]:
        """What a member gains at least and at most: as its connection tells, and more where a sync had no answer.

        Where a revoked commit was mined all of that channel is its payer's.
        """
        duplex, stake = member.now.duplex, member.now.duplex.sending.contract.quantity
        if name in self.rogue and self.town.depth(txid_of(self.rogue[name][0])):
            gain = duplex.receiving.moved if name == "robbed" else -duplex.sending.moved
            return gain, gain
        events = [event for event in member.history(member.handle) if event["action"] in _WORTH]
        told = [_WORTH[event["action"]] * int(event.get("amount") or event["sync_fee"]) for event in events]
        return duplex.guaranteed - stake, sum(told)
