"""Look at the chain by Bitcoin Core alone, where the Counterparty node or its index is away.

It shows enough to punish and to settle. The mempool tells what spends an output there. In a block it is one of the
transactions that are known in advance, and shows by an output of its own that nothing spends yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from picopayments_cli.chain import REQUIRE_MEMO, View, Waiting
from picopayments_cli.chain.answers import Moved, settled
from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.channel import facts as three
from picopayments_cli.channel.facts import Facts, Questions, Seen, Side, followers, gather, known
from picopayments_cli.channel.values import Coin, Height, Outpoint
from picopayments_cli.client.wallet import Remembered, Wallet

_OUTPUTS = 3  # of what is known in advance, at most
_SOMETHING = bytes(32)  # in the place of the txid of what is in a block and shows no more


class Alone:
    """One Bitcoin Core node, at one tip."""

    def __init__(self, bitcoin: BitcoinNode) -> None:
        self._bitcoin = bitcoin
        self._tip = bitcoin.best_block()
        self.height = Height(bitcoin.height_of(self._tip))

    def check_tip(self) -> None:
        """Refuse answers of two tips. Raises Moved."""
        if self._bitcoin.best_block() != self._tip:
            raise Moved

    def view(self, wallet: Wallet, kept: Remembered) -> View:
        """The wallet: those of its coins of before that are still there, with the values that Bitcoin Core tells."""
        found = self._bitcoin.outputs(sorted(kept.coins, key=str))
        coins = tuple(
            Coin(outpoint, out.value, out.script, self._height(out.confirmations))
            for outpoint, out in found.items()
            if out.script == wallet.script and out.confirmations
        )
        at, options = wallet.address, 0 if kept.home else REQUIRE_MEMO
        return View(self.height, self._bitcoin.estimate(), {at: coins}, balances={at: {}}, options={at: options})

    def facts(self, side: Side, *, closing: bool) -> Facts:
        """Collect what Bitcoin Core shows of a channel; neither deposit nor spend where it shows nothing."""
        return gather(side, lambda asked: self._answer(side, asked), closing=closing, addresses=False)

    def _answer(self, side: Side, asked: Questions) -> three.View:
        unspent = self._bitcoin.unspent(asked.outpoints)
        mined = self._bitcoin.depths(asked.outpoints, mempool=False)
        waiting = self._bitcoin.spenders([item for item in asked.outpoints if item not in unspent])
        spenders = {outpoint: self._seen(txid) for outpoint, txid in waiting.items()}
        for outpoint in asked.outpoints:
            if outpoint not in unspent and outpoint not in waiting and outpoint not in mined:
                found = self._in_block(side, outpoint)
                spenders |= {} if found is None else {outpoint: found}
        anchor = None if side.anchor is None else side.anchor.outpoint
        there = {} if anchor is None else self._deposit(anchor, unspent, mined)
        return three.View(self.height, there, spenders)

    def _deposit(self, anchor: Outpoint, unspent: set[Outpoint], mined: Mapping[Outpoint, int]) -> dict[bytes, Seen]:
        if anchor in mined:
            return {anchor.txid: Seen(anchor.txid, self._height(mined[anchor]))}
        return {anchor.txid: Seen(anchor.txid)} if anchor in unspent else {}

    def _seen(self, txid: bytes) -> Seen:
        """A transaction in the mempool, with its fee and what spends its outputs."""
        waits = self._bitcoin.waiting(txid)
        if waits is None:
            raise Moved
        return Seen(txid, None, waits.feefrac, self._child(waits))

    def _child(self, waits: Waiting) -> Seen | None:
        for txid in waits.children[:1]:
            behind = self._bitcoin.waiting(txid)
            return None if behind is None else Seen(txid, feefrac=behind.feefrac)
        return None

    def _in_block(self, side: Side, outpoint: Outpoint) -> Seen | None:
        """Find what has spent an output in a block; None where nothing tells of an anchor's spender."""
        txids = list(_candidates(side, outpoint))
        outputs = [Outpoint(txid, number) for txid in txids for number in range(_OUTPUTS)]
        for item, depth in self._bitcoin.depths(outputs, mempool=False).items():
            return Seen(item.txid, self._height(depth))
        is_anchor = side.anchor is not None and outpoint == side.anchor.outpoint
        return None if is_anchor else Seen(_SOMETHING, self.height)

    def _height(self, depth: int) -> Height:
        return Height(self.height - depth + 1)


def _candidates(side: Side, outpoint: Outpoint) -> Iterator[bytes]:
    """The txids, known in advance, of what may spend an anchor, or an output of what spends it."""
    items = known(side)
    if side.anchor is not None and outpoint == side.anchor.outpoint:
        yield from items
    elif outpoint.txid in items:
        payout, remainder = followers(side.contract, items[outpoint.txid])
        txid = payout if outpoint.vout == 0 else remainder
        if txid is not None:
            yield txid
    yield from (sent.txid for sent in side.sent if sent.spends == outpoint)


def at_one_tip(
    bitcoin: BitcoinNode, wallet: Wallet, kept: Remembered, sides: Sequence[tuple[Side, bool]]
) -> tuple[View, list[Facts]]:
    """The wallet, and the facts of these sides, each with whether its connection is closing; all at one tip.

    Raises NodeUnreachable, NodeBehind, BadAnswer, NodeRefused.
    """

    def ask() -> tuple[View, list[Facts]]:
        alone = Alone(bitcoin)
        answers = alone.view(wallet, kept), [alone.facts(side, closing=closing) for side, closing in sides]
        alone.check_tip()
        return answers

    return settled(ask)
