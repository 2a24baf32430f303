"""Take back connections whose files are lost: the hub keeps what the wallet's key alone does not tell.

A hub can make none up: the channels' keys follow of the wallet's key and the salt that it gives back. What was paid and
received only the hub knows by then, so that such a connection does nothing but close.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterator

from picopayments_cli.chain import Query, View
from picopayments_cli.channel import envelope
from picopayments_cli.channel.counterparty import asset_id
from picopayments_cli.channel.deadlines import Expiry
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.facts import find_anchor
from picopayments_cli.channel.keys import Secrets
from picopayments_cli.channel.messages import MOST_RECOVERED, NONCE_SIZE, KeyReply, KeyRequest, Recovered
from picopayments_cli.channel.opening import Party, check_parties, contract_of
from picopayments_cli.channel.stages import CLOSING, PROPOSED
from picopayments_cli.channel.state import Receiving, Sending
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.transactions import Contract
from picopayments_cli.channel.values import Coin, Entry, Handle, Pubkey
from picopayments_cli.client import history
from picopayments_cli.client.connection import Connection, Ending
from picopayments_cli.client.session import Session
from picopayments_cli.errors import BadReply, LocalFiles, OldProtocol, PicopaymentsError

log = logging.getLogger(__name__)


def take_back(session: Session) -> PicopaymentsError | None:
    """Write down what the settings' hub has of this wallet, where nothing is open with it here; it closes from then on.

    Where a backup was restored it is asked as well: for what was opened since, and what it only knew as proposed.

    Return why that could not be asked. It stops nothing.
    """
    if session.settings.hub_url is None or session.store.load_wif() is None:
        return None
    try:
        known, here = session.pinned_key(), tuple(session.connections().values())
        if known in {item.hub_key for item in here if not item.restored}:
            return None
        if not all(isinstance(error, OldProtocol) for error in session.unusable.values()):
            log.warning("the hub is not asked for lost connections: one here can't be read, and would come again")
            return None
        unsure = {item.handle: item for item in here if item.restored and item.stage == PROPOSED}
        salts = {item.salt for item in here if item.handle not in unsure}
        for hub_key, item in _of_hub(session, known):
            is_here = session.store.has(item.handle) and item.handle not in unsure
            found = None if is_here else _connection(session, hub_key, item, salts)
            if found is not None:
                salts.add(found.salt)
                session.pin_hub(hub_key)
                session.save(found, "taken back", history.closing())
                log.warning("the connection %s was not here any more: it closes", item.handle.hex())
    except LocalFiles:
        raise
    except PicopaymentsError as error:
        return error
    return None


def _of_hub(session: Session, hub_key: Pubkey | None) -> Iterator[tuple[Pubkey, Recovered]]:
    """Ask for all connections of the wallet's key, with the hub's key. Raises BadReply, and what ``call`` raises."""
    after: Handle | None = None
    while True:
        request = envelope.seal(session.wallet.key, KeyRequest(os.urandom(NONCE_SIZE), after).as_json())
        reply = session.call("mph_key", [request], hub_key)
        hub_key, page = reply.hub_key, KeyReply.parse(reply.body).connections
        for item in page:
            if after is not None and item.handle <= after:
                raise BadReply("The hub's list of connections is not in order.", handle=item.handle.hex())
            after = item.handle
            yield hub_key, item
        if len(page) < MOST_RECOVERED:
            return


def _connection(session: Session, hub_key: Pubkey, item: Recovered, salts: Collection[bytes]) -> Connection | None:
    """Build a connection from what the hub gives back; None where nothing lies on the addresses of its deposits.

    Raises BadReply where it is none of this wallet's, or has one of the ``salts`` of those that are here: under
    another handle it would be signed away as one on which nothing was received.
    """
    if item.salt in salts:
        raise BadReply("The hub names a connection that is here under another handle.", handle=item.handle.hex())
    secrets = Secrets(session.wallet.key, item.salt)
    own = Party(secrets.payer.xonly, secrets.payee.xonly, session.wallet.script)
    if own != item.client:
        raise BadReply("The hub names a connection that is not of this wallet's key.", handle=item.handle.hex())
    check_parties(own, item.hub)
    number = asset_id(item.asset)
    c2h = contract_of(own, item.hub, number, item.height, item.c2h)
    h2c = contract_of(item.hub, own, number, item.height, item.h2c)
    places = [session.sight.at(contract.deposit.output) for contract in (c2h, h2c)]
    view = session.chain.view(Query(coins=places, history=places))
    there = view.coins[places[0]]
    if not there and not view.coins[places[1]]:
        return None
    if there and all(coin.height is None for coin in there):
        log.warning("the deposit of %s is not in a block: sync again once it is, before you connect", item.handle.hex())
        return None
    sent, received = (_deposit(session, contract, view) for contract in (c2h, h2c))
    unknown = view.history[places[0]][0].raw if there else b""  # which keeps it open until nothing is left there
    return Connection(
        handle=item.handle,
        hub_url=session.settings.require_hub_url,
        hub_key=hub_key,
        asset=item.asset,
        terms=Terms(0, 0, 1.0, 0, 0, 1, c2h.rate, h2c.rate),  # as far as they are known
        salt=item.salt,
        duplex=Duplex(Sending(c2h, sent[0] if sent else None), Receiving(h2c, received[0] if received else None)),
        expiry=Expiry(item.height, max(item.height - view.height, 0)),
        stage=CLOSING,
        proposal={},
        deposit_raw=sent[1].raw if sent else unknown,
        hub_deposit=received[1].raw if received else None,
        counted=(sent[1].height if sent else None, received[1].height if received else None),
        ending=Ending(since=view.height),
    )


def _deposit(session: Session, contract: Contract, view: View) -> tuple[Coin, Entry] | None:
    """Find a deposit that counts, spent or not, and its transaction."""
    rows = session.sight.nodes.sends(contract.deposit.output)
    entries = view.history[session.sight.at(contract.deposit.output)]
    anchor = find_anchor(contract, rows, entries, view.height, session.network.safe_depth)
    if anchor is None:
        return None
    return anchor, next(entry for entry in entries if entry.txid == anchor.outpoint.txid)
