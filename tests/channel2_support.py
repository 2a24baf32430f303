"""Helpers of the ground floor's tests: keys, open channels, judges of scripts, and a ledger in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pbk
from bitcoin.core import CTransaction, CTxIn
from bitcoin.core.script import CScript, RawSignatureHash
from picopayments_cli.channel2.duplex import Duplex
from picopayments_cli.channel2.keys import Key, Secrets
from picopayments_cli.channel2.scripts import PLACEHOLDER, DepositScript, push, wallet_unlock
from picopayments_cli.channel2.state import Channel, Commit, finished, request_commit
from picopayments_cli.channel2.transactions import Anchor, Budget, Draft, Output, Purse, draft_size, parse_transaction
from pycoin.networks.registry import network_for_netcode
from pycoin.satoshi import flags

from picopayments_cli.channel.counterparty import p2pkh, read_transaction, unpack_send
from picopayments_cli.channel.values import Coin, Hash, Height, Outpoint, Quantity, Secret, hash160

ASSET = 121892899915  # PEPECASH
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
POLICY = (
    flags.VERIFY_P2SH
    | flags.VERIFY_STRICTENC
    | flags.VERIFY_DERSIG
    | flags.VERIFY_LOW_S
    | flags.VERIFY_NULLDUMMY
    | flags.VERIFY_SIGPUSHONLY
    | flags.VERIFY_MINIMALDATA
    | flags.VERIFY_DISCOURAGE_UPGRADABLE_NOPS
    | flags.VERIFY_CLEANSTACK
    | flags.VERIFY_CHECKLOCKTIMEVERIFY
    | flags.VERIFY_CHECKSEQUENCEVERIFY
    | flags.VERIFY_NULLFAIL
    | flags.VERIFY_WITNESS
)


@cache
def size_of(draft: Draft) -> int:
    """The worst-case size of a transaction, in virtual bytes."""
    return draft_size([coin.unlock for coin in draft.inputs], [len(out.script) for out in draft.outputs])


def vectors(name: str) -> Any:
    """The data of tests/data/<name>_vectors.json."""
    return json.loads((Path(__file__).parent / "data" / f"{name}_vectors.json").read_text(encoding="ascii"))


def key(name: str) -> Key:
    """A key of its own for each name."""
    return Key(hashlib.sha256(f"key of {name}".encode()).digest())


def secret(name: str) -> Secret:
    """A secret of its own for each name."""
    return Secret(hashlib.sha256(f"secret of {name}".encode()).digest())


def hashed(name: str) -> Hash:
    """The hash of the secret of that name."""
    return Hash(hash160(secret(name)))


def purse(owner: Key, rate: int, coins: Iterable[Coin] = ()) -> Purse:
    """A wallet at a fee rate; without coins of its own, unless some are named."""
    return Purse(wallet_unlock(owner.pubkey, wallet_script(owner)), tuple(coins), rate)


def wallet_coin(outpoint: Outpoint, value: int) -> Coin:
    """A coin of a wallet's, confirmed; nothing that composes a transaction looks at its script."""
    return Coin(outpoint, value, b"", Height(1))


def wallet_script(owner: Key) -> bytes:
    """The scriptPubKey of a key's P2PKH address."""
    return p2pkh(hash160(owner.pubkey))


def parsed(raw: bytes) -> CTransaction:
    """A transaction that must parse."""
    tx = parse_transaction(raw)
    assert tx is not None
    return tx


# One channel --------------------------------------------------------------------------------------------------------

PAYER, PAYEE = key("payer"), key("payee")
SPEND_SECRET = secret("spend")


def deposit_script(expire: int = 1024) -> DepositScript:
    """A deposit of PAYER's to PAYEE."""
    return DepositScript(PAYER.pubkey, PAYEE.pubkey, hashed("spend"), expire)


def open_channel(quantity: int = 1000, delay: int = 2, fee_rate: int = 5, hashes: Sequence[str] = ("one",)) -> Channel:
    """A channel from PAYER to PAYEE whose deposit is confirmed, with the hashes of those names requested."""
    anchor = Anchor(Outpoint(hashlib.sha256(b"deposit").digest(), 0), Budget(fee_rate).anchor)
    channel = Channel(ASSET, deposit_script(), Quantity(quantity), delay, fee_rate, anchor)
    for name in hashes:
        channel = request_commit(channel, hashed(name))
    return channel


def with_commits(channel: Channel, quantities: Sequence[int]) -> Channel:
    """The channel with active commits of those quantities, on hashes named by their numbers (unsigned)."""
    commits = tuple(Commit(Quantity(quantity), hashed(f"commit {quantity}"), b"") for quantity in quantities)
    return replace(channel, active=commits)


def half_signed(tx: CTransaction, deposit: DepositScript, payer: Key, hash_type: int = 1) -> bytes:
    """Any transaction with its first input signed by the payer as a half-signed commit would be."""
    digest, _ = RawSignatureHash(CScript(deposit.redeem), tx, 0, hash_type)
    return with_payer_signature(tx, deposit, payer.sign(digest) + bytes((hash_type,)))


def with_payer_signature(tx: CTransaction, deposit: DepositScript, signature: bytes) -> bytes:
    """A transaction whose first input carries the words of a half-signed commit, with that payer's signature."""
    words = b"\x00" + push(signature) + push(PLACEHOLDER) + b"\x51" + push(deposit.redeem)
    return with_script_sig(tx, words)


