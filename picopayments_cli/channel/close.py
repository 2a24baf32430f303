"""The agreed close: the payee signs first, and each answers with its signature only for what it makes out itself.

A payer signs at most its highest commit that was not revoked to it, a payee at least its highest that it has not given
back: those are the limits. A hub that owes the client more than has moved goes beyond them by its debt: as payee it
asks for so much less, and where that is not enough it pays the rest as payer.

A signature of the payer's is made only for the payee's valid ones of that close and its rest, or the payee could take
its part at once and keep the rest from the payer. Only one close of a channel can be mined, so one more signed at
another quantity takes nothing from anybody. A payee signs nothing while it doubts what the payer names, see
``standing``: it could sign away what it holds, or wait for what it has given back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.halves import (
    Closing,
    check_counter,
    counter_close,
    sign_close,
)
from picopayments_cli.channel.keys import Key, Secrets
from picopayments_cli.channel.messages import CloseReply, CloseRequest
from picopayments_cli.channel.standing import Standing
from picopayments_cli.channel.state import Receiving, Sending, known_anchor
from picopayments_cli.channel.values import Coin, Handle, Outpoint
from picopayments_cli.channel.wire import Anchors, Figures
from picopayments_cli.errors import CloseBeyondLimit, PicopaymentsError


@dataclass(frozen=True)
class Agreed:
    """A close that both have signed: the payee's signatures, and the payer's."""

    closing: Closing
    payer_signature: bytes


@dataclass(frozen=True)
class Outcome:
    """The closes of the two channels that are signed whole, and why a signature of the peer's was not taken."""

    c2h: Agreed | None = None
    h2c: Agreed | None = None
    refused: tuple[PicopaymentsError, ...] = ()


def _outpoint(anchor: Coin | None) -> Outpoint | None:
    return None if anchor is None else anchor.outpoint


def payee_signs(receiving: Receiving, quantity: int, key: Key, *, least: int | None = None) -> Closing:
    """The payee's signatures of a close that gives it ``least``; where none is named, all that it has received.

    Raises CloseBeyondLimit, BadCommitQuantity, ConnectionNotOpen.
    """
    least = receiving.moved if least is None else least
    if quantity < least:
        raise CloseBeyondLimit(
            f"A close of {quantity} would give less than the {least} received. Nothing was signed.",
            quantity=quantity,
            received=least,
        )
    return sign_close(receiving.contract, known_anchor(receiving), quantity, key)


def payer_signs(sending: Sending, closing: Closing, key: Key, *, most: int | None = None) -> Agreed:
    """The close with the payer's signature, for the payee's valid ones: of ``most``, or of all that it has paid.

    Raises CloseBeyondLimit, BadCommitQuantity, BadPayeeSignature, ConnectionNotOpen.
    """
    most = sending.moved if most is None else most
    if closing.quantity > most:
        raise CloseBeyondLimit(
            f"A close of {closing.quantity} would give more than the {most} paid. Nothing was signed.",
            quantity=closing.quantity,
            paid=most,
        )
    return Agreed(closing, counter_close(sending.contract, known_anchor(sending), closing, key))


# The client asks ----------------------------------------------------------------------------------------------------


def own_figures(duplex: Duplex) -> Figures:
    """Return what the client makes out itself."""
    return Figures(duplex.sending.moved, duplex.receiving.moved)


def next_figures(duplex: Duplex, reply: CloseReply) -> Figures:
    """Choose the figures to ask for after a reply: the hub's where they are within one's limits, else one's own."""
    said, own = reply.figures, own_figures(duplex)
    return Figures(
        said.c2h if said.c2h <= own.c2h else own.c2h,
        said.h2c if own.h2c <= said.h2c <= duplex.receiving.contract.quantity else own.h2c,
    )


def ask(
    duplex: Duplex, handle: Handle, figures: Figures, said: Standing, secrets: Secrets, *, sign: bool
) -> tuple[Duplex, CloseRequest]:
    """The client's state once the request may have left, and the request. Raises CloseBeyondLimit.

    ``sign``: as payee of h2c. Not in the first request of a folder of unknown age, or with a sync unanswered: it may
    hold more than it knows, and would sign that away. Nor with doubts.
    """
    anchors = Anchors(_outpoint(duplex.sending.anchor), _outpoint(duplex.receiving.anchor))
    request = CloseRequest(handle, anchors, figures, said)
    if not sign or said.doubts or duplex.receiving.anchor is None:
        return duplex, request
    closing = payee_signs(duplex.receiving, figures.h2c, secrets.payee)
    return replace(duplex, close_signed=True), replace(request, h2c_close=closing)


def judge(duplex: Duplex, request: CloseRequest, reply: CloseReply, secrets: Secrets) -> tuple[Duplex, Outcome]:
    """The client's state once its signature of the c2h close may leave, and the closes that are signed whole.

    The caller has learned from the reply before.
    """
    c2h, h2c, refused = None, None, []
    anchor = _outpoint(duplex.sending.anchor)
    same = (reply.figures.c2h, reply.anchors.c2h) == (request.figures.c2h, anchor)
    if reply.c2h_close is not None and same:
        try:
            c2h = payer_signs(duplex.sending, reply.c2h_close, secrets.payer)
        except PicopaymentsError as error:
            refused.append(error)
    if reply.h2c_signature is not None and request.h2c_close is not None:
        try:
            h2c = _countersigned(duplex.receiving, request.h2c_close, reply.h2c_signature)
        except PicopaymentsError as error:
            refused.append(error)
    signed = duplex.close_signed or c2h is not None
    return replace(duplex, close_signed=signed), Outcome(c2h, h2c, tuple(refused))


