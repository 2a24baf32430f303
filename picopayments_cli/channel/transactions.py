"""Every transaction of a channel, composed from what both sides agreed on: nothing that a peer made is parsed here.

Amounts are satoshis, fee rates sat/vB. The channel's output is always the first input, and every message a classic
send keyed by its txid. Only a peer's deposit is read, as any mined transaction is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bitcoin.core import CTransaction

from picopayments_cli.channel.coins import Purse, fund
from picopayments_cli.channel.counterparty import data_script, is_address, pack_send
from picopayments_cli.channel.drafts import (
    DUST,
    OWN,
    SHARED,
    Draft,
    Input,
    Output,
    by_both,
    by_payer,
)
from picopayments_cli.channel.scripts import P2A, CommitScript, DepositScript, commit_script, is_wallet
from picopayments_cli.channel.values import MAX_QUANTITY, SECRET_SIZE, Coin, Hash, Outpoint, Quantity
from picopayments_cli.errors import (
    BadCommitQuantity,
    BadDeposit,
    BadWalletScript,
    InvalidTime,
)

MIN_DELAY, MAX_DELAY = 2, 2016  # blocks
# vB with the longest signatures, and P2PKH wallets.
COMMIT_SIZE = 257
PAYOUT_SIZE = 192  # remainder and rest too
CLOSE_SIZE = 248
CHILD_SIZE = 250  # of a P2A output and one P2PKH coin, rounded up
P2A_VALUE = 240
TAPROOT_SIZE = 34  # bytes of the script of a deposit's address
MAX_COINS = 500  # of one expiry: some 43,000 vB


@dataclass(frozen=True)
class Budget:
    """The bitcoins of a channel, all fixed by the commits' fee rate."""

    rate: int

    @property
    def payout_fee(self) -> int:
        """Return what a payout, a remainder and a close's rest pay."""
        return PAYOUT_SIZE * self.rate

    @property
    def commit_value(self) -> int:
        """Return what a commit's output holds: dust and the payout's fee."""
        return DUST + self.payout_fee

    @property
    def commit_cost(self) -> int:
        """Return what a commit takes from its anchor before the rest goes back to the deposit's address."""
        return COMMIT_SIZE * self.rate + P2A_VALUE + self.commit_value

    @property
    def close_cost(self) -> int:
        """Return what a close takes for its fee and the P2A output."""
        return CLOSE_SIZE * self.rate + P2A_VALUE

    @property
    def anchor(self) -> int:
        """The least that an anchor holds: what a commit takes, dust and the remainder's fee."""
        return self.commit_cost + DUST + self.payout_fee


@dataclass(frozen=True)
class Contract:
    """The agreement of both sides on one channel, of which every transaction follows.

    ``quantity``: the deposit's; ``delay`` in blocks; ``rate``: the commits' in sat/vB; the wallets' scriptPubKeys are
    P2PKH or P2WPKH. Raises BadWalletScript, InvalidTime.
    """

    deposit: DepositScript
    payer_wallet: bytes
    payee_wallet: bytes
    asset_id: int
    quantity: Quantity
    delay: int
    rate: int

    def __post_init__(self) -> None:
        for script in (self.payer_wallet, self.payee_wallet):
            if not is_wallet(script):
                raise BadWalletScript(
                    f"A channel pays to a P2PKH or P2WPKH address of a wallet, not to the script {script.hex()}.",
                    script=script.hex(),
                )
        if not MIN_DELAY <= self.delay <= MAX_DELAY:
            raise InvalidTime(
                f"The delay time must be from {MIN_DELAY} to {MAX_DELAY} blocks, not {self.delay}.",
                delay_time=self.delay,
                delay_max=MAX_DELAY,
            )

    @cached_property
    def budget(self) -> Budget:
        """The channel's bitcoins."""
        return Budget(self.rate)

    def commit_script(self, revoke_hash: Hash) -> CommitScript:
        """The output of a commit on that hash."""
        return commit_script(self.deposit.payer, self.deposit.payee, revoke_hash)

    def message(self, quantity: int, first: Outpoint) -> Output:
        """The message that sends a quantity of the channel's asset."""
        return message(self.asset_id, quantity, first)


