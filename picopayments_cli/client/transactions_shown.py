"""Show what the chain knows of one transaction, as JSON."""

from __future__ import annotations

from typing import Any

from bitcoin.core import CTransaction, CTxIn

from picopayments_cli.chain import Query
from picopayments_cli.channel.drafts import parse_transaction
from picopayments_cli.channel.networks import Network, address_of_script
from picopayments_cli.client.session import Session


def raw_transaction(session: Session, txid: bytes) -> bytes | None:
    """Fetch the bytes of a transaction by its wire-order txid; None if it is unknown."""
    return session.chain.view(Query(transactions=[txid])).transactions.get(txid)


def transaction_shown(session: Session, raw: bytes) -> dict[str, Any]:
    """Show a transaction in its parts: values in satoshis, scripts in hex, 0 confirmations in the mempool.

    Confirmations are known from the history of an address that it pays; without such an address, or where the node
    lists only the newest part of that history, they are left out.
    """
    tx = parse_transaction(raw)
    if tx is None:
        raise ValueError("the chain gave no transaction")
    outputs = [_output(session.network, number, tx) for number in range(len(tx.vout))]
    told = {
        "txid": tx.GetTxid()[::-1].hex(),
        "hex": raw.hex(),
        "size": len(raw),
        "version": tx.nVersion,
        "locktime": tx.nLockTime,
        "vin": [_input(tx, number) for number in range(len(tx.vin))],
        "vout": outputs,
    }
    addresses = [out["address"] for out in outputs if "address" in out]
    confirmations = _confirmations(session, tx.GetTxid(), addresses[0]) if addresses else None
    return told if confirmations is None else told | {"confirmations": confirmations}


def _confirmations(session: Session, txid: bytes, address: str) -> int | None:
    view = session.chain.view(Query(history=[address]))
    return next((entry.depth(view.height) for entry in view.history[address] if entry.txid == txid), None)


def _input(tx: CTransaction, number: int) -> dict[str, Any]:
    coin: CTxIn = tx.vin[number]
    script = bytes(coin.scriptSig).hex()
    if tx.is_coinbase():
        return {"coinbase": script, "sequence": coin.nSequence}
    told = {
        "txid": coin.prevout.hash[::-1].hex(),
        "vout": coin.prevout.n,
        "scriptSig": script,
        "sequence": coin.nSequence,
    }
    if tx.wit.vtxinwit:
        told["witness"] = [bytes(item).hex() for item in tx.wit.vtxinwit[number].scriptWitness.stack]
    return told


def _output(network: Network, number: int, tx: CTransaction) -> dict[str, Any]:
    out = tx.vout[number]
    script = bytes(out.scriptPubKey)
    address = address_of_script(network, script)
    told = {"n": number, "value": out.nValue, "scriptPubKey": script.hex()}
    return told if address is None else told | {"address": address}
