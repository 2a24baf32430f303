"""Read a channel from the chain, by outpoint: its anchor, what spends that, and what spends that one's outputs.

Commits and closes are known in advance by their txids, so that nothing a stranger made is read. Heights decide, as of
the tip that the view names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from picopayments_cli.channel.drafts import Draft, parse_transaction
from picopayments_cli.channel.fees import FeeFrac
from picopayments_cli.channel.halves import Closing, Commit
from picopayments_cli.channel.state import Signed
from picopayments_cli.channel.transactions import (
    Contract,
    check_deposit,
    compose_close,
    compose_commit,
    compose_payout,
    compose_remainder,
    compose_rest,
    has_rest,
)
from picopayments_cli.channel.values import Coin, Entry, Hash, Height, Outpoint
from picopayments_cli.errors import BadDeposit

SEND, VALID = "send", "valid"  # of the ledger's rows, those that a deposit's has

# Holdings of a party ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counter:
    """A close that the payee signed; ``signature``: the payer's, 64 bytes, where it is here."""

    quantity: int
    signature: bytes | None = None


@dataclass(frozen=True)
class Sent:
    """A transaction of one's own that a node has taken: its txid, the first outpoint that it spends, fee and size.

    ``coins``: of the wallet that it spends, which are free again for what takes its place.
    """

    txid: bytes
    spends: Outpoint
    feefrac: FeeFrac
    coins: tuple[Coin, ...] = ()

    @staticmethod
    def of(draft: Draft, txid: bytes) -> Sent:
        """Return what is kept of a draft whose finished transaction, of that txid, a node has taken."""
        coins = tuple(spent.coin for spent in draft.inputs[1:] if spent.leaf is None)
        return Sent(txid, draft.inputs[0].coin.outpoint, feefrac_of(draft), coins)


@dataclass(frozen=True)
class Paying:
    """The payer's side: every commit that it ever signed, and the payee's signatures of closes.

    ``deposit``: its finished transaction, which is sent again where a reorganisation took it away. ``sent``: what a
    node has taken of one's own for this channel, children too.
    """

    contract: Contract
    anchor: Coin | None = None
    signed: tuple[Signed, ...] = ()
    closings: tuple[Closing, ...] = ()
    deposit: bytes | None = None
    sent: tuple[Sent, ...] = ()


@dataclass(frozen=True)
class Paid:
    """The payee's side: the commits that it received and did not give back, and every close that it signed.

    ``owed``: what it owes the payer of that, so that a close may give it so much less. ``deposit``: the payer's
    transaction as the chain showed it, which is sent again after a reorganisation. ``sent``: what a node has taken of
    one's own for this channel, children too.
    """

    contract: Contract
    anchor: Coin | None = None
    active: tuple[Commit, ...] = ()
    counters: tuple[Counter, ...] = ()
    deposit: bytes | None = None
    sent: tuple[Sent, ...] = ()
    owed: int = 0

    @property
    def least(self) -> int:
        """Return what a close must give it, or it publishes its highest commit."""
        return 0 if self.best is None else max(self.best.quantity - self.owed, 0)

    @property
    def best(self) -> Commit | None:
        """The highest commit."""
        return max(self.active, key=lambda commit: commit.quantity, default=None)


Side = Paying | Paid


def feefrac_of(draft: Draft) -> FeeFrac:
    """Return what a draft will be in the mempool."""
    return FeeFrac(draft.fee, draft.size)


# The chain ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A transaction that the chain shows; ``height``: of its block, None while it is in the mempool.

    In the mempool, where a node says so: ``feefrac``, its own fee and size, and ``child``, what spends outputs of it.
    """

    txid: bytes
    height: Height | None = None
    feefrac: FeeFrac | None = None
    child: Seen | None = None

    def depth(self, tip: int) -> int:
        """Confirmations: 0 in the mempool, 1 in the tip's block."""
        return 0 if self.height is None else tip - self.height + 1


