"""A channel's transactions on the chain: vB and satoshis, as the program builds them from P2PKH wallets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.counterparty import XCP_ID, p2pkh
from picopayments_cli.channel.drafts import Draft
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.scripts import DepositScript
from picopayments_cli.channel.transactions import (
    Contract,
    child_shape,
    compose_close,
    compose_commit,
    compose_deposit,
    compose_payout,
    compose_remainder,
    compose_rest,
)
from picopayments_cli.channel.values import Coin, Height, Outpoint, Quantity

FORMER = 1251  # vB of a P2SH channel's commit, payout and change, of which none could be raised
_DEPOSIT, _MOVED, _DELAY, _EXPIRY = 1000, 400, 144, 900_000


def measure() -> dict[str, Any]:
    """Both ends of one channel at 1 sat/vB; the lonely close once by itself, once raised by a child."""
    payer, payee = (Secrets(Key(bytes([number]) * 32), bytes(16)) for number in (1, 2))
    wallets = [p2pkh(side.key.pubkey_hash) for side in (payer, payee)]
    script = DepositScript(payer.payer.xonly, payee.payee.xonly, _EXPIRY)
    contract = Contract(script, wallets[0], wallets[1], XCP_ID, Quantity(_DEPOSIT), _DELAY, 1)
    coin = Coin(Outpoint(bytes(32), 0), 100_000, wallets[0], Height(1))
    deposit = compose_deposit(contract, Purse(wallets[0], (coin,), 1))
    anchor = Coin(Outpoint(bytes(32), 0), deposit.outputs[0].value, script.output, Height(1))
    revoke_hash = payee.revoke_hash(0)
    commit = compose_commit(contract, anchor, _MOVED, revoke_hash)
    close = compose_close(contract, anchor, _MOVED)
    child = child_shape(commit, 3, wallets[1])
    raised = replace(child, inputs=(*child.inputs, type(child.inputs[0])(replace(coin, script=wallets[1]))))
    lonely = [commit, compose_payout(contract, commit, revoke_hash), compose_remainder(contract, commit)]
    return {
        "opening": {**_sum([deposit]), "locked_satoshis": anchor.value},
        "agreed_close": _sum([close, compose_rest(contract, close)]),
        "agreed_close_of_all": _sum([compose_close(contract, anchor, _DEPOSIT)]),
        "lonely_close": _sum(lonely),
        "child_that_raises_vb": raised.size,
        "of_former_vb": {
            "agreed_close": round(_sum([close, compose_rest(contract, close)])["vb"] / FORMER, 2),
            "lonely_close": round(_sum(lonely)["vb"] / FORMER, 2),
        },
    }


def _sum(drafts: list[Draft]) -> dict[str, int]:
    return {"vb": sum(draft.size for draft in drafts), "fee_satoshis": sum(draft.fee for draft in drafts)}
