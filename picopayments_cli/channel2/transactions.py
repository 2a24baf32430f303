"""Every transaction of a channel: composed from agreed values, signed, and checked by composing it again.

Amounts are satoshis, fee rates sat/vB, sizes virtual bytes with worst-case signatures. What is received is compared
byte for byte with what its agreed values make; only the signature is the sender's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitcoin.core import COutPoint, CTransaction, CTxIn, CTxOut, Hash
from bitcoin.core.script import SIGHASH_ALL, CScript
from bitcoin.core.serialize import SerializationError

from picopayments_cli.channel.counterparty import (
    PREFIX,
    data_script,
    is_p2pkh,
    message_of,
    p2sh,
    pack_send,
    script_pushes,
    unpack_send,
)
from picopayments_cli.channel.values import MAX_QUANTITY, SECRET_SIZE, Coin, Outpoint, Secret, hash160
from picopayments_cli.channel2.keys import Key, normalise, verify
from picopayments_cli.channel2.scripts import (
    CommitScript,
    DepositScript,
    Unlock,
    commit_unlock,
    half_commit_unlock,
)
from picopayments_cli.errors import (
    BadCommit,
    BadDeposit,
    BadPayerSignature,
    BadPreviousTransaction,
    InsufficientBitcoin,
)

REPLACEABLE = 0xFFFFFFFD
DUST = 546  # below it an output is not relayed
# With the longest numbers of blocks: an expiry of 65535, a delay of 2016.
COMMIT_SIZE = 482
PAYOUT_SIZE = 357
CHANGE_SIZE = 412
MAX_COMMIT_RATE = 100  # sat/vB; terms that ask for more are refused
HASH_TYPE = bytes((SIGHASH_ALL,))  # behind every signature of a transaction
_DATA_SIZE = 2 + len(PREFIX) + len(pack_send(0, 0))


@dataclass(frozen=True)
class Input:
    """An output to be spent: where it is, its satoshis, what unlocks it, and its sequence."""

    outpoint: Outpoint
    value: int
    unlock: Unlock
    sequence: int = REPLACEABLE

    @property
    def script(self) -> bytes:
        """Return the scriptPubKey that it spends: the wallet's, or the hash of a redeem script."""
        return self.unlock.script if is_p2pkh(self.unlock.script) else p2sh(hash160(self.unlock.script))


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
        """Return what the outputs leave, in satoshis."""
        return sum(coin.value for coin in self.inputs) - sum(out.value for out in self.outputs)

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
        """Return what a SIGHASH_ALL signature of an input signs.

        That is the transaction with the input's script in place of its scriptSig, and the hash type behind it (no
        script here has an OP_CODESEPARATOR): bitcoinlib's RawSignatureHash takes twice as long.
        """
        scripts = [b""] * len(self.inputs)
        scripts[index] = self.inputs[index].unlock.script
        return bytes(Hash(self._with(scripts).serialize() + SIGHASH_ALL.to_bytes(4, "little")))

    def signed(self, key: Key) -> CTransaction:
        """Return the transaction, each input signed with the key."""
        return self.with_signatures([key.sign(self.digest(n)) + HASH_TYPE for n in range(len(self.inputs))])

    def with_signatures(self, signatures: Sequence[bytes]) -> CTransaction:
        """Return the transaction with the given signatures (DER and hash type), one per input."""
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
        """Return the rate that payout and change are budgeted at."""
        return max(self.fee_rate // 3, 1)

    @property
    def commit_fee(self) -> int:
        """Return what every commit pays."""
        return COMMIT_SIZE * self.fee_rate

    @property
    def commit_value(self) -> int:
        """Return what every commit's output holds: dust and the payout's fee."""
        return DUST + PAYOUT_SIZE * self.recovery_rate

    @property
    def anchor(self) -> int:
        """Return what a deposit's anchor holds: commit fee, commit output, dust and the change's fee."""
        return self.commit_fee + self.commit_value + DUST + CHANGE_SIZE * self.recovery_rate


def commit_rate(estimate: int) -> int:
    """Return the commits' fee rate of new terms, from the node's 3-block estimate."""
    return min(max(3 * estimate, 5), MAX_COMMIT_RATE)


# Sizes and parsing --------------------------------------------------------------------------------------------------


def _varint_size(number: int) -> int:
    return 1 if number < 0xFD else 3


def draft_size(unlocks: Sequence[Unlock], script_sizes: Sequence[int]) -> int:
    """Return the worst-case size of a transaction without witness, in virtual bytes."""
    size = 8 + _varint_size(len(unlocks)) + _varint_size(len(script_sizes))
    size += sum(40 + _varint_size(unlock.max_size) + unlock.max_size for unlock in unlocks)
    return size + sum(8 + _varint_size(length) + length for length in script_sizes)


def parse_transaction(raw: bytes) -> CTransaction | None:
    """Return a transaction from exactly these bytes, or None."""
    try:
        tx = CTransaction.deserialize(raw)
    except (SerializationError, ValueError):
        return None
    return tx if tx.serialize() == raw else None


def txid_of(raw: bytes) -> bytes:
    """Return the wire-order txid of raw bytes without witness."""
    return bytes(Hash(raw))


def output_of(raw: bytes, outpoint: Outpoint) -> Output:
    """Return the output that an outpoint names, from its transaction. Raises BadPreviousTransaction.

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
    """Return the outpoints that a transaction spends, in order."""
    return tuple(Outpoint(coin.prevout.hash, coin.prevout.n) for coin in tx.vin)


# From the wallet ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Purse:
    """The wallet that pays and is paid: what unlocks it, its confirmed coins, and the fee rate in sat/vB.

    A transaction that can wait leaves ``reserve`` satoshis in the wallet.
    """

    unlock: Unlock
    coins: tuple[Coin, ...]
    rate: int
    reserve: int = 0

    @property
    def script(self) -> bytes:
        """Return the wallet's scriptPubKey."""
        return self.unlock.script

    def without(self, draft: Draft) -> Purse:
        """Return the purse once a draft has taken its coins."""
        spent = {coin.outpoint for coin in draft.inputs}
        return replace(self, coins=tuple(coin for coin in self.coins if coin.outpoint not in spent))

    def without_coins(self) -> Purse:
        """Return the purse for what must pay for itself."""
        return replace(self, coins=())


def choose_coins(
    inputs: Sequence[Input], purse: Purse, script_sizes: Sequence[int], paid: int = 0, *, urgent: bool = False
) -> tuple[tuple[Input, ...], int]:
    """Add the wallet coins that a transaction needs; its inputs, and the satoshis left for the wallet's own output.

    ``paid``: satoshis of the other outputs. ``script_sizes``: of all outputs. Takes the largest coins first, as few as
    suffice; what is left is at least dust. The wallet keeps its reserve, unless it is urgent: then it keeps dust.
    Raises InsufficientBitcoin.
    """
    chosen = list(inputs)
    own = held = sum(coin.value for coin in inputs)
    wallet = sum(coin.value for coin in purse.coins)
    reserve = 0 if urgent else purse.reserve
    spare = iter(sorted(purse.coins, key=lambda coin: (-coin.value, coin.outpoint)))
    while True:
        leaving = paid + purse.rate * draft_size([coin.unlock for coin in chosen] or [purse.unlock], script_sizes)
        coin = next(spare, None) if held < leaving + DUST else None
        if coin is None:
            break
        chosen.append(Input(coin.outpoint, coin.value, purse.unlock))
        held += coin.value
    if held < leaving + DUST or leaving > own + max(wallet - reserve, 0):
        raise _insufficient(purse.rate, leaving + max(reserve, DUST), own + wallet, reserve)
    return tuple(chosen), held - leaving


def _insufficient(rate: int, needed: int, available: int, reserve: int) -> InsufficientBitcoin:
    stays = f", {reserve} of which must stay in the wallet for fees that can't wait" if reserve else ""
    return InsufficientBitcoin(
        f"The transaction needs {needed} satoshis at {rate} sat/vB{stays}; the confirmed coins that can pay for it "
        f"hold {available}. Send bitcoin to the wallet's address, wait for its coins to confirm, or run the command "
        "again when fees are lower.",
        needed=needed,
        available=available,
    )


def compose_send(purse: Purse, target: Output, message: bytes, *, behind: Sequence[Output] = ()) -> Draft:
    """Compose a Counterparty message from a wallet: outputs target, message, change, and whatever stands behind.

    Raises InsufficientBitcoin.
    """
    sizes = [len(target.script), _DATA_SIZE, len(purse.script), *(len(out.script) for out in behind)]
    inputs, left = choose_coins((), purse, sizes, target.value + sum(out.value for out in behind))
    data = Output(0, data_script(message, inputs[0].outpoint.txid))
    return Draft(inputs, (target, data, Output(left, purse.script), *behind))


def compose_payment(purse: Purse, target: Output) -> Draft:
    """Compose plain bitcoins from the wallet to a script, change behind. Raises InsufficientBitcoin."""
    inputs, left = choose_coins((), purse, [len(target.script), len(purse.script)], target.value)
    return Draft(inputs, (target, Output(left, purse.script)))


def compose_deposit(purse: Purse, script: DepositScript, asset_id: int, quantity: int, budget: Budget) -> Draft:
    """Compose a deposit: anchor, message, wallet change, and the spare that frees the rest at expiry.

    The spare stands behind the change, where Counterparty has stopped looking. Raises InsufficientBitcoin.
    """
    spare = Output(DUST, script.output)
    return compose_send(purse, Output(budget.anchor, script.output), pack_send(asset_id, quantity), behind=[spare])


def check_deposit(tx: CTransaction, script: DepositScript, asset_id: int, quantity: int, budget: Budget) -> Anchor:
    """Check the anchor of a peer's deposit, which must be exactly as the template makes it. Raises BadDeposit.

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
        raise BadDeposit("The deposit transaction is not of the agreed form.", txid=txid[::-1].hex(), quantity=quantity)
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
    """Compose the commit of a cumulative quantity. It spends the anchor to commit, message, change to the deposit."""
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
    """Return the cumulative quantity that a half-signed commit names. Raises BadCommit."""
    tx = parse_transaction(raw)
    if tx is None or len(tx.vin) != 1 or len(tx.vout) != 3:
        raise BadCommit("The commit is not a transaction of the agreed form.", commit=raw.hex())
    message = message_of(bytes(tx.vout[1].scriptPubKey), tx.vin[0].prevout.hash)
    sent = unpack_send(message) if message else None
    if sent is None or sent.destination is not None or sent.asset_id != asset_id:
        raise BadCommit("The commit does not send the connection's asset.", commit=raw.hex())
    return sent.quantity


def payer_signature(raw: bytes, draft: Draft, deposit: DepositScript) -> bytes:
    """Return the payer's signature (DER, low S, and hash type) on a half-signed commit.

    The rest must be byte for byte the draft. Raises BadCommit, BadPayerSignature.
    """
    # Behind version, number of inputs, outpoint and length; what stands elsewhere fails the comparison.
    script_sig = raw[44:] if raw[41:42] == b"\xfd" else raw[42:]
    signature = script_sig[2 : 2 + script_sig[1]] if len(script_sig) > 1 else b""
    if not 0 < len(signature) <= 75 or draft.with_signatures([signature]).serialize() != raw:
        raise BadCommit("The commit is not byte for byte the agreed one.", commit=raw.hex())
    low = normalise(signature[:-1])
    if signature[-1:] != HASH_TYPE or low is None or not verify(deposit.payer, draft.digest(), low):
        raise BadPayerSignature("The commit lacks the payer's valid signature of everything in it.", commit=raw.hex())
    return low + signature[-1:]


def finish_commit(draft: Draft, deposit: DepositScript, signature: bytes, payee: Key) -> CTransaction:
    """Return the commit signed by both, ready to publish; ``signature``: the payer's."""
    whole = replace(draft.inputs[0], unlock=commit_unlock(deposit, signature))
    return replace(draft, inputs=(whole,)).signed(payee)


# Recoveries ---------------------------------------------------------------------------------------------------------


def compose_recovery(
    coins: Sequence[Input], purse: Purse, asset_id: int | None, version: int = 1, *, urgent: bool = False
) -> Draft:
    """Compose a payout, change, expire or revoke: the coins, and an asset on the first one's address, to the wallet.

    The message names the largest quantity there is, of which Counterparty sends what the address holds; no message
    where ``asset_id`` is None. ``version`` 2 where a sequence is a relative lock, which binds its own input only. Coins
    of the purse go behind, as few as the fee needs. Raises InsufficientBitcoin where they don't suffice.
    """
    data = []
    if asset_id is not None:
        data.append(Output(0, data_script(pack_send(asset_id, MAX_QUANTITY), coins[0].outpoint.txid)))
    sizes = [len(purse.script), *(len(out.script) for out in data)]
    inputs, left = choose_coins(coins, purse, sizes, urgent=urgent)
    return Draft(inputs, (Output(left, purse.script), *data), version)


def find_secret(tx: CTransaction, wanted: bytes) -> Secret | None:
    """Return the secret of a hash among all that a transaction's scriptSigs push.

    Selectors and pushes are malleable, so no position is relied on.
    """
    for coin in tx.vin:
        for pushed in script_pushes(bytes(coin.scriptSig)) or []:
            if len(pushed) == SECRET_SIZE and hash160(pushed) == wanted:
                return Secret(pushed)
    return None