@dataclass(frozen=True)
class View:
    """The answers of a chain view, as of one tip. A thing that was asked for and is not here does not exist.

    ``transactions`` by txid; ``spenders`` by the outpoint that they spend, in blocks and in the mempool: None where
    nobody can be asked by outpoint, and then the txids that are known in advance tell. By scriptPubKey, where asked:
    ``coins``, all that nothing spends, and ``assets``, the ids of what the ledger shows there (never rows with a
    ``utxo``).
    """

    tip: Height
    transactions: Mapping[bytes, Seen] = field(default_factory=dict)
    spenders: Mapping[Outpoint, Seen] | None = None
    coins: Mapping[bytes, tuple[Coin, ...]] = field(default_factory=dict)
    assets: Mapping[bytes, tuple[int, ...]] = field(default_factory=dict)


class Kind(Enum):
    """The kinds of transactions that spend an anchor."""

    COMMIT = "commit"
    REVOKED = "revoked commit"
    CLOSE = "close"
    EXPIRE = "expire"
    UNKNOWN = "unknown transaction"


@dataclass(frozen=True)
class Known:
    """A transaction that both sides can build: a commit, or a close (``closing`` then its quantity's own)."""

    kind: Kind
    draft: Draft
    quantity: int
    signed: Signed | None = None
    commit: Commit | None = None
    closing: Closing | None = None

    @property
    def revoke_hash(self) -> Hash | None:
        """The hash that a commit is on."""
        held = self.signed or self.commit
        return None if held is None else held.revoke_hash


@dataclass(frozen=True)
class Spend:
    """The spender of the anchor, and what spends its outputs 0 (where the asset went) and 2 (what was left)."""

    seen: Seen
    kind: Kind
    known: Known | None = None
    first: Seen | None = None
    third: Seen | None = None


@dataclass(frozen=True)
class Facts:
    """One channel as known at the tip.

    ``deposit``: the anchor's transaction. ``coins`` and ``assets`` lie on the deposit's address, ``punished_coins`` and
    ``punished_assets`` on that of a punished commit; each None where it was not asked.
    """

    tip: Height
    deposit: Seen | None
    spend: Spend | None
    coins: tuple[Coin, ...] | None = None
    assets: tuple[int, ...] | None = None
    punished_coins: tuple[Coin, ...] | None = None
    punished_assets: tuple[int, ...] | None = None

    @property
    def funded(self) -> bool:
        """Whether the anchor's transaction is in a block."""
        return self.deposit is not None and self.deposit.height is not None


def known(side: Side) -> dict[bytes, Known]:
    """Every commit and close that may spend the anchor, by txid."""
    contract, anchor = side.contract, side.anchor
    if anchor is None:
        return {}
    found: list[Known] = []
    if isinstance(side, Paying):
        for item in side.signed:
            kind = Kind.COMMIT if item.secret is None else Kind.REVOKED
            draft = compose_commit(contract, anchor, item.quantity, item.revoke_hash)
            found.append(Known(kind, draft, item.quantity, signed=item))
        for closing in side.closings:
            draft = compose_close(contract, anchor, closing.quantity)
            found.append(Known(Kind.CLOSE, draft, closing.quantity, closing=closing))
    else:
        for commit in side.active:
            draft = compose_commit(contract, anchor, commit.quantity, commit.revoke_hash)
            found.append(Known(Kind.COMMIT, draft, commit.quantity, commit=commit))
        for counter in side.counters:
            draft = compose_close(contract, anchor, counter.quantity)
            found.append(Known(Kind.CLOSE, draft, counter.quantity))
    return {item.draft.txid: item for item in found}


def followers(contract: Contract, item: Known) -> tuple[bytes | None, bytes | None]:
    """The txids of what is pre-signed to spend outputs 0 and 2, as they are while nobody adds a coin."""
    if item.kind is Kind.CLOSE:
        return None, compose_rest(contract, item.draft).txid if has_rest(contract, item.quantity) else None
    payout = compose_payout(contract, item.draft, item.revoke_hash) if item.revoke_hash is not None else None
    return None if payout is None else payout.txid, compose_remainder(contract, item.draft).txid


