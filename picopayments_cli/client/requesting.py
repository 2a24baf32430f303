"""Make payment requests, explain them, and read them for payment."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from picopayments_cli.channel import payment_request
from picopayments_cli.channel.counterparty import asset_id, both_names
from picopayments_cli.channel.payment_request import (
    SALT_SIZE,
    PaymentRequest,
    Requested,
    is_over,
    receipt_of,
    token_of,
)
from picopayments_cli.channel.stages import AGREED, PROPOSED
from picopayments_cli.channel.values import Quantity
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.history import time_shown
from picopayments_cli.client.session import Session
from picopayments_cli.errors import (
    AssetMismatch,
    ConnectionNotOpen,
    InvalidParams,
    RequestExpired,
    TooManyRequests,
    WrongHub,
    WrongNetwork,
)

log = logging.getLogger(__name__)
MOST_REQUESTS = 1000  # that a connection keeps


def make(session: Session, connection: Connection, quantity: Quantity, memo: str, seconds: int) -> str:
    """Make a request for a payment to a connection, and keep what is needed to know it again. Return its text.

    Raises ConnectionNotOpen, InvalidParams, InvalidRequest, TooManyRequests.
    """
    if connection.stage != AGREED:
        if connection.stage == PROPOSED:
            told = "is opening, and its deposit was not published: run `picopayments-cli sync`, then request again"
        else:
            told = f"is {connection.stage}, and is not paid any more: ask for payments to another one"
        raise ConnectionNotOpen(
            f"The connection {told}.",
            handle=connection.handle.hex(),
            stage=connection.stage,
        )
    if not payment_request.takes_memo(memo):
        size = len(memo.encode(errors="surrogatepass"))
        raise InvalidParams(
            f"A memo has at most {payment_request.MAX_MEMO} bytes of letters that can be printed, in one line. "
            f"This one has {size} bytes. Nothing was requested: give another --memo.",
            memo_bytes=size,
            most=payment_request.MAX_MEMO,
        )
    most = connection.duplex.receiving.contract.quantity
    if quantity > most:
        log.warning(
            "The hub's deposit is %d: more than that can be paid to the connection only once it has paid what is above "
            "that.",
            most,
        )
    key, salt, now = session.wallet.key, os.urandom(SALT_SIZE), int(time.time())
    request = PaymentRequest(
        session.network.name,
        _without_password(connection.hub_url),
        connection.hub_key,
        connection.handle,
        asset_id(connection.asset),
        quantity,
        now + seconds,
        salt,
        token_of(receipt_of(key, connection.handle, salt)),
        key.xonly,
        memo,
    )
    text = payment_request.write(request, key)
    kept = Requested(request.token, salt, quantity, request.expires)
    requests = (*_room(connection.requests, now), kept)
    session.save(replace(connection, requests=requests), "payment requested")
    return text


def _room(requests: Sequence[Requested], now: int) -> Sequence[Requested]:
    """Leave out the oldest requests that are over, as far as one more needs their place. Raises TooManyRequests."""
    too_many = len(requests) + 1 - MOST_REQUESTS
    over = [item for item in requests if item.given or (item.payer is None and is_over(item.expires, now))]
    if too_many > len(over):
        raise TooManyRequests(
            f"{len(requests)} requests of the connection are neither paid nor expired: let them expire sooner "
            "(--expires), or ask for payments to another connection.",
            requests=len(requests),
        )
    gone = {item.token for item in over[: max(too_many, 0)]}
    return [item for item in requests if item.token not in gone]


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def is_request(text: str) -> bool:
    """Tell whether a word looks like a request, and not like a handle."""
    return text.lower().startswith(payment_request.PREFIX)


def explained(text: str) -> dict[str, Any]:
    """Explain a request. Raises InvalidRequest."""
    request = payment_request.read(text)
    return {
        "network": request.network,
        "hub_url": request.hub_url,
        "hub_key": request.hub_key.hex(),
        "handle": request.handle.hex(),
        "asset": request.asset,
        "quantity": request.quantity,
        "token": request.token.hex(),
        "memo": request.memo,
        "expires": time_shown(request.expires),
        "expired": is_over(request.expires, time.time()),
        "payee_key": str(request.payee),
    }


def payment_of(session: Session, connection: Connection, text: str) -> tuple[Payment, str]:
    """Read the payment that a request asks for, which a connection is to make, expired or not; and its memo.

    Raises InvalidRequest, WrongNetwork, WrongHub, AssetMismatch.
    """
    request = payment_request.read(text)
    if request.network != session.network.name:
        raise WrongNetwork(
            f"The payment request is for {request.network}, not for {session.network.name}. Nothing was paid: name "
            "that network.",
            network=request.network,
        )
    if request.hub_key != connection.hub_key:
        raise WrongHub(
            f"The payment request is of the hub at {request.hub_url}, and the connection is with the one at "
            f"{_without_password(connection.hub_url)}. Nothing was paid. Pay from a connection with that hub: "
            "`picopayments-cli connect ASSET QUANTITY` opens one.",
            hub_url=request.hub_url,
            hub_key=request.hub_key.hex(),
        )
    if request.asset != connection.asset:
        raise AssetMismatch(
            f"The payment request is in {request.asset}, and the connection in "
            f"{both_names(connection.asset, connection.longname)}. Nothing was paid: pay from another connection.",
            asset=connection.asset,
            payee=request.asset,
        )
    return Payment(request.handle, request.quantity, request.token, request.expires), request.memo


def check_time(payment: Payment) -> None:
    """Refuse to begin the payment of a request that has expired. Raises RequestExpired."""
    if payment.expires is not None and is_over(payment.expires, time.time()):
        raise RequestExpired(
            f"The payment request expired at {time_shown(payment.expires)}. Nothing was paid: ask for another one.",
            expires=payment.expires,
        )


def draw(text: str) -> None:
    """Draw a request as a QR code on stderr, in capital letters: it has fewer and larger squares then."""
    import io

    import segno

    drawn = io.StringIO()
    segno.make(text.upper(), error="l", micro=False).terminal(drawn, compact=True)
    log.info("%s", drawn.getvalue().rstrip("\n"))
