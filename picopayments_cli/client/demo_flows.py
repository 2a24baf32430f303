"""Read from the blocks alone whose bitcoins went where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitcoin.core import CBlock, CTransaction

from picopayments_cli.chain.bitcoin import BitcoinNode
from picopayments_cli.channel.counterparty import is_p2sh
from picopayments_cli.channel.drafts import spent_outpoints
from picopayments_cli.channel.values import Outpoint


@dataclass
class Flow:
    """A party's bitcoins, in satoshis: fees of its own transactions, and what it paid to and received from others.

    A transaction is that of the party whose output it spends. A commit moves satoshis, too: its output is the payee's.
    """

    fees: int = 0
    paid: int = 0
    received: int = 0


@dataclass(frozen=True)
class _Output:
    value: int
    script: bytes


def btc_flows(bitcoin: BitcoinNode, wallets: Mapping[str, bytes], start: int) -> dict[str, Flow]:
    """Add up the parties' flows, by name, in all blocks above height ``start``; ``wallets``: their scriptPubKeys."""
    txs = _transactions(bitcoin)
    outputs = {
        Outpoint(tx.GetTxid(), n): _Output(out.nValue, bytes(out.scriptPubKey))
        for _, tx in txs
        for n, out in enumerate(tx.vout)
    }
    owners = _owners([tx for _, tx in txs], outputs, {script: name for name, script in wallets.items()})
    flows = {name: Flow() for name in wallets}
    for height, tx in txs:
        if height <= start or tx.is_coinbase():
            continue
        spent = [outputs[outpoint] for outpoint in spent_outpoints(tx)]
        owner = owners.get(spent[0].script)
        if owner is None:
            continue
        flows[owner].fees += sum(out.value for out in spent) - sum(out.nValue for out in tx.vout)
        for out in tx.vout:
            payee = owners.get(bytes(out.scriptPubKey), owner)
            if payee != owner:
                flows[owner].paid += out.nValue
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


def _owners(
    txs: list[CTransaction], outputs: Mapping[Outpoint, _Output], wallets: Mapping[bytes, str]
) -> dict[bytes, str]:
    """Find who owns each scriptPubKey: a deposit its payer, a commit's output the one to whose wallet it is spent."""
    owners = dict(wallets)
    sources = [(outputs[spent_outpoints(tx)[0]].script, tx) for tx in txs if not tx.is_coinbase()]
    for source, tx in sources:  # deposits: what a wallet pays to a script
        if source in wallets:
            paid = (bytes(out.scriptPubKey) for out in tx.vout)
            owners.update((script, wallets[source]) for script in paid if is_p2sh(script))
    for source, tx in sources:  # commits: known by who takes their output
        taker = wallets.get(bytes(tx.vout[0].scriptPubKey))
        if taker is not None and is_p2sh(source):
            owners.setdefault(source, taker)
    return owners