def look(side: Side, view: View) -> Facts:
    """Return what a view shows of a channel."""
    script = side.contract.deposit.output
    deposit = None if side.anchor is None else view.transactions.get(side.anchor.outpoint.txid)
    spend = _spend(side, view)
    coins, assets = view.coins.get(script), view.assets.get(script)
    if spend is None or spend.known is None or spend.known.revoke_hash is None:
        return Facts(view.tip, deposit, spend, coins, assets)
    there = side.contract.commit_script(spend.known.revoke_hash).output
    return Facts(view.tip, deposit, spend, coins, assets, view.coins.get(there), view.assets.get(there))


def _spend(side: Side, view: View) -> Spend | None:
    """Return what spends the anchor: told by outpoint, else by the txids that are known."""
    if side.anchor is None:
        return None
    anchor = side.anchor.outpoint
    if view.spenders is not None and anchor not in view.spenders:
        return None
    items = known(side)
    seen = _find(side, view, anchor, tuple(items))
    if seen is None:
        return None
    item = items.get(seen.txid)
    if item is None:
        return Spend(seen, _unknown(side.contract, seen, view.tip))
    first, third = (
        _find(side, view, Outpoint(seen.txid, vout), () if txid is None else (txid,))
        for vout, txid in zip((0, 2), followers(side.contract, item), strict=True)
    )
    return Spend(seen, item.kind, item, first, third)


def _find(side: Side, view: View, outpoint: Outpoint, signed: tuple[bytes, ...]) -> Seen | None:
    """Find what spends an outpoint: as the view says, else one signed in advance or sent oneself."""
    if view.spenders is not None:
        return view.spenders.get(outpoint)
    own = (sent.txid for sent in side.sent if sent.spends == outpoint)
    found = next((view.transactions[txid] for txid in (*signed, *own) if txid in view.transactions), None)
    if found is None or found.height is not None or found.child is not None:
        return found
    children = (view.transactions.get(sent.txid) for sent in side.sent if sent.spends.txid == found.txid)
    return replace(found, child=next((child for child in children if child is not None), None))


def _unknown(contract: Contract, seen: Seen, tip: int) -> Kind:
    """Name a transaction that neither side can build: from the expiry on the payer's own, before it nobody knows."""
    height = tip + 1 if seen.height is None else seen.height
    return Kind.EXPIRE if height > contract.deposit.height else Kind.UNKNOWN


# Questions ----------------------------------------------------------------------------------------------------------

_ROUNDS = 4  # of questions: the anchor's spender, its outputs' spenders, the addresses


@dataclass(frozen=True)
class Questions:
    """Questions to a chain view: transactions by txid, spenders by outpoint, coins and assets by scriptPubKey."""

    txids: tuple[bytes, ...] = ()
    outpoints: tuple[Outpoint, ...] = ()
    scripts: tuple[bytes, ...] = ()


def questions(side: Side, facts: Facts | None = None, *, closing: bool = False, by_outpoint: bool = True) -> Questions:
    """Choose what to ask of a channel next; ``facts``: of the answers so far, until the questions stay the same.

    While a connection is open only the anchor is asked for. The payer asks for coins and assets where some may be left
    to it: on the deposit's address once the anchor is spent or expired, on that of a punished commit once it is spent.
    """
    if side.anchor is None:
        return Questions(scripts=(side.contract.deposit.output,) if isinstance(side, Paying) and closing else ())
    outpoints, txids = [side.anchor.outpoint], [side.anchor.outpoint.txid]
    if not by_outpoint:
        txids += [*known(side), *(sent.txid for sent in side.sent)]
    spend = None if facts is None else facts.spend
    scripts: list[bytes] = []
    if spend is not None and spend.known is not None:
        outpoints += [Outpoint(spend.seen.txid, vout) for vout in (0, 2)]
        if not by_outpoint:
            txids += [txid for txid in followers(side.contract, spend.known) if txid is not None]
        if spend.kind is Kind.REVOKED and spend.first is not None and spend.known.revoke_hash is not None:
            scripts.append(side.contract.commit_script(spend.known.revoke_hash).output)
    if isinstance(side, Paying) and facts is not None and closing and _may_be_left(side, facts):
        scripts.append(side.contract.deposit.output)
    return Questions(tuple(txids), tuple(outpoints) if by_outpoint else (), tuple(scripts))


