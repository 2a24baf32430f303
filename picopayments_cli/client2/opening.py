"""Open a connection: agree with the hub, then publish the client's deposit.

Nothing is deposited that was not agreed to on both sides, and what was agreed is on disk before the deposit leaves.
"""

from __future__ import annotations

import os
from dataclasses import replace

from picopayments_cli.chain import Asset, Query
from picopayments_cli.channel import envelope
from picopayments_cli.channel.counterparty import asset_members
from picopayments_cli.channel.stages import AGREED, ASKED, PROPOSED
from picopayments_cli.channel.values import Handle, Outpoint, Quantity
from picopayments_cli.channel2 import duplex as pair
from picopayments_cli.channel2.keys import SALT_SIZE, Secrets
from picopayments_cli.channel2.messages import ConnectReply, ConnectRequest, DepositMessage, DepositRequest
from picopayments_cli.channel2.scripts import DepositScript
from picopayments_cli.channel2.state import Channel
from picopayments_cli.channel2.terms import Terms, check_delay
from picopayments_cli.channel2.transactions import (
    Anchor,
    Budget,
    compose_deposit,
    txid_of,
)
from picopayments_cli.client import history
from picopayments_cli.client2 import funds
from picopayments_cli.client2.connection import Connection
from picopayments_cli.client2.session import Session
from picopayments_cli.errors import (
    AddressUsed,
    BadDepositScript,
    BadReply,
    BadTerms,
    PicopaymentsError,
    RepeatedHash,
)


def connect(session: Session, asset: Asset, quantity: int, expire: int, delay: int) -> Connection:
    """Open a connection: agree with the hub on both deposits, then publish the client's.

    ``expire`` and ``delay`` in blocks. Raises what terms, funds and the hub refuse; then nothing was deposited.
    """
    check_delay(delay)
    funds.check_funds(session, asset, quantity)
    session.keep_wallet()
    secrets = Secrets(session.wallet.key, os.urandom(SALT_SIZE))
    # The handle is the hub's to draw: until it is known, the secrets wait under a name of their own.
    waiting = Handle(envelope.text_digest(secrets.salt.hex()))
    session.store.create(waiting, {"stage": ASKED, "salt": secrets.salt.hex()}, "asked")
    try:
        proposed = session.create(_propose(session, secrets, asset, quantity, expire, delay), "proposed")
    finally:
        session.store.remove(waiting)
    try:
        agreed = agree(session, proposed)
    except PicopaymentsError:
        session.store.remove(proposed.handle)  # nothing was deposited, and nothing will be
        raise
    session.broadcast(agreed.deposit_raw, "deposit")
    return agreed


def _propose(session: Session, secrets: Secrets, asset: Asset, quantity: int, expire: int, delay: int) -> Connection:
    """Ask the hub for a connection, and sign the deposit that its terms allow. The deposit does not leave yet."""
    request = envelope.seal(session.wallet.key, ConnectRequest(asset.name, secrets.spend_hash).as_json())
    known = session.pinned_key()
    reply = session.call("mph_request", [request], known)
    answer = ConnectReply.parse(reply.body)
    session.check_new(answer.handle)
    terms = Terms.parse(answer.terms)
    terms.check_deposit(quantity, expire, session.network)
    if terms.sync_fee >= quantity:
        raise BadTerms(
            f"The hub asks {terms.sync_fee} for each sync: a deposit of {quantity} would move nothing.",
            sync_fee=terms.sync_fee,
            quantity=quantity,
        )
    if answer.spend_hash == secrets.spend_hash:
        raise RepeatedHash("The hub's spend hash is the client's own.", hash=answer.spend_hash.hex())
    own, hubs = session.wallet.key.pubkey, reply.hub_key
    c2h = DepositScript(own, hubs, answer.spend_hash, expire)
    h2c = DepositScript(hubs, own, secrets.spend_hash, expire)
    matching = terms.matching_deposit(quantity)
    if matching < 1:
        raise BadTerms("The hub would deposit nothing in return.", deposit_ratio=terms.deposit_ratio)
    raw, anchor = _make_deposit(session, c2h, asset, quantity, terms)
    message = DepositMessage(c2h.redeem, secrets.revoke_hash(0), Quantity(quantity), delay)
    proposal = DepositRequest(message, asset.name, answer.handle).as_json()
    channels = pair.Duplex(
        Channel(asset.number, c2h, Quantity(quantity), delay, terms.fee_rate, anchor),
        Channel(asset.number, h2c, Quantity(matching), delay, terms.fee_rate),
    )
    session.pin_hub(reply.hub_key)
    return Connection(
        handle=answer.handle,
        hub_url=session.settings.require_hub_url,
        hub_key=hubs,
        asset=asset.name,
        longname=asset.longname,
        terms=terms,
        salt=secrets.salt,
        duplex=pair.hand_out(channels, secrets.revoke_hash(0)),
        stage=PROPOSED,
        proposal=envelope.seal(session.wallet.key, proposal),
        deposit_raw=raw,
        next_number=1,
        numbers={secrets.revoke_hash(0): 0},
    )


def _make_deposit(
    session: Session, script: DepositScript, asset: Asset, quantity: int, terms: Terms
) -> tuple[bytes, Anchor]:
    """Sign the deposit; it and its anchor. Raises InsufficientBitcoin, MemoRequired."""
    wallet = session.wallet
    view = session.chain.view(Query(coins=[wallet.address], options=[wallet.address]))
    view.check_takes_sends(wallet.address)  # what the connection pays back goes there
    purse = funds.purse(session, view)
    draft = compose_deposit(purse, script, asset.number, quantity, Budget(terms.fee_rate))
    funds.check_inputs(session, draft)
    tx = draft.signed(wallet.key)
    return tx.serialize(), Anchor(Outpoint(tx.GetTxid(), 0), draft.outputs[0].value)


def agree(session: Session, connection: Connection) -> Connection:
    """Have the hub agree to the deposits. Asked again it gives its first answer.

    Raises BadDepositScript, BadReply, AddressUsed: then the client's deposit was not published.
    """
    reply = session.call("mph_deposit", [connection.proposal], connection.hub_key)
    answer = DepositMessage.parse(reply.body, BadReply)
    h2c = connection.duplex.receiving
    if answer.script != h2c.script.redeem:
        raise BadDepositScript("The hub's deposit script is not the agreed one. Nothing was deposited.")
    if answer.quantity < h2c.quantity:
        raise BadReply(
            f"The hub would deposit {answer.quantity} where its terms say {h2c.quantity}. Nothing was deposited.",
            quantity=answer.quantity,
            expected=h2c.quantity,
        )
    check_delay(answer.delay)
    address = session.address(h2c)
    view = session.chain.view(Query(history=[address]))
    if view.history[address]:
        raise AddressUsed("The hub's deposit address has a history already. Nothing was deposited.", address=address)
    channels = replace(connection.duplex, receiving=replace(h2c, delay=answer.delay, quantity=answer.quantity))
    agreed = replace(
        connection,
        stage=AGREED,
        duplex=pair.add_request(channels, answer.next_hash),
        agreed_height=view.height,
    )
    txid = txid_of(agreed.deposit_raw)[::-1].hex()
    members = asset_members(agreed.asset, agreed.longname)
    return session.save(agreed, "agreed", history.connected(members, channels.sending.quantity, txid))
