"""Read from the blocks alone whose bitcoins went where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitcoin.core import CBlock, CTransaction

from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.channel.drafts import spent_outpoints
from picopayments_cli.channel.values import Outpoint


@dataclass
class Flow:
    """A party's bitcoins, in satoshis: fees of its own transactions, and what it paid to and received from others.

    A transaction is that of the party whose output it spends first. A commit moves satoshis, too: its output is that of
    the one who takes it. An output that nobody took, there to raise a transaction's fee, is part of the fee.
    """

    fees: int = 0
    paid: int = 0
    received: int = 0


def btc_flows(bitcoin: BitcoinNode, wallets: Mapping[str, bytes], start: int) -> dict[str, Flow]:
    """Add up the parties' flows, by name, in all blocks above height ``start``; ``wallets``: their scriptPubKeys."""
    txs = _transactions(bitcoin)
    made = [_made(tx) for _, tx in txs]
    values = {outpoint: out.nValue for (_, tx), listed in zip(txs, made, strict=True)
              for outpoint, out in zip(listed, tx.vout, strict=True)}  # fmt: skip
    owners = _owners([tx for _, tx in txs], made, {script: name for name, script in wallets.items()})
    flows = {name: Flow() for name in wallets}
    for (height, tx), listed in zip(txs, made, strict=True):
        spent = spent_outpoints(tx)
        owner = owners.get(spent[0])
        if height <= start or owner is None:
            continue
        flow = flows[owner]
        flow.fees += sum(values[outpoint] for outpoint in spent)
        for outpoint, out in zip(listed, tx.vout, strict=True):
            payee = owners.get(outpoint)
            if payee is not None:
                flow.fees -= out.nValue
                if payee != owner:
                    flow.paid += out.nValue
                    flows[payee].received += out.nValue
    return flows


def _transactions(bitcoin: BitcoinNode) -> list[tuple[int, CTransaction]]:
    """List all transactions of the chain in order, each with its height."""
    found = []
    height = 1
    while (block_hash := bitcoin.block_hash(height)) is not None:
        found += [(height, tx) for tx in CBlock.deserialize(bitcoin.block(block_hash)).vtx]
        height += 1
    return found


def _made(tx: CTransaction) -> list[Outpoint]:
    """The outpoints of a transaction's outputs."""
    txid = tx.GetTxid()
    return [Outpoint(txid, number) for number in range(len(tx.vout))]


def _owners(txs: list[CTransaction], made: list[list[Outpoint]], wallets: Mapping[bytes, str]) -> dict[Outpoint, str]:
    """Find whose each output is: a wallet's, its payer's on a deposit's address, else the one's who takes it."""
    scripts = {outpoint: bytes(out.scriptPubKey) for tx, listed in zip(txs, made, strict=True)
               for outpoint, out in zip(listed, tx.vout, strict=True)}  # fmt: skip
    known = dict(wallets)
    takers: dict[Outpoint, str] = {}
    for tx in txs:
        spent, first = spent_outpoints(tx), bytes(tx.vout[0].scriptPubKey)
        payer = wallets.get(scripts.get(spent[0], b""))
        if payer is not None:
            known.setdefault(first, payer)  # a deposit: what a wallet pays to a script
        takers |= {outpoint: wallets[first] for outpoint in spent if first in wallets}
    found = {outpoint: known.get(script) or takers.get(outpoint) for outpoint, script in scripts.items()}
    return {outpoint: owner for outpoint, owner in found.items() if owner is not None}
