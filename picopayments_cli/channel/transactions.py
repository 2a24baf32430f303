"""Every transaction of a channel: composed from agreed values, signed, and checked by composing it again.

Amounts are satoshis, fee rates sat/vB, sizes virtual bytes with worst-case signatures. What is received is compared
byte for byte with what its agreed values make; only the signature is the sender's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxOut, Hash
from bitcoin.core.script import SIGHASH_ALL, CScript, RawSignatureHash
from bitcoin.core.serialize import SerializationError

from picopayments_cli.channel.counterparty import (
    PREFIX,
    data_script,
    message_of,
    pack_send,
    script_pushes,
    unpack_send,
)
from picopayments_cli.channel.errors import (
    BadCommit,
    BadDeposit,
    BadPayerSignature,
    BadPreviousTransaction,
    InsufficientBitcoin,
)
from picopayments_cli.channel.keys import Key, normalise, verify
from picopayments_cli.channel.scripts import (
    CommitScript,
    DepositScript,
    Unlock,
    commit_unlock,
    half_commit_unlock,
)
from picopayments_cli.channel.values import MAX_QUANTITY, SECRET_SIZE, Outpoint, Secret, hash160

FINAL = 0xFFFFFFFF
REPLACEABLE = 0xFFFFFFFD
DUST = 546  # below it an output is not relayed
# With the longest numbers of blocks: an expiry of 65535, a delay of 2016.
COMMIT_SIZE = 482
PAYOUT_SIZE = 357
CHANGE_SIZE = 412
MAX_COMMIT_RATE = 100
_DATA_SIZE = 2 + len(PREFIX) + len(pack_send(0, 0))


@dataclass(frozen=True)
class Input:
    """An output to be spent: where it is, its satoshis, what unlocks it, and its sequence."""

    outpoint: Outpoint
    value: int
    unlock: Unlock
    sequence: int = REPLACEABLE


@dataclass(frozen=True)
class Output:
    """Satoshis to a scriptPubKey."""

    value: int
    script: bytes


@dataclass(frozen=True)
class Draft:
    """A transaction before it is signed: everything but the signatures."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    version: int = 1

    @property
    def fee(self) -> int:
        """What the outputs leave, in satoshis."""
        return sum(coin.value for coin in self.inputs) - sum(out.value for out in self.outputs)

    @property
    def size(self) -> int:
        """Worst-case size in virtual bytes."""
        return draft_size([coin.unlock for coin in self.inputs], [len(out.script) for out in self.outputs])

    def unsigned(self) -> CTransaction:
        """The transaction with empty scriptSigs."""
        return self._with([b""] * len(self.inputs))

    def _with(self, script_sigs: Sequence[bytes]) -> CTransaction:
        return CTransaction(
            [
                CTxIn(COutPoint(coin.outpoint.txid, coin.outpoint.vout), CScript(script_sig), coin.sequence)
                for coin, script_sig in zip(self.inputs, script_sigs, strict=True)
            ],
            [CTxOut(out.value, CScript(out.script)) for out in self.outputs],
            0,
            self.version,
        )

    def digest(self, index: int = 0) -> bytes:
        """What a SIGHASH_ALL signature of an input signs."""
        script = CScript(self.inputs[index].unlock.script)
        digest, error = RawSignatureHash(script, self.unsigned(), index, SIGHASH_ALL)
        if error is not None:
            raise ValueError(error)
        return bytes(digest)

    def signed(self, key: Key) -> CTransaction:
        """The transaction, each input signed with the key."""
        return self.with_signatures([key.sign(self.digest(n)) + b"\x01" for n in range(len(self.inputs))])

    def with_signatures(self, signatures: Sequence[bytes]) -> CTransaction:
        """The transaction with the given signatures (DER and hash type), one per input."""
        pairs = zip(self.inputs, signatures, strict=True)
        return self._with([coin.unlock.script_sig(signature) for coin, signature in pairs])


@dataclass(frozen=True)
class Anchor:
    """The output of a deposit that every commit of its channel spends."""

    outpoint: Outpoint
    value: int


