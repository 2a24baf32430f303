"""Take back connections whose files are lost: the hub keeps what the wallet's key alone does not tell.

A hub can make none up: the channels' keys follow of the wallet's key and the salt that it gives back. A connection
whose newest state the hub keeps goes on with that; of any other only the hub knows what was paid and received, so that
it does nothing but close.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from picopayments_cli.chain import Query, View
from picopayments_cli.channel.counterparty import asset_id, asset_members
from picopayments_cli.channel.deadlines import Expiry
from picopayments_cli.channel.drafts import parse_transaction, txid_of
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.channel.facts import find_anchor
from picopayments_cli.channel.keys import Secrets
from picopayments_cli.channel.messages import MOST_RECOVERED, OUTPUT_SIZE, KeyReply, KeyRequest, Recovered
from picopayments_cli.channel.opening import Party, check_parties, check_wallet, contract_of
from picopayments_cli.channel.stages import CLOSING, PROPOSED
from picopayments_cli.channel.state import Receiving, Sending
from picopayments_cli.channel.terms import Terms
from picopayments_cli.channel.transactions import Contract
from picopayments_cli.channel.values import Coin, Entry, Handle, Pubkey
from picopayments_cli.channel.wire import NONCE_SIZE
from picopayments_cli.client import history
from picopayments_cli.client.connection import Connection, Ending
from picopayments_cli.client.restore_marks import is_to_ask, was_asked
from picopayments_cli.client.session import Session
from picopayments_cli.client.state_from_hub import bring_back
from picopayments_cli.errors import BadReply, LocalFiles, OldProtocol, PicopaymentsError, StoreDamaged

log = logging.getLogger(__name__)


def take_back(session: Session, *, always: bool = False) -> PicopaymentsError | None:
    """Write down what hubs have of this wallet that is missing or damaged here, or where nothing is open with one.

    Asked is the settings' hub, and that of each missing connection. Where a backup was restored the former is asked as
    well: for what was opened since, and for newer states than the backup's. ``always``: ask it in any case. All of a
    hub's is there before any of it is written. Return why one could not be asked. It stops nothing.
    """
    if session.store.load_wallet() is None:
        return None
    failed: PicopaymentsError | None = None
    session.enlist(session.connections().values())  # those of an older version
    for at, known in _to_ask(session, always=always):
        try:
            _take_back(at, known)
            if at is session:
                was_asked(session.store.basedir, session.network)
        except LocalFiles:
            raise
        except PicopaymentsError as error:
            failed = failed or error
    return failed


def _to_ask(session: Session, *, always: bool) -> list[tuple[Session, Pubkey | None]]:
    """Find the hubs that are to be asked, each with its key."""
    store, found = session.store, []
    here, lost = session.connections().values(), _lost(session)
    listed = store.listed.all()
    away = {listed[handle].hub_key: listed[handle] for handle in lost if handle in listed}
    if session.settings.hub_url is not None:
        known = session.pinned_key()
        goes_on = {item.hub_key for item in here if not (item.restored or item.final)}
        blind = any(handle not in listed for handle in lost)  # its hub is not known
        if always or blind or known not in goes_on or known in away or is_to_ask(store.basedir, session.network):
            found.append((session, known))
            away = {key: item for key, item in away.items() if key != known}
    return found + [(session.with_hub(item.hub_url), key) for key, item in away.items()]


def _lost(session: Session) -> list[Handle]:
    """List the connections whose files are missing or damaged."""
    return [handle for handle, error in session.unusable.items() if isinstance(error, StoreDamaged)]


def _take_back(session: Session, known: Pubkey | None) -> None:
    """Write down what a hub has of this wallet. Its key is bound last: so it is done whole, or again.

    A damaged file makes room for a state that is proven to be the newest only: its owner may have a copy of it.
    """
    unsure = {item.handle: item for item in session.connections().values() if _is_unsure(item)}
    salts = {item.salt for handle, item in session.connections().items() if handle not in unsure}
    lost, store = _lost(session), session.store
    # A file that can't be read has a salt that nobody here knows: nothing new is believed beside it.
    blind = any(handle not in store.listed.all() for handle, error in session.unusable.items() if _is_live(error))
    found_all = []
    hub_key = known or session.hub_key()
    for item in _of_hub(session, hub_key):
        is_here = store.has(item.handle) and item.handle not in unsure and item.handle not in lost
        if is_here or (blind and item.handle not in (*unsure, *lost)):
            continue
        found = _connection(session, hub_key, item, salts)
        here_too = unsure.get(item.handle)
        if found is None or not _is_better(found, here_too):
            continue
        if found.stage == CLOSING and item.handle in lost and store.has(item.handle):
            log.warning("the hub can't prove the newest state of %s: its damaged file stays", item.handle.hex())
            continue
        salts.add(found.salt)
        found_all.append(found if here_too is None else _merged(found, here_too))
    if found_all and not store.payments.last:
        store.skip_indexes()
    session.enlist(found_all)
    for found in found_all:
        if found.handle in lost:
            store.set_aside(found.handle)
        _save(session, found, again=found.handle in unsure)
    if found_all:
        session.pin_hub(hub_key)
        session.connections()  # what was lost is here


def _is_live(error: PicopaymentsError) -> bool:
    return not isinstance(error, OldProtocol)


def _is_unsure(item: Connection) -> bool:
    """Whether a connection came from a backup in which it was not closing, and nothing of its close has left."""
    begun = item.ending.since is not None or item.ending.asked is not None or item.duplex.close_signed
    return item.restored and (item.stage == PROPOSED or (item.stage == CLOSING and not begun))


def _is_better(found: Connection, here: Connection | None) -> bool:
    """Whether what the hub gives back takes the place of what a backup has: proven, and as new; or of a proposal."""
    if here is not None and (here.hub_key, here.salt) != (found.hub_key, found.salt):
        return False
    if here is None or here.stage == PROPOSED:
        return True
    return found.stage != CLOSING and found.counter >= here.counter


def _merged(found: Connection, here: Connection) -> Connection:
    """Choose the backup's own state where the hub proves that it is the newest: only it knows the true last result.

    The own hashes go on at numbers that were never used, as in what the hub gave back. Where the backup does not know
    the result, it has the newest lists all the same.
    """
    if found.stage == CLOSING or here.stage == PROPOSED or found.counter != here.counter:
        return found
    if here.pending is not None:
        return replace(found, queue=here.queue, requests=here.requests, receipts_due=here.receipts_due)
    fresh = here.fresh_numbers(found.duplex.receiving.next_number, None)
    proven = replace(fresh, restored=False, unproven=False, count=found.count)
    return replace(proven, stage=found.stage, ending=found.ending)


def _save(session: Session, found: Connection, *, again: bool) -> None:
    if found.stage == CLOSING:
        log.warning("the connection %s was not here any more: it closes", found.handle.hex())
        session.save(found, "taken back", history.closing())
        return
    log.warning(
        "the connection %s goes on with the newest state that its hub keeps. Payments that were queued, and payment "
        "requests that were made, since its last sync are not in that: pay and ask anew.",
        found.handle.hex(),
    )
    if again:
        session.save(found, "taken back")
        return
    members, quantity = asset_members(found.asset, found.longname), found.duplex.sending.contract.quantity
    txid = txid_of(found.deposit_raw)[::-1].hex()
    session.save(found, "taken back", history.connected(members, quantity, txid))


def _of_hub(session: Session, hub_key: Pubkey) -> Iterator[Recovered]:
    """Ask a hub for all its connections of the wallet's key. Raises BadReply, and what ``call`` raises."""
    after: Handle | None = None
    while True:
        request = session.sealed("mph_key", KeyRequest(os.urandom(NONCE_SIZE), after).as_json(), hub_key)
        page = KeyReply.parse(session.call("mph_key", [request], hub_key).body).connections
        for item in page:
            if after is not None and item.handle <= after:
                raise BadReply("The hub's list of connections is not in order.", handle=item.handle.hex())
            after = item.handle
            yield item
        if len(page) < MOST_RECOVERED:
            return


