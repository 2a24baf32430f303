"""Tell what blocksend, connect and close would publish, with sizes and fees: nothing is written, and nothing leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from picopayments_cli.chain import Asset
from picopayments_cli.channel.drafts import Draft
from picopayments_cli.channel.facts import Counter, Paid, Paying
from picopayments_cli.channel.fees import PATIENCE
from picopayments_cli.channel.halves import Closing
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.recovery import Case, tasks
from picopayments_cli.channel.stages import AGREED, CLOSING, OPEN, PROPOSED
from picopayments_cli.channel.status import StatusReply, StatusRequest
from picopayments_cli.channel.steps import Means, Step, plan
from picopayments_cli.channel.transactions import PAYOUT_SIZE, Contract, has_rest
from picopayments_cli.channel.values import Height
from picopayments_cli.channel.wire import terms_json
from picopayments_cli.client import closing, funds, life, opening, publishing, send
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.session import Session
from picopayments_cli.errors import AssetNotInTerms

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

    ``sync_fee``: what the last sync costs, 0 where there is none. Of what comes later, ``from_height`` is the tip at
    which it goes out at the earliest, at the rate of today.
    """
    if connection.stage == PROPOSED:
        return {"agreed": [], "alone": [], "sync_fee": 0}
    with _unwritten(session):
        look = session.sight.look(session.wallet.address, [connection])
        fee = 0
        if connection.stage == AGREED:
            connection, look, deposits = life.observe(session, connection, look)
            fee = connection.terms.sync_fee if life.status(session, connection, look, deposits) == OPEN else 0
        tip = look.view.height
        stopped = replace(connection, stage=CLOSING, ending=replace(connection.ending, since=tip))
        cases, means = closing.cases(session, stopped, look), funds.means(session, look)
        return {
            "agreed": [*_steps(session, map(_agreed, cases), means), *_rest(cases[0])],
            "alone": [*_steps(session, (replace(case, since=tip - PATIENCE) for case in cases), means),
                      *_later(session, cases, means)],
            "sync_fee": fee,
        }  # fmt: skip


def _agreed(case: Case) -> Case:
    """A channel whose close both have signed, at what has moved on it."""
    side = case.side
    if side.anchor is None or case.facts.spend is not None:
        return case
    if isinstance(side, Paying):
        return replace(case, side=replace(side, closings=(Closing(_moved(side), _SIGNATURE, _SIGNATURE),)))
    best = side.best
    return case if best is None else replace(case, side=replace(side, counters=(Counter(best.quantity, _SIGNATURE),)))


def _moved(side: Paying) -> int:
    return max((item.quantity for item in side.signed if item.secret is None), default=0)


def _rest(case: Case) -> Iterator[Told]:
    """The rest of a close of the own deposit, which follows it."""
    moved = _moved(case.side) if isinstance(case.side, Paying) else 0
    if case.side.anchor is not None and case.facts.spend is None and has_rest(case.contract, moved):
        yield _presigned("rest", case.contract, case.facts.tip + 1)


def _later(session: Session, cases: Sequence[Case], means: Means) -> Iterator[Told]:
    """Tell what follows where the hub stays silent: the payout of the own commit, the expiry of the own deposit."""
    c2h, h2c = cases
    if isinstance(h2c.side, Paid) and h2c.side.best is not None and h2c.facts.spend is None:
        yield _presigned("payout", h2c.contract, h2c.facts.tip + h2c.contract.delay)
    if c2h.side.anchor is not None and c2h.facts.spend is None:
        height = Height(max(c2h.contract.deposit.height, c2h.facts.tip))
        late = replace(c2h, facts=replace(c2h.facts, tip=height))
        for told in _steps(session, [late], means):
            yield {**told, "from_height": height}


def _steps(session: Session, cases: Any, means: Means) -> list[Told]:
    steps = plan([task for case in cases for task in tasks(case)], means)
    return [told for step in steps for told in _step(session, step)]


def _step(session: Session, step: Step) -> Iterator[Told]:
    """The transactions of a step, the child that raises it too."""
    spends = "deposit" if step.label == publishing.C2H else "hub_deposit"
    for name, draft in ((step.name.value, step.draft), (f"{step.name.value}'s child", step.child)):
        if draft is not None:
            yield {**_transaction(session, name, draft), "of": spends}
    if step.waits is not None:
        yield {"kind": step.name.value, "of": spends, "waits": step.waits.value}


# Transactions -------------------------------------------------------------------------------------------------------


def _presigned(kind: str, contract: Contract, height: int) -> Told:
    """A transaction whose size and fee are agreed on, and whose parent is not there yet."""
    of = "hub_deposit" if kind == "payout" else "deposit"
    fee = contract.budget.payout_fee
    return {"kind": kind, "of": of, "size": PAYOUT_SIZE, "fee": fee, "fee_rate": contract.rate, "from_height": height}


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