@dataclass(frozen=True)
class Budget:
    """The bitcoins of a channel, all fixed by the commits' fee rate in its terms.

    Recoveries are budgeted at a third of that rate: it was three times the ordinary one when the terms were made.
    """

    fee_rate: int

    @property
    def recovery_rate(self) -> int:
        """The rate that payout and change are budgeted at."""
        return max(self.fee_rate // 3, 1)

    @property
    def commit_fee(self) -> int:
        """What every commit pays."""
        return COMMIT_SIZE * self.fee_rate

    @property
    def commit_value(self) -> int:
        """What every commit's output holds: dust and the payout's fee."""
        return DUST + PAYOUT_SIZE * self.recovery_rate

    @property
    def anchor(self) -> int:
        """What a deposit's anchor holds: commit fee, commit output, dust and the change's fee."""
        return self.commit_fee + self.commit_value + DUST + CHANGE_SIZE * self.recovery_rate

    @property
    def deposit(self) -> int:
        """What a deposit costs its payer beside the fee: the anchor, and the spare output that frees what expires."""
        return self.anchor + DUST


def commit_rate(estimate: int) -> int:
    """The commits' fee rate of new terms, from the node's 3-block estimate."""
    return min(max(3 * estimate, 5), MAX_COMMIT_RATE)


# Sizes and parsing --------------------------------------------------------------------------------------------------


def _varint_size(number: int) -> int:
    return 1 if number < 0xFD else 3


def draft_size(unlocks: Sequence[Unlock], script_sizes: Sequence[int]) -> int:
    """The worst-case size of a transaction without witness, in virtual bytes."""
    size = 8 + _varint_size(len(unlocks)) + _varint_size(len(script_sizes))
    size += sum(40 + _varint_size(unlock.max_size) + unlock.max_size for unlock in unlocks)
    return size + sum(8 + _varint_size(length) + length for length in script_sizes)


def parse_transaction(raw: bytes) -> CTransaction | None:
    """A transaction from exactly these bytes, or None."""
    try:
        tx = CTransaction.deserialize(raw)
    except (SerializationError, ValueError):
        return None
    return tx if tx.serialize() == raw else None


def txid_of(raw: bytes) -> bytes:
    """The wire-order txid of raw bytes without witness."""
    return bytes(Hash(raw))


def output_of(raw: bytes, outpoint: Outpoint) -> Output:
    """The output that an outpoint names, from its transaction. Raises BadPreviousTransaction.

    Legacy signatures don't commit to the values that they spend, so a value counts only when it comes out of bytes
    that hash to the txid.
    """
    tx = parse_transaction(raw)
    if tx is None or tx.GetTxid() != outpoint.txid or outpoint.vout >= len(tx.vout):
        raise BadPreviousTransaction(
            f"What was given as the transaction of {outpoint} is another one. Nothing was signed.",
            outpoint=str(outpoint),
        )
    out = tx.vout[outpoint.vout]
    return Output(out.nValue, bytes(out.scriptPubKey))


def spent_outpoints(tx: CTransaction) -> tuple[Outpoint, ...]:
    """The outpoints that a transaction spends, in order."""
    return tuple(Outpoint(coin.prevout.hash, coin.prevout.n) for coin in tx.vin)


# A send from the wallet, the deposit among them ---------------------------------------------------------------------


def compose_send(
    coins: Sequence[tuple[Outpoint, int]],
    wallet: Unlock,
    target: Output,
    message: bytes,
    *,
    behind: Sequence[Output] = (),
    rate: int,
) -> Draft:
    """A Counterparty message from a wallet: outputs target, message, change, and whatever stands behind.

    Takes the largest coins first, as few as suffice; change is at least dust. Raises InsufficientBitcoin.
    """
    sizes = [len(target.script), _DATA_SIZE, len(wallet.script), *(len(out.script) for out in behind)]
    needed = target.value + sum(out.value for out in behind)
    chosen: list[Input] = []
    ordered = sorted(coins, key=lambda coin: (-coin[1], coin[0]))
    for outpoint, value in ordered:
        chosen.append(Input(outpoint, value, wallet))
        fee = rate * draft_size([wallet] * len(chosen), sizes)
        change = sum(coin.value for coin in chosen) - needed - fee
        if change >= DUST:
            data = Output(0, data_script(message, chosen[0].outpoint.txid))
            return Draft(tuple(chosen), (target, data, Output(change, wallet.script), *behind))
    short = needed + rate * draft_size([wallet] * max(len(chosen), 1), sizes) + DUST
    held = sum(value for _, value in ordered)
    raise InsufficientBitcoin(
        f"The wallet's confirmed coins hold {held} satoshis; this transaction needs {short}. Send bitcoin to the "
        "wallet's address, or wait for its coins to confirm.",
        needed=short,
        available=held,
    )


def compose_deposit(
    coins: Sequence[tuple[Outpoint, int]],
    wallet: Unlock,
    script: DepositScript,
    asset_id: int,
    quantity: int,
    budget: Budget,
    rate: int,
) -> Draft:
    """A deposit: anchor, message, wallet change, and the spare that frees the rest at expiry whatever the payee did.

    The spare stands behind the change, where Counterparty has stopped looking. Raises InsufficientBitcoin.
    """
    target = Output(budget.anchor, script.output)
    spare = Output(DUST, script.output)
    return compose_send(coins, wallet, target, pack_send(asset_id, quantity), behind=[spare], rate=rate)


def check_deposit(tx: CTransaction, script: DepositScript, asset_id: int, quantity: int, budget: Budget) -> Anchor:
    """The anchor of a peer's deposit, which must be exactly as the template makes it. Raises BadDeposit.

    That the asset has arrived only the ledger can tell, and is for the caller to ask.
    """
    outs = [(out.nValue, bytes(out.scriptPubKey)) for out in tx.vout]
    txid = tx.GetTxid()
    if (
        len(outs) != 4
        or outs[0][1] != script.output
        or outs[1] != (0, data_script(pack_send(asset_id, quantity), tx.vin[0].prevout.hash))
        or outs[3][1] != script.output
    ):
        raise BadDeposit(
            "The deposit transaction is not of the agreed form.", txid=txid[::-1].hex(), quantity=quantity
        )
    if outs[0][0] < budget.anchor or outs[3][0] < DUST:
        raise BadDeposit(
            f"The deposit holds {outs[0][0]} and {outs[3][0]} satoshis where {budget.anchor} and {DUST} are due.",
            txid=txid[::-1].hex(),
            anchor=outs[0][0],
            needed=budget.anchor,
        )
    return Anchor(Outpoint(txid, 0), outs[0][0])


# Commits ------------------------------------------------------------------------------------------------------------


def compose_commit(
    anchor: Anchor, deposit: DepositScript, commit: CommitScript, asset_id: int, quantity: int, budget: Budget
) -> Draft:
    """The commit of a cumulative quantity: one input, the anchor; outputs commit, message, change to the deposit."""
    change = anchor.value - budget.commit_fee - budget.commit_value
    if change < DUST:
        raise BadDeposit(
            f"The deposit's {anchor.value} satoshis are too few for a commit.",
            anchor=anchor.value,
            needed=budget.anchor,
        )
    coin = Input(anchor.outpoint, anchor.value, half_commit_unlock(deposit))
    data = Output(0, data_script(pack_send(asset_id, quantity), anchor.outpoint.txid))
    return Draft((coin,), (Output(budget.commit_value, commit.output), data, Output(change, deposit.output)))


def commit_quantity(raw: bytes, asset_id: int) -> int:
    """The cumulative quantity that a half-signed commit names. Raises BadCommit."""
    tx = parse_transaction(raw)
    if tx is None or len(tx.vin) != 1 or len(tx.vout) != 3:
        raise BadCommit("The commit is not a transaction of the agreed form.", commit=raw.hex())
    message = message_of(bytes(tx.vout[1].scriptPubKey), tx.vin[0].prevout.hash)
    sent = unpack_send(message) if message else None
    if sent is None or sent.destination is not None or sent.asset_id != asset_id:
        raise BadCommit("The commit does not send the connection's asset.", commit=raw.hex())
    return sent.quantity


def payer_signature(raw: bytes, draft: Draft, deposit: DepositScript) -> bytes:
    """The payer's signature (DER, low S, and hash type) on a half-signed commit.

    The rest must be byte for byte the draft. Raises BadCommit, BadPayerSignature.
    """
    tx = parse_transaction(raw)
    script_sig = bytes(tx.vin[0].scriptSig) if tx is not None and tx.vin else b""
    signature = script_sig[2 : 2 + script_sig[1]] if len(script_sig) > 1 else b""
    if not 0 < len(signature) <= 75 or draft.with_signatures([signature]).serialize() != raw:
        raise BadCommit("The commit is not byte for byte the agreed one.", commit=raw.hex())
    low = normalise(signature[:-1])
    if signature[-1] != SIGHASH_ALL or low is None or not verify(deposit.payer, draft.digest(), low):
        raise BadPayerSignature("The commit lacks the payer's valid signature of everything in it.", commit=raw.hex())
    return low + signature[-1:]


def finish_commit(draft: Draft, deposit: DepositScript, signature: bytes, payee: Key) -> CTransaction:
    """The commit signed by both, ready to publish; ``signature``: the payer's."""
    whole = replace(draft.inputs[0], unlock=commit_unlock(deposit, signature))
    return replace(draft, inputs=(whole,)).signed(payee)


# Recoveries ---------------------------------------------------------------------------------------------------------


def compose_recovery(coins: Sequence[Input], wallet_script: bytes, asset_id: int, rate: int, version: int = 1) -> Draft:
    """A payout, change, expire or revoke: the coins, and all of the asset on their address, to one's own wallet.

    The message names the largest quantity there is, of which Counterparty sends what the address holds. ``version`` 2
    where a sequence is a relative lock. Raises InsufficientBitcoin where the coins don't suffice for the fee.
    """
    data = Output(0, data_script(pack_send(asset_id, MAX_QUANTITY), coins[0].outpoint.txid))
    held = sum(coin.value for coin in coins)
    fee = rate * draft_size([coin.unlock for coin in coins], [len(wallet_script), len(data.script)])
    if held - fee < DUST:
        raise InsufficientBitcoin(
            f"The channel's coins hold {held} satoshis; recovering them costs {fee} at {rate} sat/vB. Run sync again "
            "when fees are lower.",
            needed=fee + DUST,
            available=held,
        )
    return Draft(tuple(coins), (Output(held - fee, wallet_script), data), version)


def find_secret(tx: CTransaction, wanted: bytes) -> Secret | None:
    """The secret of a hash among all that a transaction's scriptSigs push.

    Selectors and pushes are malleable, so no position is relied on.
    """
    for coin in tx.vin:
        for pushed in script_pushes(bytes(coin.scriptSig)) or []:
            if len(pushed) == SECRET_SIZE and hash160(pushed) == wanted:
                return Secret(pushed)
    return None
