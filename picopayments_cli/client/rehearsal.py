"""Tell what blocksend, connect and close would publish, with sizes and fees: nothing is written, and nothing leaves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from picopayments_cli.chain import Asset
from picopayments_cli.channel import duplex as pair
from picopayments_cli.channel.drafts import Draft
from picopayments_cli.channel.facts import Counter, Paid, Paying
from picopayments_cli.channel.fees import PATIENCE
from picopayments_cli.channel.halves import Closing
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.recovery import Case, tasks
from picopayments_cli.channel.stages import AGREED, CLOSING, OPEN, PROPOSED
from picopayments_cli.channel.status import StatusReply, StatusRequest
from picopayments_cli.channel.steps import Means, Step, plan
from picopayments_cli.channel.transactions import compose_close, compose_commit, compose_payout, compose_rest, has_rest
from picopayments_cli.channel.values import Height
from picopayments_cli.channel.wire import terms_json
from picopayments_cli.client import closing, exchange, funds, life, opening, publishing, send
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.session import Session
from picopayments_cli.errors import AssetNotInTerms, NotTransferable

_OF = {publishing.C2H: "deposit", publishing.H2C: "hub_deposit"}
_SIGNATURE = bytes(64)  # in the place of the hub's: a draft has its size without
Told = dict[str, Any]


def blocksend(session: Session, asset: Asset, destination: str, quantity: int, extra_btc: int) -> Told:
    """Tell which transaction ``client.send.blocksend`` would publish. Raises as it does."""
    with _unwritten(session):
        draft = send.compose(session, asset, destination, quantity, extra_btc)
        return {"transactions": [_transaction(session, "send", draft)]}


def connect(session: Session, wish: opening.Wish) -> Told:
    """Tell which deposit ``connect`` would publish at the terms that the hub shows now. Raises as it does."""
    with _unwritten(session):
        terms = _terms(session, wish.asset)
        found, draft = opening.rehearse(session, wish, terms)
        deposit = _transaction(session, "deposit", draft)
        deposit["pays"][0]["address"] = None  # it is known once the hub has named its keys
    return {
        "transactions": [deposit],
        "deposit": found.c2h.quantity,
        "hub_deposit": found.h2c.quantity,
        "carries": found.c2h.budget.anchor,
        "expire_height": found.c2h.deposit.height,
        "lock_fee": terms.lock_fee(found.h2c.quantity, wish.expire),
        "terms": terms_json(terms),
    }


def _terms(session: Session, asset: Asset) -> Any:
    """Ask the hub for its terms for an asset. Raises AssetNotInTerms."""
    asked = StatusRequest((asset.name,)).as_json()
    offered = StatusReply.parse(session.rpc.call("mph_status", asked, retry=True)).terms
    if asset.name not in offered:
        raise AssetNotInTerms(
            f"The hub offers no connections for {asset}: `picopayments-cli hubstatus` shows for which it does.",
            **asset.members,
        )
    return offered[asset.name]


# Closing ------------------------------------------------------------------------------------------------------------


def close(session: Session, connection: Connection) -> Told:
    """Tell what would be published if the hub agreed to a close now, and what alone, if it never did.

    ``returns`` of a transaction: what it brings into the wallet, less what it takes from there; their sums stand beside
    the lists. ``sync_fee``: what the last sync costs, 0 where there is none; what that moves is reckoned with. Of what
    comes later, ``from_height`` is the tip at which it goes out at the earliest, at the rate of today.
    """
    if connection.stage == PROPOSED:
        return _listed([], [], 0)
    with _unwritten(session):
        look, fee = session.sight.look(session.wallet.address, [connection]), 0
        if connection.stage == AGREED:
            connection, look, deposits = life.observe(session, connection, look)
            if life.status(session, connection, look, deposits) == OPEN:
                connection, fee = _synced(session, connection)
        tip = look.view.height
        stopped = replace(connection, stage=CLOSING, ending=replace(connection.ending, since=tip))
        cases, means = closing.cases(session, stopped, look), funds.means(session, look)
        rehearsed = _Rehearsed(session, connection, means)
        late = [replace(case, since=tip - PATIENCE) for case in cases]
        return _listed(
            [*rehearsed.steps(map(_agreed, cases)), *rehearsed.rest(_agreed(cases[0]))],
            [*rehearsed.steps(late), *rehearsed.later(late)],
            fee,
        )


def _listed(agreed: list[Told], alone: list[Told], fee: int) -> Told:
    lists = {"agreed": agreed, "alone": alone}
    return {**lists, **{f"{name}_returns": _sums(told) for name, told in lists.items()}, "sync_fee": fee}


def _sums(transactions: Sequence[Told]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for told in transactions:
        for name, quantity in told.get("returns", {}).items():
            sums[name] = sums.get(name, 0) + quantity
    return sums


def _synced(session: Session, connection: Connection) -> tuple[Connection, int]:
    """The connection once its last sync has moved the fee and what is queued, and that fee; none if it can't move it.

    Nobody knows before how much the hub pays in that sync.
    """
    try:
        _, total = exchange.payable(connection)
    except NotTransferable:
        return connection, 0
    moved, _, changes = pair.transfer(connection.duplex, total, connection.secrets(session.wallet.key))
    return connection.with_state(moved, changes), connection.next_fee


def _agreed(case: Case) -> Case:
    """A channel whose close both have signed, at what has moved on it."""
    side = case.side
    if side.anchor is None or case.facts.spend is not None:
        return case
    if isinstance(side, Paying):
        return replace(case, side=replace(side, closings=(Closing(_moved(case), _SIGNATURE, _SIGNATURE),)))
    best = side.best
    return case if best is None else replace(case, side=replace(side, counters=(Counter(best.quantity, _SIGNATURE),)))


@dataclass(frozen=True)
class _Rehearsed:
    """The transactions of a connection's end, as they are told."""

    session: Session
    connection: Connection
    means: Means

    def steps(self, cases: Iterable[Case]) -> list[Told]:
        """Tell the steps that are due now, and what each brings home."""
        by_label = {case.label: case for case in cases}
        found = plan([task for case in by_label.values() for task in tasks(case)], self.means)
        return [told for step in found for told in self._step(step, by_label[step.label])]

    def _step(self, step: Step, case: Case) -> Iterator[Told]:
        """The transactions of a step, the child that raises it too."""
        name = step.name.value
        for kind, draft in ((name, step.draft), (f"{name}'s child", step.child)):
            if draft is not None:
                yield self._told(kind, draft, case)
        if step.waits is not None:
            yield {"kind": name, "of": _OF[case.label], "waits": step.waits.value}

    def rest(self, case: Case) -> Iterator[Told]:
        """The rest of a close of the own deposit, which follows it."""
        moved, anchor, spend = _moved(case), case.side.anchor, case.facts.spend
        if anchor is not None and spend is None and has_rest(case.contract, moved):
            draft = compose_rest(case.contract, compose_close(case.contract, anchor, moved))
            yield self._told("rest", draft, case, case.facts.tip + 1)

    def later(self, cases: Sequence[Case]) -> Iterator[Told]:
        """Tell what follows where the hub stays silent: the payout of the own commit, the expiry of the own deposit."""
        c2h, h2c = cases
        best, anchor = h2c.side.best if isinstance(h2c.side, Paid) else None, h2c.side.anchor
        if best is not None and anchor is not None and h2c.facts.spend is None:
            commit = compose_commit(h2c.contract, anchor, best.quantity, best.revoke_hash)
            payout = compose_payout(h2c.contract, commit, best.revoke_hash)
            yield self._told("payout", payout, h2c, h2c.facts.tip + h2c.contract.delay)
        if c2h.side.anchor is not None and c2h.facts.spend is None:
            height = Height(max(c2h.contract.deposit.height, c2h.facts.tip))
            for told in self.steps([replace(c2h, facts=replace(c2h.facts, tip=height))]):
                yield {**told, "from_height": height}

    def _told(self, kind: str, draft: Draft, case: Case, height: int | None = None) -> Told:
        """A transaction, what it spends one of, what it brings home, and from which tip on it goes out if not now."""
        wallet = self.session.wallet.script
        satoshis = sum(out.value for out in draft.outputs if out.script == wallet)
        satoshis -= sum(spent.coin.value for spent in draft.inputs if spent.coin.script == wallet)
        returns = {"BTC": satoshis, self.connection.longname or self.connection.asset: _home(kind, case)}
        later = {} if height is None else {"from_height": height}
        return {**_transaction(self.session, kind, draft), "of": _OF[case.label], "returns": returns, **later}


