"""Transactions that a cheat signs: commits that are not the agreed ones, and what hardly anybody understands."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from bitcoin.core import (
    CMutableTransaction,
    CMutableTxIn,
    CMutableTxOut,
    COutPoint,
    CTransaction,
    CTxInWitness,
    CTxWitness,
)
from bitcoin.core.script import CScript, CScriptWitness, RawSignatureHash

from faults.mutations import high_s
from picopayments_cli.channel.counterparty import PREFIX, data_script, p2sh, pack_send
from picopayments_cli.channel.values import Coin, Outpoint, hash160
from picopayments_cli.channel2.keys import Key
from picopayments_cli.channel2.scripts import PLACEHOLDER, push
from picopayments_cli.channel2.state import Channel
from picopayments_cli.channel2.transactions import Purse

ALL, NONE, SINGLE, ANYONE = 0x01, 0x02, 0x03, 0x81
OP_TRUE = b"\x51"
Change = Callable[[CMutableTransaction], None]


# Commits ------------------------------------------------------------------------------------------------------------


def bad_commits(channel: Channel, raw: bytes, key: Key, foreign: Outpoint) -> dict[str, bytes]:
    """Commits of a channel's payer, each validly signed by its ``key``, made of the right one. ``foreign``: a coin."""
    spare = COutPoint(channel.anchor.outpoint.txid, 3) if channel.anchor else COutPoint()
    script = channel.commit_script(channel.active[-1].revoke_hash).output
    deposit = channel.script.output

    def data(asset: int, quantity: int) -> Change:
        return lambda tx: _script(tx, 1, data_script(pack_send(asset, quantity), tx.vin[0].prevout.hash))

    changes: dict[str, Change] = {
        "a lock time": lambda tx: _locked(tx, 2**31 - 1, 0xFFFFFFFE),
        "a relative lock": lambda tx: _relative(tx, channel.script.expire + 100),
        "version 2": lambda tx: setattr(tx, "nVersion", 2),
        "another sequence": lambda tx: setattr(tx.vin[0], "nSequence", 0xFFFFFFFF),
        "an output before the data": lambda tx: _insert(tx, 1, 600, script),
        "a first output": lambda tx: _insert(tx, 0, 600, deposit),
        "an output behind the data": lambda tx: _insert(tx, 2, 600, script),
        "a strange output": lambda tx: _insert(tx, 3, 600, OP_TRUE),
        "a second input": lambda tx: tx.vin.append(CMutableTxIn(spare, CScript(), 0xFFFFFFFD)),
        "the spare as its only input": lambda tx: setattr(tx.vin[0], "prevout", spare),
        "below 1 sat/vB": lambda tx: _shift(tx, 2, 2300),
        "a commit output of dust": lambda tx: _shift(tx, 0, 500 - tx.vout[0].nValue),
        "another change": lambda tx: _script(tx, 2, script),
        "its own address": lambda tx: _script(tx, 0, deposit),
        "nothing sent": data(channel.asset_id, 0),
        "less than before": data(channel.asset_id, 1),
        "more than the deposit": data(channel.asset_id, channel.quantity + 1),
        "another asset": data(26**3, channel.moved),
        "no message": lambda tx: _script(tx, 1, b"\x6a\x04none"),
    }
    found = {name: _signed(raw, channel, key, change) for name, change in changes.items()}
    found |= {
        name: _signed(raw, channel, key, lambda _tx: None, hash_type)
        for name, hash_type in (("SIGHASH_NONE", NONE), ("SIGHASH_SINGLE", SINGLE), ("ANYONECANPAY", ANYONE))
    }
    found["another's signature"] = _signed(raw, channel, Key(hash160(key.secret) + bytes(12)), lambda _tx: None)
    found["a foreign first input"] = _behind(raw, channel, key, foreign)
    return found


def with_high_s(raw: bytes, channel: Channel, key: Key) -> bytes:
    """The right commit with the other signature that is as good, which no node relays."""
    return _signed(raw, channel, key, lambda _tx: None, ALL, high_s)


def _signed(
    raw: bytes,
    channel: Channel,
    key: Key,
    change: Change,
    hash_type: int = ALL,
    shape: Callable[[bytes], bytes] = bytes,
) -> bytes:
    tx = CMutableTransaction.from_tx(CTransaction.deserialize(raw))
    change(tx)
    for index in range(len(tx.vin)):
        tx.vin[index].scriptSig = _words(tx, index, channel, key, hash_type, shape)
    return bytes(tx.serialize())


def _words(
    tx: CMutableTransaction, index: int, channel: Channel, key: Key, hash_type: int, shape: Callable[[bytes], bytes]
) -> CScript:
    redeem = channel.script.redeem
    digest, _ = RawSignatureHash(CScript(redeem), tx, index, hash_type)
    signature = shape(key.sign(digest)) + bytes((hash_type,))
    return CScript(b"\x00" + push(signature) + push(PLACEHOLDER) + OP_TRUE + push(redeem))


