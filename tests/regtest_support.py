"""Helpers of tests on the regtest chain: a node as a process of its own, keys, and signed spends."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cbor2
import requests
from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxOut
from bitcoin.core.script import SIGHASH_ALL, CScript, SignatureHash
from forked import ForkedProcess

from picopayments_cli.channel.counterparty import ENHANCED_SEND, data_script, is_p2pkh, is_p2sh, p2pkh, pack_send
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import NETWORKS, address_of_script
from picopayments_cli.channel.values import Outpoint, hash160
from picopayments_cli.regtest.node import Node

REGTEST = NETWORKS["regtest"]
XCP = 10**8  # satoshis
BTC = 10**8
TIMEOUT = 20  # seconds


# Keys and spends ----------------------------------------------------------------------------------------------------


def key_of(name: str) -> Key:
    """A key of its own for each name."""
    return Key(hashlib.sha256(f"regtest key of {name}".encode()).digest())


def script_of_key(key: Key) -> bytes:
    """The scriptPubKey of a key's P2PKH address."""
    return p2pkh(hash160(key.pubkey))


def address_of(script: bytes) -> str:
    """The regtest address of a script."""
    address = address_of_script(REGTEST, script)
    assert address is not None
    return address


@dataclass(frozen=True)
class Spend:
    """A transaction to sign: one key's P2PKH coins (or coins of one redeem script), outputs of satoshis and script."""

    key: Key
    outpoints: Sequence[Outpoint]
    outputs: Sequence[tuple[int, bytes]]
    version: int = 2
    sequence: int = 0xFFFFFFFD
    locktime: int = 0
    sighash: int = SIGHASH_ALL
    redeem: bytes | None = None  # of a P2SH coin; its scriptSig is the signature, ``items`` and the script
    items: Sequence[bytes | int] = ()

    def signed(self) -> bytes:
        """The raw signed transaction."""
        vin = [CTxIn(COutPoint(out.txid, out.vout), nSequence=self.sequence) for out in self.outpoints]
        vout = [CTxOut(value, CScript(script)) for value, script in self.outputs]
        unsigned = CTransaction(vin, vout, self.locktime, self.version)
        script = CScript(script_of_key(self.key) if self.redeem is None else self.redeem)
        signed = []
        for number, txin in enumerate(vin):
            signature = self.key.sign(SignatureHash(script, unsigned, number, self.sighash)) + bytes((self.sighash,))
            last = self.key.pubkey if self.redeem is None else self.redeem
            signed.append(CTxIn(txin.prevout, CScript([signature, *self.items, last]), self.sequence))
        raw: bytes = CTransaction(signed, vout, self.locktime, self.version).serialize()
        return raw


def with_script_sigs(raw: bytes, script_sigs: Sequence[bytes]) -> bytes:
    """A transaction with other scriptSigs."""
    tx = CTransaction.deserialize(raw)
    vin = [
        CTxIn(txin.prevout, CScript(script_sig), txin.nSequence)
        for txin, script_sig in zip(tx.vin, script_sigs, strict=True)
    ]
    changed: bytes = CTransaction(vin, tx.vout, tx.nLockTime, tx.nVersion).serialize()
    return changed


def script_sigs(raw: bytes) -> list[bytes]:
    """The scriptSigs of a transaction."""
    return [bytes(txin.scriptSig) for txin in CTransaction.deserialize(raw).vin]


def send_outputs(
    first: Outpoint, asset_id: int, quantity: int, destination: bytes, change: tuple[int, bytes], dust: int = 546
) -> list[tuple[int, bytes]]:
    """The outputs of a classic send whose first input is ``first``."""
    return [(dust, destination), (0, data_script(pack_send(asset_id, quantity), first.txid)), change]


def coins_of(node: Node, script: bytes) -> list[tuple[Outpoint, int]]:
    """The confirmed unspent outputs of a script with their satoshis."""
    return [(outpoint, out.value) for outpoint, out in node.index.coins_of(script).items()]


def only_coin(node: Node, script: bytes) -> tuple[Outpoint, int]:
    """The one confirmed unspent output of a script."""
    (coin,) = coins_of(node, script)
    return coin


# The process --------------------------------------------------------------------------------------------------------


class NodeProcess:
    """``python -m picopayments_cli.regtest`` on a free port; ends with the test's process at the latest."""

    def __init__(self, folder: Path, block_time: int | None = None, *options: str) -> None:
        mining = [] if block_time is None else ["--block-time", str(block_time)]
        words = ["-m", "picopayments_cli.regtest", "--basedir", str(folder), "--port", "0", "--with-parent"]
        self.process = ForkedProcess([*words, *mining, *options], stdin=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.session = requests.Session()
        self.url = str(json.loads(line)["chain_url"]) if line else ""

    def rpc(self, method: str, **params: Any) -> Any:
        """The result of a method that steers the network."""
        reply = self.post("regtest/", {"jsonrpc": "2.0", "id": 0, "method": method, "params": params})
        assert "result" in reply, reply
        return reply["result"]

    def bitcoin(self, method: str, *params: Any) -> Any:
        """The result of a call of Bitcoin Core's interface."""
        reply = self.post("bitcoin/", {"jsonrpc": "2.0", "id": 0, "method": method, "params": params})
        assert "result" in reply, reply
        return reply["result"]

    def post(self, path: str, payload: Any) -> Any:
        """The whole reply to a JSON body."""
        return self.session.post(self.url + path, json=payload, timeout=TIMEOUT).json()

    def get(self, path: str) -> Any:
        """The result of a v2 route, ``path`` being what follows ``/v2/``."""
        reply = self.session.get(f"{self.url}v2/{path}", timeout=TIMEOUT)
        assert reply.status_code == 200, reply.text
        return reply.json()["result"]

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        code = self.process.wait(TIMEOUT)
        self.session.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        return code


@contextmanager
def running_node(folder: Path, block_time: int | None = None, *options: str) -> Iterator[NodeProcess]:
    """A node process for the length of a ``with`` block."""
    node = NodeProcess(folder, block_time, *options)
    try:
        yield node
    finally:
        if node.process.poll() is None:
            node.stop()


@contextmanager
def open_node(folder: Path, block_time: int | None = None) -> Iterator[Node]:
    """A node inside the test's own process."""
    node = Node(folder, block_time)
    try:
        yield node
    finally:
        node.close()


def pack_enhanced_send(number: int, quantity: int, destination: bytes, memo: bytes = b"") -> bytes:
    """Return the message of an enhanced send in the layout of Counterparty Core 11: type 2 and a CBOR array."""
    return bytes((ENHANCED_SEND,)) + cbor2.dumps([number, quantity, _pack_script(destination), memo])


def _pack_script(script: bytes) -> bytes:
    if is_p2pkh(script):
        return b"\x01" + script[3:23]
    if is_p2sh(script):
        return b"\x02" + script[2:22]
    version = script[0] - 0x50 if script[0] else 0
    return b"\x03" + bytes((version,)) + script[2:]