def handed_over(request: CloseRequest, outcome: Outcome) -> CloseRequest:
    """The request with the client's signature as payer of c2h, for a hub that is to publish that close."""
    return request if outcome.c2h is None else replace(request, c2h_signature=outcome.c2h.payer_signature)


def _countersigned(receiving: Receiving, closing: Closing, signature: bytes) -> Agreed:
    """A close that this party signed as payee, with the payer's signature. Raises BadPayerSignature."""
    check_counter(receiving.contract, known_anchor(receiving), closing.quantity, signature)
    return Agreed(closing, signature)


# The hub answers ----------------------------------------------------------------------------------------------------


def most_owed(duplex: Duplex) -> int:
    """Return how much a close can give the client beyond what has moved: all that the hub holds of both deposits."""
    room = duplex.sending.contract.quantity - duplex.sending.moved
    return duplex.receiving.moved + (0 if duplex.sending.anchor is None else room)


def figures_of(duplex: Duplex, owed: int) -> Figures:
    """Return what the hub makes out itself: what has moved, less and more what it owes the client beyond that.

    It is taken off what the hub has received, and only then added to what it has paid. No more than ``most_owed``.
    """
    received, paid = duplex.receiving.moved, duplex.sending.moved
    back = min(owed, received)
    return Figures(received - back, paid + min(owed, most_owed(duplex)) - back)


def answer(
    duplex: Duplex,
    request: CloseRequest,
    digest: bytes,
    said: Standing,
    secrets: Secrets,
    *,
    owed: int | None = 0,
    home: bool = True,
) -> tuple[Duplex, CloseReply, Outcome]:
    """The hub's state once the reply may have left, the reply, and the closes that it can publish itself.

    The caller has learned from the request before, and the connection is stopped. A signature is given only where the
    request's quantity is the hub's own figure, and its anchor the hub's. ``owed``: refused payments, and payments that
    wait for the client; None where the hub knows its database to be old: then it has no figures of its own, and goes to
    its limits. ``home``: whether its wallet's address takes sends without a
    memo; else it signs nothing as payee, as what it is paid would stay where it is.
    """
    own, stale = figures_of(duplex, owed or 0), owed is None
    anchors = Anchors(_outpoint(duplex.receiving.anchor), _outpoint(duplex.sending.anchor))
    taken = _Answer(own, refused=())
    if anchors.c2h is not None and request.anchors.c2h == anchors.c2h and not said.doubts and home:
        taken = _answer_c2h(taken, duplex.receiving, request, secrets.payee, stale)
    if anchors.h2c is not None and request.anchors.h2c == anchors.h2c:
        taken = _answer_h2c(taken, duplex.sending, request, secrets.payer, stale)
    signature = None if taken.h2c is None else taken.h2c.payer_signature
    reply = CloseReply(digest, anchors, taken.figures, said, taken.closing, signature)
    signed = duplex.close_signed or taken.closing is not None or taken.h2c is not None
    return replace(duplex, close_signed=signed), reply, Outcome(taken.c2h, taken.h2c, taken.refused)


@dataclass(frozen=True)
class _Answer:
    """An answer so far: figures, the payee's signatures of c2h, and closes signed whole."""

    figures: Figures
    refused: tuple[PicopaymentsError, ...]
    closing: Closing | None = None
    c2h: Agreed | None = None
    h2c: Agreed | None = None

    def refusing(self, error: PicopaymentsError) -> _Answer:
        return replace(self, refused=(*self.refused, error))


def _answer_c2h(taken: _Answer, receiving: Receiving, request: CloseRequest, key: Key, stale: bool) -> _Answer:
    """The answer with the hub's signatures as payee, where the quantity is right, and the client's as payer."""
    quantity, own = request.figures.c2h, taken.figures.c2h
    if quantity != own and not (stale and own <= quantity <= receiving.contract.quantity):
        return taken
    closing = payee_signs(receiving, quantity, key, least=own)
    signed = replace(taken, figures=replace(taken.figures, c2h=quantity), closing=closing)
    if request.c2h_signature is None:
        return signed
    try:
        return replace(signed, c2h=_countersigned(receiving, closing, request.c2h_signature))
    except PicopaymentsError as error:
        return signed.refusing(error)


def _answer_h2c(taken: _Answer, sending: Sending, request: CloseRequest, key: Key, stale: bool) -> _Answer:
    """The answer with the hub's signature as payer, where the quantity is right, for the client's valid ones."""
    quantity, own = request.figures.h2c, taken.figures.h2c
    if request.h2c_close is None or (quantity != own and not (stale and quantity <= own)):
        return taken
    try:
        agreed = payer_signs(sending, request.h2c_close, key, most=own)
    except PicopaymentsError as error:
        return taken.refusing(error)
    return replace(taken, figures=replace(taken.figures, h2c=quantity), h2c=agreed)
