"""Bitcoin Core's consensus engine, as the judge of what is to be signed with money at stake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.halves import sign_commit
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.signing import finish_alone, finish_both, sign_leaf
from picopayments_cli.channel.state import Sending, known_anchor
from picopayments_cli.channel.transactions import Contract, compose_commit, compose_payout, expire_shape, revoke_shape
from picopayments_cli.channel.values import Coin, Outpoint
from picopayments_cli.errors import ChannelUnspendable
from picopayments_cli.extras import check_extra


def spends_validly(raw: bytes, spent: Sequence[tuple[int, bytes]]) -> bool:
    """Whether each input of a transaction fulfils the script that it spends, by the rules of consensus.

    ``spent``: satoshis and scriptPubKey of what each input spends.
    """
    import pbk  # 140 ms: only once something is judged

    tx = pbk.Transaction(raw)
    outputs = [pbk.TransactionOutput(pbk.ScriptPubkey(script), value) for value, script in spent]
    data = pbk.script.PrecomputedTransactionData(tx, outputs)
    flags = pbk.ScriptVerificationFlags.ALL
    return all(
        pbk.ScriptPubkey(script).verify(value, tx, data, number, flags) for number, (value, script) in enumerate(spent)
    )


@dataclass(frozen=True)
class _Way:
    """A transaction that takes back what is one's own, with the coin that it spends."""

    name: str
    raw: bytes
    spent: Coin

    @property
    def valid(self) -> bool:
        return spends_validly(self.raw, [(self.spent.value, self.spent.script)])


def check_ways_back(duplex: Duplex, secrets: Secrets) -> None:
    """Refuse to deposit where consensus keeps this party from its own, or lets others take it.

    The anchor of the own deposit, which has not left, is among what is given. The payer signs a commit with its first
    payment only: until then an own key stands for its. Only to refuse: what passes is checked elsewhere all the same.
    Raises ChannelUnspendable, ExtraMissing.
    """
    check_extra("kernel", "a deposit")
    payer, payee = secrets.payer, secrets.payee
    receiving = duplex.receiving.contract
    standing_in = replace(receiving, deposit=replace(receiving.deposit, payer=payer.xonly))
    right = (*_as_payer(duplex.sending, secrets, payer), *_as_payee(standing_in, secrets, payer, payee))
    forged = (
        *_as_payer(duplex.sending, secrets, payee),
        *_as_payee(standing_in, secrets, payee, payee),
        *_as_payee(standing_in, secrets, payer, payer),
    )
    refused = next((way for way in right if not way.valid), None)
    taken = next((way for way in forged if way.valid), None)
    wrong = refused or taken
    if wrong is not None:
        raise ChannelUnspendable(
            f"The rules of consensus {'refuse' if refused else 'let anybody sign'} the {wrong.name} that this program "
            "makes for the connection. Nothing was deposited. Do not deposit with this installation: install the "
            "program again, or another version, and report this error.",
            transaction=wrong.name,
            raw=wrong.raw.hex(),
        )


def _as_payer(sending: Sending, secrets: Secrets, signer: Key) -> Iterator[_Way]:
    """The expiry of the own deposit, and the revoke of a commit on it."""
    contract, anchor = sending.contract, known_anchor(sending)
    yield _Way("expiry", finish_alone(expire_shape(contract, [anchor], contract.asset_id), signer), anchor)
    revoke_hash = secrets.revoke_hash(0)
    spent = compose_commit(contract, anchor, contract.quantity, revoke_hash).coin(0)
    draft = revoke_shape(contract, spent, revoke_hash, contract.asset_id)
    yield _Way("revoke", finish_alone(draft, signer, secret=secrets.revoke(0)), spent)


def _as_payee(contract: Contract, secrets: Secrets, payer: Key, payee: Key) -> Iterator[_Way]:
    """A commit and its payout, on an anchor that is not there."""
    anchor = Coin(Outpoint(bytes(32), 0), contract.budget.anchor, contract.deposit.output, None)
    commit = sign_commit(contract, anchor, contract.quantity, secrets.revoke_hash(0), payer)
    draft = compose_commit(contract, anchor, commit.quantity, commit.revoke_hash)
    yield _Way("commit", finish_both(draft, commit.signature, sign_leaf(draft, payee)), anchor)
    payout = compose_payout(contract, draft, commit.revoke_hash)
    yield _Way("payout", finish_both(payout, commit.payout_signature, sign_leaf(payout, payee)), draft.coin(0))
