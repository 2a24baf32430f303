"""A chain in memory, of drafts: blocks, a mempool with the rules for version 3, and Counterparty's classic sends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from channel_support import digest

from picopayments_cli.channel.counterparty import message_of, unpack_send
from picopayments_cli.channel.drafts import MAX_CHILD, SHARED, Draft
from picopayments_cli.channel.facts import Facts, Seen, Side, View, feefrac_of, look, questions
from picopayments_cli.channel.fees import FeeFrac, replacing_fee
from picopayments_cli.channel.values import Coin, Height, Outpoint


@dataclass(frozen=True)
class Item:
    """A transaction, and the height of its block."""

    draft: Draft
    height: int | None = None


class Refused(Exception):
    """The mempool takes it not."""


class TinyChain:
    """Coins are made from nothing by ``fund``, balances by ``grant``; signatures are not looked at."""

    def __init__(self, tip: int) -> None:
        self.tip = tip
        self.items: dict[bytes, Item] = {}
        self.made: dict[Outpoint, Coin] = {}
        self.granted: list[tuple[bytes, int, int]] = []

    # What is there ---------------------------------------------------------------------------------------------------

    def fund(self, script: bytes, value: int) -> Coin:
        """A confirmed coin, which no reorganisation takes away."""
        outpoint = Outpoint(digest(f"made {len(self.made)}"), 0)
        self.made[outpoint] = Coin(outpoint, value, script, Height(1))
        return self.made[outpoint]

    def grant(self, script: bytes, asset: int, quantity: int) -> None:
        """A balance."""
        self.granted.append((script, asset, quantity))

    def output(self, outpoint: Outpoint) -> Coin | None:
        """An output with the height of its block, spent or not."""
        if outpoint in self.made:
            return self.made[outpoint]
        item = self.items.get(outpoint.txid)
        if item is None or outpoint.vout >= len(item.draft.outputs):
            return None
        height = None if item.height is None else Height(item.height)
        return replace(item.draft.coin(outpoint.vout), height=height)

    def spender(self, outpoint: Outpoint) -> bytes | None:
        """The txid of what spends an output."""
        return next((txid for txid, item in self.items.items() if outpoint in _spent(item.draft)), None)

    def coins(self, script: bytes) -> tuple[Coin, ...]:
        """All that nothing spends at a script."""
        outpoints = [
            *self.made,
            *(Outpoint(txid, n) for txid, item in self.items.items() for n in range(len(item.draft.outputs))),
        ]
        found = [coin for coin in map(self.output, outpoints) if coin is not None and coin.script == script]
        spent = {outpoint for item in self.items.values() for outpoint in _spent(item.draft)}
        return tuple(coin for coin in found if coin.outpoint not in spent)

    def balances(self) -> dict[tuple[bytes, int], int]:
        """What the blocks have moved, in their order."""
        held: dict[tuple[bytes, int], int] = {}
        for script, asset, quantity in self.granted:
            held[script, asset] = held.get((script, asset), 0) + quantity
        mined = [item for item in self.items.values() if item.height is not None]
        for item in sorted(mined, key=lambda item: item.height or 0):
            first = item.draft.inputs[0].coin
            for out in item.draft.outputs:
                message = message_of(out.script, first.outpoint.txid) if out.script[:1] == b"\x6a" else None
                send = unpack_send(message) if message else None
                if send is not None:
                    target = item.draft.outputs[0].script
                    moved = min(send.quantity, held.get((first.script, send.asset_id), 0))
                    held[first.script, send.asset_id] = held.get((first.script, send.asset_id), 0) - moved
                    held[target, send.asset_id] = held.get((target, send.asset_id), 0) + moved
        return held

    def held(self, script: bytes, asset: int) -> int:
        """A balance."""
        return self.balances().get((script, asset), 0)

    # What a party sees -----------------------------------------------------------------------------------------------

    def facts(self, side: Side, *, closing: bool = True, by_outpoint: bool = True) -> Facts:
        """What a party knows once it has no more to ask; ``by_outpoint`` False: as one without a Bitcoin node."""
        facts, asked = None, None
        while True:
            wanted = questions(side, facts, closing=closing, by_outpoint=by_outpoint)
            if wanted == asked and facts is not None:
                return facts
            asked = wanted
            spenders = {outpoint: self.spender(outpoint) for outpoint in wanted.outpoints}
            seen = {outpoint: self.seen(txid) for outpoint, txid in spenders.items() if txid is not None}
            transactions = {txid: self.seen(txid, by_outpoint) for txid in wanted.txids if txid in self.items}
            balances = self.balances()
            assets = {
                script: tuple(asset for (at, asset), held in balances.items() if at == script and held)
                for script in wanted.scripts
            }
            coins = {script: self.coins(script) for script in wanted.scripts}
            facts = look(side, View(Height(self.tip), transactions, seen if by_outpoint else None, coins, assets))

    def seen(self, txid: bytes, feefrac: bool = True) -> Seen:
        """A transaction as a node tells of it."""
        item = self.items[txid]
        if item.height is not None:
            return Seen(txid, Height(item.height))
        if not feefrac:
            return Seen(txid)
        child = next(iter(self.children(txid)), None)
        return Seen(txid, None, feefrac_of(item.draft), None if child is None else self.seen(child))

    # The mempool -----------------------------------------------------------------------------------------------------

    def children(self, txid: bytes) -> list[bytes]:
        """What spends outputs of a transaction in the mempool."""
        return [
            other
            for other, item in self.items.items()
            if item.height is None and any(outpoint.txid == txid for outpoint in _spent(item.draft))
        ]

    def submit(self, *drafts: Draft) -> None:
        """Take a transaction, or a parent and its child as one package. Raises Refused."""
        new = [draft for draft in drafts if draft.txid not in self.items]
        if not new:
            return
        before = dict(self.items)
        try:
            for draft in new:
                self._check_inputs(draft, [other for other in new if other is not draft])
            self._replace(new)
            for draft in new:
                self.items[draft.txid] = Item(draft)
            for draft in new:
                self._check_family(draft)
        except Refused:
            self.items = before
            raise

    def _check_inputs(self, draft: Draft, package: Sequence[Draft]) -> None:
        if draft.fee < draft.size or any(0 < out.value < 240 for out in draft.outputs):
            raise Refused("fee or dust")
        if self.tip < draft.locktime:
            raise Refused("locktime")
        made = {other.txid for other in package}
        for spent in draft.inputs:
            coin = self.output(spent.coin.outpoint)
            if coin is None:
                if spent.coin.outpoint.txid in made:
                    continue
                raise Refused("missing input")
            if (coin.value, coin.script) != (spent.coin.value, spent.coin.script):
                raise Refused("another coin than was signed for")
            if spent.sequence < 2**31 and coin.depth(self.tip) < spent.sequence:
                raise Refused("too early")
            txid = self.spender(spent.coin.outpoint)
            if txid is not None and self.items[txid].height is not None:
                raise Refused("spent in a block")

    def _replace(self, new: Sequence[Draft]) -> None:
        """Evict what the new ones conflict with, a sibling too, where they pay for it."""
        direct = {txid for draft in new for out in _spent(draft) if (txid := self.spender(out)) is not None}
        for draft in new:
            for spent in draft.inputs:
                parent = self.items.get(spent.coin.outpoint.txid)
                if draft.version == SHARED and parent is not None and parent.height is None:
                    direct.update(self.children(spent.coin.outpoint.txid))
        gone = list(self._with_children(direct))
        if not gone:
            return
        replaced = [feefrac_of(self.items[txid].draft) for txid in gone]
        together = FeeFrac(sum(draft.fee for draft in new), sum(draft.size for draft in new))
        if together.fee < replacing_fee(together.size, replaced):
            raise Refused("a replacement pays too little")
        for txid in gone:
            del self.items[txid]
        for draft in new:
            for spent in draft.inputs:
                if self.output(spent.coin.outpoint) is None and spent.coin.outpoint.txid not in {d.txid for d in new}:
                    raise Refused("spends what it evicts")

    def _with_children(self, txids: set[bytes]) -> Iterator[bytes]:
        todo, seen = list(txids), set(txids)
        while todo:
            txid = todo.pop()
            yield txid
            for child in self.children(txid):
                if child not in seen:
                    seen.add(child)
                    todo.append(child)

    def _check_family(self, draft: Draft) -> None:
        parents = {
            spent.coin.outpoint.txid
            for spent in draft.inputs
            if (item := self.items.get(spent.coin.outpoint.txid)) is not None and item.height is None
        }
        for txid in parents:
            parent = self.items[txid].draft
            if (parent.version == SHARED) != (draft.version == SHARED):
                raise Refused("versions do not mix")
        if draft.version == SHARED and parents:
            (only, *more) = parents
            grand = self.items[only].draft
            deep = any((item := self.items.get(o.txid)) is not None and item.height is None for o in _spent(grand))
            if more or deep or draft.size > MAX_CHILD or len(self.children(only)) > 1:
                raise Refused("version 3: one parent, one child")

    def drop(self, txid: bytes) -> None:
        """Forget a transaction in the mempool and what spends it, as when something else had replaced it."""
        for gone in list(self._with_children({txid})):
            del self.items[gone]

    # Blocks ----------------------------------------------------------------------------------------------------------

    def mine(self, rate: int = 1) -> None:
        """A block that takes what pays that rate, a parent together with its child where that helps."""
        self.tip += 1
        roots = [txid for txid, item in self.items.items() if item.height is None and not self._waits(item.draft)]
        for txid in roots:
            self._mine_family(txid, rate)

    def _waits(self, draft: Draft) -> bool:
        return any((item := self.items.get(out.txid)) is not None and item.height is None for out in _spent(draft))

    def _mine_family(self, txid: bytes, rate: int) -> None:
        own = feefrac_of(self.items[txid].draft)
        children = self.children(txid)
        joined = sum((feefrac_of(self.items[child].draft) for child in children), own)
        if max(own.rate, joined.rate) < rate:
            return
        self.items[txid] = replace(self.items[txid], height=self.tip)
        for child in children:
            if not self._waits(self.items[child].draft):
                self._mine_family(child, rate)

    def disconnect(self, blocks: int) -> None:
        """Take blocks away: what they held is in the mempool again, as far as it may be."""
        self.tip -= blocks
        back = {t for t, item in self.items.items() if item.height is not None and item.height > self.tip}
        self.items = {t: replace(item, height=None) if t in back else item for t, item in self.items.items()}
        for txid in list(self.items):
            item = self.items.get(txid)
            if item is not None and item.height is None and not self._may_stay(item.draft):
                self.drop(txid)

    def _may_stay(self, draft: Draft) -> bool:
        try:
            self._check_inputs(draft, ())
            self._check_family(draft)
        except Refused:
            return False
        return True


def _spent(draft: Draft) -> list[Outpoint]:
    return [spent.coin.outpoint for spent in draft.inputs]
