"""Apply the hub's answer to the deposits that were proposed, or refuse it."""

from __future__ import annotations

from dataclasses import replace

from picopayments_cli.channel import duplex as pair
from picopayments_cli.channel.messages import DepositReply
from picopayments_cli.channel.stages import AGREED
from picopayments_cli.channel.terms import TIP_SLACK, Terms
from picopayments_cli.client.connection import Connection
from picopayments_cli.errors import BadDepositScript, BadReply


def agreed_by(connection: Connection, answer: DepositReply) -> Connection:
    """The connection that was proposed, once the hub has agreed to it. Raises BadDepositScript, BadReply."""
    _check_reply(connection, answer)
    _check_lock(connection, answer)
    h2c = connection.duplex.receiving
    contract = replace(h2c.contract, quantity=answer.stake.quantity, delay=answer.stake.delay)
    channels = replace(connection.duplex, receiving=replace(h2c, contract=contract))
    state = pair.add_request(channels, answer.next_hash, seen=connection.knows(answer.next_hash))
    by, fee = answer.deposit_by, answer.lock_fee
    return replace(connection, stage=AGREED, duplex=state, deposit_by=by, lock_due=fee)


def lock_fee(terms: Terms, quantity: int, time: int) -> int:
    """Return the most that the hub may ask for locking a deposit: its tip may differ from this party's."""
    return terms.lock_fee(quantity, time + TIP_SLACK)


def _check_reply(connection: Connection, answer: DepositReply) -> None:
    h2c = connection.duplex.receiving.contract
    if answer.output != h2c.deposit.output or answer.height != h2c.deposit.height:
        raise BadDepositScript(
            "The hub's deposit script is not the agreed one. Nothing was deposited: use another hub."
        )
    if answer.stake.rate != h2c.rate:
        raise BadReply(
            "The hub names another rate of commits than was asked for. Nothing was deposited: use another hub."
        )
    if answer.stake.quantity < h2c.quantity:
        raise BadReply(
            f"The hub would deposit {answer.stake.quantity} where its terms say {h2c.quantity}. Nothing was deposited.",
            quantity=answer.stake.quantity,
            expected=h2c.quantity,
        )


def _check_lock(connection: Connection, answer: DepositReply) -> None:
    """Refuse another lock fee than the hub's terms say. Raises BadReply."""
    h2c, expiry = connection.duplex.receiving.contract, connection.expiry
    most = lock_fee(connection.terms, h2c.quantity, expiry.time)
    if answer.lock_fee > most:
        raise BadReply(
            f"The hub asks {answer.lock_fee} for locking its deposit, where its terms come to {most}. Nothing was "
            "deposited.",
            lock_fee=answer.lock_fee,
            expected=most,
        )