def gather(side: Side, answer: Callable[[Questions], View], *, closing: bool, addresses: bool = True) -> Facts:
    """Ask until the questions stay as they are, and return what the answers show.

    Without ``addresses`` what lies on them stays unknown.
    """

    def further(facts: Facts | None) -> Questions:
        wanted = questions(side, facts, closing=closing)
        return wanted if addresses else replace(wanted, scripts=())

    asked = further(None)
    facts = look(side, answer(asked))
    for _ in range(_ROUNDS - 1):
        wanted = further(facts)
        if wanted == asked:
            break
        asked, facts = wanted, look(side, answer(wanted))
    return facts


def _may_be_left(side: Paying, facts: Facts) -> bool:
    mined = facts.spend is not None and facts.spend.seen.height is not None
    return mined or facts.tip >= side.contract.deposit.height


# The deposit --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SendRow:
    """A row of the ledger's sends; ``number``: of its transaction among Counterparty's, which orders them.

    ``destination``: a scriptPubKey, None where the row names a ``txid:n`` instead.
    """

    txid: bytes
    number: int
    send_type: str
    status: str
    asset_id: int
    destination: bytes | None
    quantity: int


def is_deposit(contract: Contract, row: SendRow) -> bool:
    """Whether a row moved exactly the agreed quantity to the deposit's address: a send, not a move, attach, detach."""
    return (row.send_type, row.status, row.asset_id, row.destination, row.quantity) == (
        SEND, VALID, contract.asset_id, contract.deposit.output, contract.quantity
    )  # fmt: skip


def find_anchor(
    contract: Contract, rows: Sequence[SendRow], entries: Sequence[Entry], tip: int, safe_depth: int
) -> Coin | None:
    """The anchor: of the earliest buried transaction that is a deposit by its form, its satoshis and the ledger's row.

    ``entries``: the transactions of the rows that are deposits; others on the address are passed over.
    """
    by_txid = {entry.txid: entry for entry in entries if entry.depth(tip) >= safe_depth}
    for row in sorted(rows, key=lambda row: row.number):
        entry = by_txid.get(row.txid)
        if entry is not None and is_deposit(contract, row):
            anchor = _anchor_in(contract, entry)
            if anchor is not None:
                return anchor
    return None


def _anchor_in(contract: Contract, entry: Entry) -> Coin | None:
    tx = parse_transaction(entry.raw)
    try:
        if tx is None or not tx.vin or len(tx.vout) < 2 or tx.GetTxid() != entry.txid:
            return None
        return check_deposit(contract, tx)
    except BadDeposit:
        return None


class Deposit(Enum):
    """How the anchor that was named stands."""

    COUNTS = "counts"
    UNMINED = "unmined"
    VOID = "void"


def judge_deposit(
    contract: Contract,
    anchor: Coin,
    rows: Sequence[SendRow],
    entries: Sequence[Entry],
    seen: Seen | None,
    tip: int,
    safe_depth: int,
) -> Deposit:
    """How the named anchor stands after a reorganisation: it stays while it is mined and its send is what was agreed.

    Void are all commits where it is mined and its send moved something else, or where another deposit is buried in its
    place while it is not in a block.
    """
    if seen is not None and seen.height is not None:
        own = [row for row in rows if row.txid == anchor.outpoint.txid]
        return Deposit.COUNTS if any(is_deposit(contract, row) for row in own) else Deposit.VOID
    other = find_anchor(contract, rows, entries, tip, safe_depth)
    return Deposit.UNMINED if other is None or other.outpoint == anchor.outpoint else Deposit.VOID