def _behind(raw: bytes, channel: Channel, key: Key, foreign: Outpoint) -> bytes:
    """The commit with a coin of somebody's in front of the anchor: its source is another address."""
    tx = CMutableTransaction.from_tx(CTransaction.deserialize(raw))
    tx.vin.insert(0, CMutableTxIn(COutPoint(foreign.txid, foreign.vout), CScript(), 0xFFFFFFFD))
    tx.vin[1].scriptSig = _words(tx, 1, channel, key, ALL, bytes)
    return bytes(tx.serialize())


def _locked(tx: CMutableTransaction, locktime: int, sequence: int) -> None:
    tx.nLockTime = locktime
    tx.vin[0].nSequence = sequence


def _relative(tx: CMutableTransaction, blocks: int) -> None:
    tx.nVersion = 2
    tx.vin[0].nSequence = blocks


def _insert(tx: CMutableTransaction, place: int, value: int, script: bytes) -> None:
    tx.vout.insert(place, CMutableTxOut(value, CScript(script)))
    tx.vout[-1].nValue -= value if place < len(tx.vout) - 1 else 0


def _script(tx: CMutableTransaction, place: int, script: bytes) -> None:
    tx.vout[place].scriptPubKey = CScript(script)


def _shift(tx: CMutableTransaction, place: int, more: int) -> None:
    """More satoshis for an output: at the cost of the change, or of the fee where it is the change."""
    tx.vout[place].nValue += more
    if place != 2:
        tx.vout[2].nValue -= more


# What hardly anybody understands ------------------------------------------------------------------------------------


def odd_transactions(purse: Purse, key: Key, watched: Sequence[bytes], rng: random.Random) -> list[bytes]:
    """Transactions that consensus allows, all of them paying scripts that somebody watches; in the order of a block."""
    coins = iter(purse.coins)
    program = b"\x5f\x20" + rng.randbytes(32)  # of a version that nobody has given a meaning
    scripts = [
        *(b"", OP_TRUE, b"\xff" * 40, b"\x6a", b"\x6a" + rng.randbytes(9000), b"\x4e\xff\xff\xff\xff", b"\xac" * 9000),
        *(b"\x60\x02" + rng.randbytes(2), b"\x51\x20" + bytes(32), p2sh(hash160(b""))[:-1]),
    ]
    odd = [
        _paying(purse, key, next(coins), [*watched, *scripts], version=-(2**31)),
        _paying(purse, key, next(coins), [*watched, *watched, program], locktime=1),
    ]
    last = CTransaction.deserialize(odd[-1])
    odd.append(_with_witness(last, len(last.vout) - 1, watched[0], rng))
    for message in (b"", b"\xc8", b"\x63garbage", b"\x02\x9f" + bytes(70), b"\x00\x00\x00\x00\x00", b"\x16\xff" * 30):
        coin = next(coins)
        odd.append(_paying(purse, key, coin, [watched[0], data_script(message, coin.outpoint.txid), *watched]))
    return [*odd, _paying(purse, key, next(coins), [watched[0], b"\x6a" + push(PREFIX), b"\x6a" + push(PREFIX)])]


def _paying(purse: Purse, key: Key, coin: Coin, scripts: Sequence[bytes], version: int = 1, locktime: int = 0) -> bytes:
    """A transaction that pays a wallet's coin to scripts, 600 satoshis each, and the rest to the miner."""
    tx = CMutableTransaction(
        [CMutableTxIn(COutPoint(coin.outpoint.txid, coin.outpoint.vout), CScript(), 0)],
        [CMutableTxOut(0 if script[:1] == b"\x6a" else 600, CScript(script)) for script in scripts],
        locktime,
        version,
    )
    digest, _ = RawSignatureHash(CScript(purse.script), tx, 0, ALL)
    tx.vin[0].scriptSig = CScript(purse.unlock.script_sig(key.sign(digest) + bytes((ALL,))))
    return bytes(tx.serialize())


def _with_witness(spent: CTransaction, vout: int, script: bytes, rng: random.Random) -> bytes:
    """A spend of a witness program of an unknown version, with 1.5 MB that say nothing."""
    tx = CMutableTransaction(
        [CMutableTxIn(COutPoint(spent.GetTxid(), vout), CScript(), 0)], [CMutableTxOut(0, CScript(script))]
    )
    stack = [rng.randbytes(500_000), b"", rng.randbytes(1_000_000)]
    tx.wit = CTxWitness((CTxInWitness(CScriptWitness(stack)),))
    return bytes(tx.serialize())