def message(asset_id: int, quantity: int, first: Outpoint) -> Output:
    """The output of a classic send, in a transaction whose first input is ``first``."""
    return Output(0, data_script(pack_send(asset_id, quantity), first.txid))


# The deposit, and whatever else a wallet sends ----------------------------------------------------------------------


def compose_send(purse: Purse, target: Output, sent: bytes | None = None) -> Draft:
    """Satoshis from a wallet, and a Counterparty message where given: target, message, change of at least dust.

    Raises InsufficientBitcoin.
    """
    change = Output(DUST, purse.script)
    if sent is None:
        return fund(Draft((), (target, change)), purse, left=1)
    shape = Draft((), (target, Output(0, data_script(sent, bytes(32))), change))
    funded = fund(shape, purse, left=2)
    keyed = Output(0, data_script(sent, funded.inputs[0].coin.outpoint.txid))
    return Draft(funded.inputs, (target, keyed, funded.outputs[2]))


def compose_deposit(contract: Contract, purse: Purse) -> Draft:
    """A deposit: the anchor, the message, the change. Raises InsufficientBitcoin."""
    target = Output(contract.budget.anchor, contract.deposit.output)
    return compose_send(purse, target, pack_send(contract.asset_id, contract.quantity))


def deposit_size(wallet: bytes, coins: int) -> int:
    """Return how large a deposit is that takes so many coins of a wallet; of what it deposits that does not depend."""
    target, change = Output(DUST, bytes(TAPROOT_SIZE)), Output(DUST, wallet)
    coin = Coin(Outpoint(bytes(32), 0), 0, wallet, None)
    return Draft((), (target, message(1, 1, coin.outpoint), change)).plus([coin] * coins).size


def check_deposit(contract: Contract, tx: CTransaction) -> Coin:
    """The anchor that a transaction makes, which has the shape of the contract's deposit. Raises BadDeposit.

    That exactly the quantity has arrived only the ledger can tell, and is for the caller to ask.
    """
    outs = [Output(out.nValue, bytes(out.scriptPubKey)) for out in tx.vout]
    txid = tx.GetTxid()
    first = Outpoint(tx.vin[0].prevout.hash, tx.vin[0].prevout.n)
    if (
        len(outs) not in (2, 3)
        or outs[0].script != contract.deposit.output
        or outs[1] != contract.message(contract.quantity, first)
        or not all(is_address(out.script) for out in outs[2:])
    ):
        raise BadDeposit(
            "The deposit transaction is not of the agreed form.", txid=txid[::-1].hex(), quantity=contract.quantity
        )
    if outs[0].value < contract.budget.anchor:
        raise _too_few(outs[0].value, contract.budget.anchor)
    return Coin(Outpoint(txid, 0), outs[0].value, outs[0].script, None)


def _too_few(anchor: int, needed: int) -> BadDeposit:
    return BadDeposit(f"The deposit holds {anchor} satoshis where {needed} are due.", anchor=anchor, needed=needed)


# Signed by both -----------------------------------------------------------------------------------------------------


def compose_commit(contract: Contract, anchor: Coin, quantity: int, revoke_hash: Hash) -> Draft:
    """The commit of a cumulative quantity on a hash. Raises BadCommitQuantity, BadDeposit."""
    if not 0 < quantity <= contract.quantity:
        raise BadCommitQuantity(
            f"A commit moves from 1 to {contract.quantity}, not {quantity}.",
            quantity=quantity,
            deposit=contract.quantity,
        )
    budget = contract.budget
    outputs = (
        Output(budget.commit_value, contract.commit_script(revoke_hash).output),
        contract.message(quantity, anchor.outpoint),
        Output(anchor.value - budget.commit_cost, contract.deposit.output),
        Output(P2A_VALUE, P2A),
    )
    return _of_anchor(contract, anchor, outputs)


def compose_payout(contract: Contract, commit: Draft, revoke_hash: Hash) -> Draft:
    """The payout of a commit, ``delay`` blocks after it."""
    spent = by_both(commit.coin(0), contract.commit_script(revoke_hash).both, contract.delay)
    return _home(contract, spent, contract.payee_wallet)


