"""Transactions and outputs as the node's interfaces show them: Esplora's way, Bitcoin Core's way."""

from __future__ import annotations

from typing import Any

from bitcoin.core import CTransaction, CTxIn
from bitcoin.core.script import OPCODE_NAMES, CScript, CScriptInvalidError

from picopayments_cli.channel.counterparty import is_address
from picopayments_cli.channel.networks import NETWORKS, address_of_script
from picopayments_cli.channel.values import Outpoint
from picopayments_cli.regtest.blocks import COIN
from picopayments_cli.regtest.index import Block, Output, Tx
from picopayments_cli.regtest.node import Node
from picopayments_cli.regtest.policy import weight
from picopayments_cli.regtest.witness import P2A, is_witness_program, witness_of

_REGTEST = NETWORKS["regtest"]
_ESPLORA, _CORE = 0, 1
_KINDS = {
    "op_return": ("op_return", "nulldata"),
    "p2pk": ("p2pk", "pubkey"),
    "p2pkh": ("p2pkh", "pubkeyhash"),
    "p2sh": ("p2sh", "scripthash"),
    "p2wpkh": ("v0_p2wpkh", "witness_v0_keyhash"),
    "p2wsh": ("v0_p2wsh", "witness_v0_scripthash"),
    "p2tr": ("v1_p2tr", "witness_v1_taproot"),
    "multisig": ("multisig", "multisig"),
    "anchor": ("anchor", "anchor"),
    "witness": ("unknown", "witness_unknown"),
    "unknown": ("unknown", "nonstandard"),
}


def display(wire: bytes) -> str:
    """Return a hash as people write it: hex of the bytes reversed."""
    return wire[::-1].hex()


def bitcoins(satoshis: int) -> float:
    """Return the satoshis as the bitcoins that Bitcoin Core shows."""
    return satoshis / COIN


def address(script: bytes) -> str | None:
    """Return the regtest address of a script, where it has one."""
    return address_of_script(_REGTEST, script)


def _kind(script: bytes) -> str:
    if script[:1] == b"\x6a":
        return "op_return"
    if script == P2A:
        return "anchor"
    if is_witness_program(script):
        return {b"\0\x14": "p2wpkh", b"\0\x20": "p2wsh", b"\x51\x20": "p2tr"}.get(script[:2], "witness")
    if script[-1:] == b"\xac" and len(script) in (35, 67):
        return "p2pk"
    if not is_address(script):
        return "unknown"
    return {0x76: "p2pkh", 0xA9: "p2sh"}.get(script[0], "multisig")


def asm(script: bytes) -> str:
    """Return a script as text: pushes in hex, the rest by the names of the opcodes."""
    words = []
    try:
        for opcode, data, _ in CScript(script).raw_iter():
            if data:
                words.append(data.hex())
            elif opcode == 0 or 0x51 <= opcode <= 0x60:
                words.append(str(opcode and opcode - 0x50))
            else:
                words.append(OPCODE_NAMES.get(opcode, "OP_UNKNOWN"))
    except CScriptInvalidError:
        words.append("[error]")
    return " ".join(words)


# Esplora ------------------------------------------------------------------------------------------------------------


def status(block: Block | None) -> dict[str, Any]:
    """Tell where a transaction stands."""
    if block is None:
        return {"confirmed": False}
    return {
        "confirmed": True,
        "block_height": block.height,
        "block_hash": display(block.hash),
        "block_time": block.time,
    }


def esplora_coin(node: Node, outpoint: Outpoint, out: Output) -> dict[str, Any]:
    """Return an unspent output, with the amount in bitcoins that the Counterparty server adds."""
    block = None if out.height is None else node.index.blocks[out.height]
    return {
        "txid": display(outpoint.txid),
        "vout": outpoint.vout,
        "status": status(block),
        "value": out.value,
        "amount": bitcoins(out.value),
    }


def esplora_tx(item: Tx, block: Block | None) -> dict[str, Any]:
    """Return a transaction with the outputs that it spends."""
    tx = item.tx
    spent: list[Output | None] = list(item.spent) or [None]
    return {
        "txid": display(item.txid),
        "version": tx.nVersion,
        "locktime": tx.nLockTime,
        "vin": [_esplora_input(tx, number, out) for number, out in enumerate(spent)],
        "vout": [_esplora_output(bytes(out.scriptPubKey), out.nValue) for out in tx.vout],
        "size": len(item.raw),
        "weight": weight(tx),
        "fee": item.fee,
        "status": status(block),
    }


def _esplora_input(tx: CTransaction, number: int, spent: Output | None) -> dict[str, Any]:
    txin = tx.vin[number]
    script_sig = bytes(txin.scriptSig)
    shown: dict[str, Any] = {
        "txid": display(txin.prevout.hash),
        "vout": txin.prevout.n,
        "prevout": None if spent is None else _esplora_output(spent.script, spent.value),
        "scriptsig": script_sig.hex(),
        "scriptsig_asm": asm(script_sig),
        "is_coinbase": spent is None,
        "sequence": txin.nSequence,
    }
    witness = _witness(tx, number)
    return shown | {"witness": witness} if witness else shown


def _esplora_output(script: bytes, value: int) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "scriptpubkey": script.hex(),
        "scriptpubkey_asm": asm(script),
        "scriptpubkey_type": _KINDS[_kind(script)][_ESPLORA],
        "value": value,
    }
    found = address(script)
    return shown if found is None else shown | {"scriptpubkey_address": found}


def _witness(tx: CTransaction, number: int) -> list[str]:
    return [item.hex() for item in witness_of(tx, number)]


# Bitcoin Core -------------------------------------------------------------------------------------------------------


def core_tx(item: Tx, block: Block | None, tip: int) -> dict[str, Any]:
    """Return a transaction as getrawtransaction shows it when verbose; the block's fields only once it is confirmed."""
    tx = item.tx
    shown: dict[str, Any] = {
        "txid": display(item.txid),
        "hash": display(bytes(tx.GetHash())),
        "version": tx.nVersion,
        "size": len(item.raw),
        "vsize": (weight(tx) + 3) // 4,
        "weight": weight(tx),
        "locktime": tx.nLockTime,
        "vin": [_core_input(tx, number, txin) for number, txin in enumerate(tx.vin)],
        "vout": [
            {"value": bitcoins(out.nValue), "n": number, "scriptPubKey": core_script(bytes(out.scriptPubKey))}
            for number, out in enumerate(tx.vout)
        ],
        "hex": item.raw.hex(),
    }
    if block is not None:
        shown |= {
            "blockhash": display(block.hash),
            "confirmations": tip - block.height + 1,
            "time": block.time,
            "blocktime": block.time,
        }
    return shown


def core_script(script: bytes) -> dict[str, Any]:
    """Return a scriptPubKey."""
    shown = {"asm": asm(script), "hex": script.hex(), "type": _KINDS[_kind(script)][_CORE]}
    found = address(script)
    return shown if found is None else shown | {"address": found}


def _core_input(tx: CTransaction, number: int, txin: CTxIn) -> dict[str, Any]:
    script_sig = bytes(txin.scriptSig)
    witness = _witness(tx, number)
    more = {"txinwitness": witness} if witness else {}
    if tx.is_coinbase():
        return {"coinbase": script_sig.hex(), **more, "sequence": txin.nSequence}
    return {
        "txid": display(txin.prevout.hash),
        "vout": txin.prevout.n,
        "scriptSig": {"asm": asm(script_sig), "hex": script_sig.hex()},
        **more,
        "sequence": txin.nSequence,
    }