def _connection(session: Session, hub_key: Pubkey, item: Recovered, salts: Collection[bytes]) -> Connection | None:
    """Build a connection from what the hub gives back; None where nothing of it is left on the chain.

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
    check_wallet(item.hub.wallet, hub_key)
    number = asset_id(item.asset)
    c2h = contract_of(own, item.hub, number, item.height, item.c2h)
    h2c = contract_of(item.hub, own, number, item.height, item.h2c)
    _check_listed(session, item.handle, (c2h.deposit.output, h2c.deposit.output))
    places = [session.sight.at(contract.deposit.output) for contract in (c2h, h2c)]
    view = session.chain.view(Query(coins=places, history=places))
    there = view.coins[places[0]]
    if not there and not view.coins[places[1]] and not _is_spent_to_coins(session, view, places):
        _strike_if_over(session, item, view, view.history[places[0]])
        return None
    heights = [*(coin.height for coin in there), *(entry.height for entry in view.history[places[0]])]
    if there and all(height is None for height in heights):
        log.warning("the deposit of %s is not in a block: sync again once it is, before you connect", item.handle.hex())
        return None
    sent, received = (_deposit(session, contract, view) for contract in (c2h, h2c))
    deposits = view.history[places[0]]
    unknown = deposits[0].raw if deposits else b""  # which keeps it open until nothing is left there
    bare = Connection(
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
        unproven=True,
    )
    return bring_back(session, bare, deposits)


def _strike_if_over(session: Session, item: Recovered, view: View, entries: Sequence[Entry]) -> None:
    """Miss no connection any more of which nothing is left on the chain, and which blocks have buried."""
    buried = view.height - session.network.safe_depth + 1
    ends: list[int | None] = [entry.height for entry in entries] or [item.height]
    if item.handle in session.store.missing() and all(height is not None and height <= buried for height in ends):
        log.warning("the file of %s is missing, and nothing of it is left on the chain: it is over", item.handle.hex())
        session.store.listed.strike(item.handle)


def _check_listed(session: Session, handle: Handle, deposits: tuple[bytes, bytes]) -> None:
    """Check that a connection is the one that is listed under its handle, and none under another. Raises BadReply."""
    listed = session.store.listed.all()
    own = listed[handle].deposits if handle in listed else deposits
    others = {output for name, item in listed.items() if name != handle for output in item.deposits}
    if own != deposits or not others.isdisjoint(deposits):
        raise BadReply("The hub names other deposits than those of the connection.", handle=handle.hex())


def _is_spent_to_coins(session: Session, view: View, places: Iterable[str]) -> bool:
    """Whether what was paid from the deposits' addresses lies unspent where it went first, as a commit does."""
    spenders = (parse_transaction(entry.raw) for place in places for entry in view.history[place])
    scripts = {bytes(tx.vout[0].scriptPubKey) for tx in spenders if tx is not None and tx.vout}
    taproot = [session.sight.at(script) for script in scripts if len(script) == OUTPUT_SIZE]
    return any(session.chain.view(Query(coins=taproot)).coins.values()) if taproot else False


def _deposit(session: Session, contract: Contract, view: View) -> tuple[Coin, Entry] | None:
    """Find a deposit that counts, spent or not, and its transaction."""
    rows = session.sight.nodes.sends(contract.deposit.output)
    entries = view.history[session.sight.at(contract.deposit.output)]
    anchor = find_anchor(contract, rows, entries, view.height, session.network.safe_depth)
    if anchor is None:
        return None
    return anchor, next(entry for entry in entries if entry.txid == anchor.outpoint.txid)