def with_script_sig(tx: CTransaction, script_sig: bytes) -> bytes:
    """A transaction's bytes with that scriptSig on its first input."""
    first = CTxIn(tx.vin[0].prevout, CScript(script_sig), tx.vin[0].nSequence)
    return bytes(CTransaction([first, *tx.vin[1:]], tx.vout, tx.nLockTime, tx.nVersion).serialize())


def changed(tx: CTransaction, **members: Any) -> CTransaction:
    """A transaction with some of vin, vout, nLockTime and nVersion replaced."""
    names = ("vin", "vout", "nLockTime", "nVersion")
    return CTransaction(*(members.get(name, getattr(tx, name)) for name in names))


def der(r: int, s: int) -> bytes:
    """The strict DER encoding of a signature's two numbers."""
    body = b"".join(
        b"\x02" + bytes((len(data),)) + data
        for data in (number.to_bytes(number.bit_length() // 8 + 1, "big") for number in (r, s))
    )
    return b"\x30" + bytes((len(body),)) + body


def numbers_of(signature: bytes) -> tuple[int, int]:
    """The two numbers of a strict DER signature."""
    size = signature[3]
    return int.from_bytes(signature[4 : 4 + size], "big"), int.from_bytes(signature[6 + size :], "big")


def high_s(signature: bytes) -> bytes:
    """Return the DER signature with s above half of the curve's order."""
    r, s = numbers_of(signature)
    return der(r, max(s, CURVE_ORDER - s))


# Judges -------------------------------------------------------------------------------------------------------------


def judge(raw: bytes, spent: Sequence[Output]) -> None:
    """Raise unless pycoin's interpreter, with the flags of policy, lets every input spend its output."""
    network = network_for_netcode("XTN").tx
    tx = network.from_bin(raw)
    tx.set_unspents([network.TxOut(out.value, out.script) for out in spent])
    for number in range(len(tx.txs_in)):
        tx.check_solution(number, flags=POLICY)


def kernel_accepts(raw: bytes, spent: Sequence[Output]) -> bool:
    """Whether Bitcoin Core's kernel finds every input's script fulfilled."""
    tx = pbk.Transaction(raw)
    outputs = [pbk.TransactionOutput(pbk.ScriptPubkey(out.script), out.value) for out in spent]
    data = pbk.script.PrecomputedTransactionData(tx, outputs)
    everything = pbk.ScriptVerificationFlags.ALL
    return all(
        pbk.ScriptPubkey(out.script).verify(out.value, tx, data, number, everything) for number, out in enumerate(spent)
    )


@dataclass
class Ledger:
    """Counterparty's balances of one asset by scriptPubKey; what a send takes is capped by what there is."""

    balances: dict[bytes, int]

    def balance(self, script: bytes) -> int:
        """Return what is held there."""
        return self.balances.get(script, 0)

    def apply(self, tx: CTransaction, spent_script: bytes) -> int:
        """Apply a transaction that must be a classic send of the asset to one address; what it moved."""
        reading = read_transaction(tx, spent_script)
        assert reading is not None
        assert reading.message is not None
        send = unpack_send(reading.message)
        assert send is not None
        assert (send.asset_id, send.destination) == (ASSET, None)
        (destination,) = reading.destinations
        moved = min(send.quantity, self.balance(reading.source))
        self.balances[reading.source] = self.balance(reading.source) - moved
        self.balances[destination] = self.balance(destination) + moved
        return moved


def signed_spend(draft: Draft, owner: Key, output: Output) -> CTransaction:
    """A recovery of one output, signed; pycoin must let it pass, and it must cost what its size says."""
    tx = draft.signed(owner)
    judge(tx.serialize(), [output])
    return tx


# Two parties --------------------------------------------------------------------------------------------------------


class ChannelParty:
    """One side of a connection: its keys, its secrets, its state."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = key(name)
        self.secrets = Secrets(self.key, hashlib.sha256(name.encode()).digest()[:16])
        self._drawn: dict[Hash, Secret] = {}
        self.duplex: Duplex

    def draw(self) -> Hash:
        """The hash of a fresh revoke secret."""
        number = len(self._drawn)
        made = self.secrets.revoke_hash(number)
        self._drawn[made] = self.secrets.revoke(number)
        return made

    def secret_of(self, wanted: Hash) -> Secret:
        """The revoke secret of a hash that this party drew."""
        return self._drawn[wanted]

    def finished(self, chosen: Commit) -> bytes:
        """A commit to this party, signed by both."""
        return finished(self.duplex.receiving, chosen, self.key)


def connect(
    client_deposit: int = 1000, hub_deposit: int = 1000, fee_rate: int = 5, delay: int = 2
) -> tuple[ChannelParty, ChannelParty]:
    """Two parties with both deposits confirmed, each holding the other's first hash."""
    client, hub = ChannelParty("client"), ChannelParty("hub")
    hashes = {"client": client.draw(), "hub": hub.draw()}

    def channel(payer: ChannelParty, payee: ChannelParty, quantity: int) -> Channel:
        script = DepositScript(payer.key.pubkey, payee.key.pubkey, payee.secrets.spend_hash, 1024)
        anchor = Anchor(Outpoint(hashlib.sha256(payer.name.encode()).digest(), 0), Budget(fee_rate).anchor)
        opened = Channel(ASSET, script, Quantity(quantity), delay, fee_rate, anchor)
        return request_commit(opened, hashes[payee.name])

    c2h = channel(client, hub, client_deposit)
    h2c = channel(hub, client, hub_deposit)
    client.duplex, hub.duplex = Duplex(c2h, h2c), Duplex(h2c, c2h)
    return client, hub