def _moved(case: Case) -> int:
    """How much of a channel is the payee's: by what has spent the anchor, else by the newest commit that counts."""
    known = None if case.facts.spend is None else case.facts.spend.known
    if known is not None:
        return known.quantity
    if isinstance(case.side, Paying):
        return max((item.quantity for item in case.side.signed if item.secret is None), default=0)
    return 0 if case.side.best is None else case.side.best.quantity


def _home(kind: str, case: Case) -> int:
    """How much of the channel's asset a transaction of this kind brings home."""
    moved, total = _moved(case), case.contract.quantity
    if isinstance(case.side, Paid):
        return moved if kind in ("close", "payout") else 0
    if kind == "expire" and case.facts.spend is None:
        return total
    return {
        "close": 0 if moved else total,
        "rest": total - moved,
        "remainder": total - moved,
        "expire": total - moved,
        "revoke": moved,
    }.get(kind, 0)


# Transactions -------------------------------------------------------------------------------------------------------


def _transaction(session: Session, kind: str, draft: Draft) -> Told:
    """A transaction: its size in vB with the longest signatures, fee in satoshis, rate in sat/vB, coins and outputs."""
    return {
        "kind": kind,
        "size": draft.size,
        "fee": draft.fee,
        "fee_rate": round(draft.fee / draft.size, 2),
        "spends": [str(spent.coin.outpoint) for spent in draft.inputs],
        "pays": [{"address": address_of_script(session.network, out.script), "value": out.value}
                 for out in draft.outputs],
    }  # fmt: skip


@contextmanager
def _unwritten(session: Session) -> Iterator[None]:
    """Have what is looked up be forgotten again."""
    session.home.past.writes = False
    try:
        yield
    finally:
        session.home.fee_rate = None