def compose_remainder(contract: Contract, commit: Draft) -> Draft:
    """Return what a commit leaves to the payer, from the block after it."""
    return _home(contract, by_both(commit.coin(2), contract.deposit.both, 1), contract.payer_wallet)


def compose_close(contract: Contract, anchor: Coin, quantity: int) -> Draft:
    """The agreed close of a quantity, from 0 to the deposit's. Raises BadCommitQuantity, BadDeposit.

    All to one side is one transaction; else the asset's rest goes back to the deposit's address for ``compose_rest``.
    """
    if not 0 <= quantity <= contract.quantity:
        raise BadCommitQuantity(
            f"A close moves from 0 to {contract.quantity}, not {quantity}.",
            quantity=quantity,
            deposit=contract.quantity,
        )
    left = anchor.value - contract.budget.close_cost
    sent = contract.message(quantity or MAX_QUANTITY, anchor.outpoint)
    if quantity == 0:
        return _of_anchor(contract, anchor, (Output(left, contract.payer_wallet), sent, Output(P2A_VALUE, P2A)))
    behind = contract.payer_wallet if quantity == contract.quantity else contract.deposit.output
    outputs = (Output(DUST, contract.payee_wallet), sent, Output(left - DUST, behind), Output(P2A_VALUE, P2A))
    return _of_anchor(contract, anchor, outputs)


def has_rest(contract: Contract, quantity: int) -> bool:
    """Whether the close of a quantity leaves a rest on the deposit's address."""
    return 0 < quantity < contract.quantity


def compose_rest(contract: Contract, close: Draft) -> Draft:
    """Take what an agreed close leaves to the payer: its third output, where that pays to the deposit's address."""
    return _home(contract, by_both(close.coin(2), contract.deposit.both), contract.payer_wallet)


def _of_anchor(contract: Contract, anchor: Coin, outputs: tuple[Output, ...]) -> Draft:
    if anchor.script != contract.deposit.output:
        raise ValueError(f"{anchor.outpoint} does not lie on the deposit's address")
    if anchor.value < contract.budget.anchor:
        raise _too_few(anchor.value, contract.budget.anchor)
    return Draft((by_both(anchor, contract.deposit.both),), outputs, SHARED)


def _home(contract: Contract, spent: Input, wallet: bytes) -> Draft:
    """All of the asset from a coin that both spend to a wallet, at the agreed rate."""
    target = Output(spent.coin.value - contract.budget.payout_fee, wallet)
    return Draft((spent,), (target, contract.message(MAX_QUANTITY, spent.coin.outpoint)), SHARED)


# Signed by the payer alone ------------------------------------------------------------------------------------------


def revoke_shape(contract: Contract, coin: Coin, revoke_hash: Hash, asset_id: int) -> Draft:
    """A revoke before any wallet coin pays for it; its first output holds the least."""
    leaf = contract.commit_script(revoke_hash).revoke
    return _recovery(contract, (by_payer(coin, leaf, SECRET_SIZE),), asset_id, SHARED)


def expire_shape(contract: Contract, coins: Sequence[Coin], asset_id: int) -> Draft:
    """An expiry of these coins, in their order, before any of a wallet pays for it."""
    spent = tuple(by_payer(coin, contract.deposit.expire) for coin in coins)
    return replace(_recovery(contract, spent, asset_id, OWN), locktime=contract.deposit.height)


def _recovery(contract: Contract, spent: tuple[Input, ...], asset_id: int, version: int) -> Draft:
    sent = message(asset_id, MAX_QUANTITY, spent[0].coin.outpoint)
    return Draft(spent, (Output(DUST, contract.payer_wallet), sent), version)


# Children -----------------------------------------------------------------------------------------------------------


def child_shape(parent: Draft, index: int, wallet: bytes) -> Draft:
    """A child of that output before any wallet coin pays for it; its output to the wallet holds the least."""
    return Draft((Input(parent.coin(index)),), (Output(DUST, wallet),), SHARED)
