"""One function per command: what the command line calls. Plain arguments in, what JSON can hold out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from picopayments_cli.chain import Query
from picopayments_cli.chain.answers import longnames_of, members
from picopayments_cli.chain.shapes import by_longname, coins_shown, history_shown
from picopayments_cli.channel.counterparty import asset_members
from picopayments_cli.channel.deadlines import default_delay, is_short
from picopayments_cli.channel.networks import script_of_address
from picopayments_cli.channel.stages import CLOSED, OPEN, PROPOSED
from picopayments_cli.channel.values import Handle, Token, from_hex
from picopayments_cli.channel.wire import terms_json
from picopayments_cli.client import (
    away,
    funds,
    hubs,
    legacy,
    life,
    lost,
    opening,
    paying,
    payments_shown,
    reports,
    requesting,
    send,
    showing,
    syncing,
    wallet_commands,
)
from picopayments_cli.client.arguments import asset_named, exact_name, handle_named, own_handle, quantity_of
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.consent import check_consent
from picopayments_cli.client.cull import why_not_over
from picopayments_cli.client.history import in_order
from picopayments_cli.client.session import Session
from picopayments_cli.client.transactions_shown import raw_transaction, transaction_shown
from picopayments_cli.client.wait_option import until
from picopayments_cli.commands import EXPIRE_TIME, EXPIRES, FAUCET_BTC, FAUCET_XCP
from picopayments_cli.config import (
    DEFAULT,
    FILE,
    Choice,
    check_name,
    choose_client_basedir,
    choose_network,
    load_settings,
    settings_file,
    shown,
    with_setting,
)
from picopayments_cli.errors import (
    ConnectionNotOver,
    HubUnreachable,
    InvalidAsset,
    PicopaymentsError,
    TruncatedHistory,
    WrongNetwork,
)

log = logging.getLogger(__name__)
_CHAIN_NOTES = {
    "own": "chain: own. Deposits, commits and heights are read from the node at chain_url.",
    "hub": "chain: hub. The hub is believed about the blockchain; with chain_url your own node is asked instead.",
}


@contextmanager
def open_session(
    network: str | None,
    basedir: str | None,
    hub_url: str | None,
    environ: Mapping[str, str],
    ask: Callable[[str], bool] | None = None,
    **flags: Any,
) -> Iterator[Session]:
    """The session of one command; ``ask`` has the user answer a question, ``flags`` are more settings by their names.

    Raises WrongNetwork, InvalidSetting, InvalidUrl, StoreDamaged.
    """
    chosen = choose_network(network, environ)
    if flags.get("backup"):
        flags["backup"] = os.path.abspath(flags["backup"])
    flags["hub_url"] = hub_url
    settings = load_settings(chosen, choose_client_basedir(basedir, environ), flags, environ)
    given = basedir or environ.get("PICOPAYMENTS_BASEDIR")
    session = Session(settings, settings.basedir if given else None)
    session.ask = ask
    try:
        yield session
        session.keep_rate()  # a command that is refused writes nothing
    except HubUnreachable as error:
        away.advise(session, error)
        raise
    finally:
        session.close()


def function_of(command: str) -> Callable[..., Any]:
    """Find the function that carries a command out."""
    found: Callable[..., Any] = (
        getattr(wallet_commands, command.replace(" ", "_")) if " " in command else globals()[command]
    )
    return found


def carry_out(
    session: Session, command: Callable[..., Any], arguments: Mapping[str, Any], tell: Callable[[Any], None]
) -> None:
    """Run one of the commands below and have its result told, and that of one that failed in part. Raises its error."""
    try:
        result = command(session, **arguments)
    except PicopaymentsError as error:
        if error.result is not None:
            reports.deliver(session, error.result, tell)
        raise
    reports.deliver(session, result, tell)


# The hub and the wallet ---------------------------------------------------------------------------------------------


def hubstatus(session: Session, asset: str | None = None) -> dict[str, Any]:
    """The wallet's connections as the hub shows them, its totals, terms, funding addresses and liquidity."""
    if asset is not None and (not asset or "." in asset or asset != asset.upper()):  # the hub knows no other spelling
        asset = asset_named(session, asset).name
    answer = hubs.status(session, None if asset is None else (asset,))
    told = answer.longnames.items()
    longnames = longnames_of({"asset": name, "asset_longname": longname} for name, longname in told)
    terms = by_longname({name: terms_json(item) for name, item in answer.terms.items()}, longnames)
    held = by_longname(answer.liquidity, longnames)
    address = answer.address
    return {
        "connections": {
            handle.hex(): {
                **asset_members(item.asset, item.longname),
                "balance": item.balance,
                "status": item.status,
                "ttl": item.ttl,
            }
            for handle, item in answer.connections.items()
        },
        "totals": dict(answer.totals),
        "current_terms": terms,
        "funding_addresses": {name: address for name in ("BTC", *terms)},
        "liquidity": {
            "addresses": {
                name: [{"address": address, "balances": {"BTC": held["BTC"], name: held[name]}}] for name in terms
            },
            "total": held,
        },
    }


def address(session: Session) -> str:
    """The wallet's address; a new wallet's key is on disk before it is told."""
    return session.wallet_or_new().address


def balances(session: Session, asset: str | None = None, address: str | None = None) -> dict[str, int]:
    """The confirmed funds of an address, the wallet's by default: asset to quantity, in satoshis.

    A subasset goes by its long name. Raises InvalidAddress, UnknownAsset, WalletMissing.
    """
    own = address is None
    if address is None:
        address = wallet_commands.here(session).address
    else:
        script_of_address(session.network, address)
    view = session.chain.view(Query(coins=[address], balances=[address]))
    held, longnames = view.balances[address], dict(view.longnames)
    if asset is not None and asset not in held:
        known = asset_named(session, asset)
        asset = known.name
        longnames = {asset: known.longname} if known.longname else {}
    if own:
        funds.tell_change(session, view)
    return by_longname(held if asset is None else {asset: held.get(asset, 0)}, longnames)


def blocksend(
    session: Session,
    asset: str,
    destination: str,
    quantity: int | str,
    extra_btc: int | str = 0,
    yes: bool = False,
    dry_run: bool = False,
) -> Any:
    """Send an asset, or BTC, from the wallet by a transaction of its own; the txid. Each call is another payment.

    ``extra_btc``: satoshis to go with an asset; at least the dust that an output must hold does. ``yes``: do not ask.
    ``dry_run``: tell what would be published, and publish nothing. Raises what ``client.send.blocksend`` does, and
    UnknownAsset, NotConfirmed.
    """
    script_of_address(session.network, destination)
    known = asset_named(session, asset)
    extra = 0 if extra_btc in (0, "0") else quantity_of(session, extra_btc, "BTC", "extra_btc")
    sent = quantity_of(session, quantity, known.name)
    if dry_run:
        from picopayments_cli.client import rehearsal

        return rehearsal.blocksend(session, known, destination, sent, extra)
    check_consent(session, "send", sent, known.longname or known.name, yes=yes)
    check_consent(session, "send", extra, "BTC", yes=yes)
    return send.blocksend(session, known, destination, sent, extra)


# The blockchain -----------------------------------------------------------------------------------------------------


def listutxos(session: Session, address: str, unconfirmed: bool = False) -> list[dict[str, Any]]:
    """The coins of an address, by txid; with ``unconfirmed`` those of the mempool too. Raises InvalidAddress."""
    script_of_address(session.network, address)
    return coins_shown(session.chain.view(Query(coins=[address])), address, unconfirmed)


def searchrawtxs(session: Session, address: str, unconfirmed: bool = False) -> list[dict[str, Any]]:
    """The transactions of an address, oldest first; with ``unconfirmed`` those of the mempool before them.

    Raises InvalidAddress, TruncatedHistory.
    """
    script_of_address(session.network, address)
    view = session.chain.view(Query(history=[address]))
    if address in view.truncated:
        listed = len(view.history[address])
        raise TruncatedHistory(
            f"The node lists only the newest {listed} transactions of {address}: ask a block explorer for them all.",
            address=address,
            listed=listed,
        )
    return history_shown(view, address, unconfirmed)


def getrawtx(session: Session, txid: str, verbose: bool = False) -> str | dict[str, Any] | None:
    """A transaction as hex, with ``verbose`` in its parts; None where it is unknown. Raises InvalidHex."""
    raw = raw_transaction(session, from_hex(txid, "txid", 32)[::-1])
    if raw is None:
        return None
    return transaction_shown(session, raw) if verbose else raw.hex()


# Settings -----------------------------------------------------------------------------------------------------------


def config(session: Session, key: str | None = None, value: str | None = None) -> dict[str, Any]:
    """The settings, each with its source, or one of them; ``value`` puts one into the settings file, "" takes it out.

    Raises InvalidSetting, InvalidUrl, StoreDamaged, StoreUnusable.
    """
    choices = session.settings.choices
    if key is None:
        return {name: _choice(name, choice) for name, choice in sorted(choices.items())}
    check_name(key)
    choice = choices[key]
    if value is not None:
        store, network, basedir = session.store, session.network, session.settings.basedir
        settings = with_setting(network, basedir, key, value)
        if legacy.is_original_settings(path := settings_file(network, basedir)):
            legacy.keep_backup(path)
        store.save_settings(settings)
        if choice.source in (FILE, DEFAULT):
            choice = load_settings(network, basedir, {}, {}).choices[key]
        else:
            log.warning("The value is in the settings file, but the %s goes before the file.", choice.source)
    return _choice(key, choice)


def _choice(name: str, choice: Choice) -> dict[str, Any]:
    return {"value": shown(name, choice.value), "source": choice.source}


# Backups ------------------------------------------------------------------------------------------------------------


def backup(session: Session, file: str, action: str | None = None) -> dict[str, Any]:
    """Write all files of the network into one that only the wallet's key opens, or with ``verify`` read that through.

    Raises as ``client/backups.py`` says.
    """
    from picopayments_cli.client import backups

    path = Path(os.path.abspath(file))
    return backups.back_up(session, path) if action is None else backups.verify(session, path)


def restore(session: Session, file: str) -> dict[str, Any]:
    """Put a backup into an empty folder. Its connections are stopped. Raises as ``client/backups.py`` says."""
    from picopayments_cli.client import backups

    return backups.restore(session, Path(os.path.abspath(file)))


# Connections --------------------------------------------------------------------------------------------------------


@until(OPEN)
def connect(
    session: Session,
    asset: str,
    quantity: int | str,
    expire_time: int = EXPIRE_TIME,
    delay_time: int | None = None,
    yes: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Open a connection by a deposit of ``quantity`` satoshis, and tell its handle and the deposit's txid.

    And the last block that may hold the deposit, and what the hub takes for locking its own and for each sync. Times
    are in blocks. ``yes``: do not ask. ``dry_run``: tell what would be published, and publish nothing. Raises
    NotConfirmed.
    """
    delay = default_delay(session.network) if delay_time is None else delay_time
    if asset == "BTC":
        raise InvalidAsset(
            "Connections are in Counterparty assets, and bitcoin is none: name one, such as XCP.", asset=asset
        )
    known = asset_named(session, asset)
    deposit = quantity_of(session, quantity, known.name)
    if dry_run:
        from picopayments_cli.client import rehearsal

        return rehearsal.connect(session, opening.Wish(known, deposit, expire_time, delay))
    check_consent(session, "deposit", deposit, known.longname or known.name, yes=yes)
    log.info(_CHAIN_NOTES[session.chain_source])
    if is_short(delay):
        log.warning("A revoked commit can be punished for %d blocks: look at the chain twice in that time.", delay)
    made = opening.connect(session, known, deposit, expire_time, delay)
    anchor = made.duplex.sending.anchor
    txid = str(anchor.outpoint).partition(":")[0] if anchor else ""
    told = {"deposit_by": made.deposit_by, "lock_fee": made.lock_due, "sync_fee": made.terms.sync_fee}
    return {"send_deposit_txid": txid, "handle": made.handle.hex(), **told}


def queuepayment(
    session: Session,
    source: str,
    destination: str,
    quantity: int | str,
    token: str | None = None,
    yes: bool = False,
) -> str:
    """Queue a payment for the next sync; its token, drawn where none is given.

    A token pays once: the same payment with the same token again is not queued again, however long ago that was. Raises
    TokenInUse where the token is another payment's, NotConfirmed where the user is asked and does not say yes.
    ``yes``: do not ask.
    """
    ordered = paying.named(session, source, destination, quantity, token)
    if ordered.how_far is None:
        paying.queue(session, ordered, yes=yes)
    else:
        log.info("The payment of this token is %s.", ordered.how_far)
    return ordered.payment.token.hex()


def pay(
    session: Session,
    source: str,
    destination: str,
    quantity: int | str | None = None,
    token: str | None = None,
    yes: bool = False,
) -> dict[str, Any]:
    """Make a payment now, and tell what became of it, as ``payments`` does. Raises PaymentRefused, PaymentNotSent.

    ``destination``: a handle, or a payment request, which names quantity and token itself. A token pays once, as with
    ``queuepayment``. ``yes``: do not ask.
    """
    return paying.pay(session, paying.named(session, source, destination, quantity, token), yes=yes)


def cancelpayment(session: Session, token: str) -> bool:
    """Take a queued payment out of the queue, and tell whether it was there.

    A payment that a sync has sent can't be cancelled.
    """
    wanted = Token(from_hex(token, "token"))
    cancelled = False
    for connection in session.connections().values():
        if life.unqueue(session, connection, wanted):
            cancelled = True
        elif connection.pending and any(payment.token == wanted for payment in connection.pending.payments):
            log.info(
                "The payment is in a sync of %s that has left, or may have: it can't be cancelled. The next sync "
                "brings that one to its end.",
                connection.handle.hex(),
            )
    if not cancelled:
        session.check_all_usable()  # it may be queued in one that can't be read
    return cancelled


def status(session: Session, handle: str | None = None, verbose: bool = False) -> dict[str, Any]:
    """The connections, the wallet, and whose word about the chain this is: ``own`` (one's own node's) or ``hub``.

    None where nobody tells: then all is from the files, and says of when. ``verbose`` adds what moved each way, and
    what is pending. Raises WalletMissing, UnknownHandle.
    """
    wallet_commands.here(session)
    if not session.store.all_handles():
        log.info(wallet_commands.NO_CONNECTIONS)
    return showing.status(session, handle, verbose=verbose)


@until(OPEN, CLOSED)
def sync(session: Session, handle: str | None = None) -> dict[str, Any]:
    """Sync what is open, recover what is closed: per handle the transactions published, and what became of payments.

    Each connection with its own hub. One that fails does not stop the others; its error is raised when they are done,
    as SyncIncomplete where the others have a result.
    """
    unasked = lost.take_back(session) if handle is None else None
    return syncing.sync(session, _chosen(session, handle), everything=handle is None, unasked=unasked)


@until(CLOSED)
def close(session: Session, handle: str, dry_run: bool = False) -> dict[str, Any]:
    """Close a connection and settle it on chain: the txid of its close or commit, or None where none is published.

    And what became of payments, what the last sync cost, and whether the hub agreed. ``dry_run``: tell what would be
    published, and publish nothing.
    """
    connection = session.connection(own_handle(session, handle))
    if not dry_run:
        return syncing.close(session, connection)
    from picopayments_cli.client import rehearsal

    return rehearsal.close(session if connection.stage == PROPOSED else hubs.alone(session, connection), connection)


def payments(
    session: Session,
    handle: str | None = None,
    asset: str | None = None,
    state: str | None = None,
    since: int | None = None,
    limit: int | None = None,
    csv: bool = False,
) -> list[dict[str, Any]] | str:
    """The payments sent, received, refused and on their way, oldest first; with ``csv`` as CSV text.

    ``since``: those after that index; ``limit``: the first of them, without ``since`` the newest. Raises UnknownHandle.
    """
    if handle is not None:
        handle = handle_named(handle, {*session.store.all_handles(), *session.older()}).hex()
    found = payments_shown.listed(session, payments_shown.Wanted(handle, asset, state), since, limit)
    return payments_shown.as_csv(found) if csv else found


def request(
    session: Session, handle: str, quantity: int | str, memo: str = "", expires: int = EXPIRES, qr: bool = False
) -> str:
    """Make a payment request for a connection, good for so many seconds; with ``qr`` draw it on stderr, too."""
    connection = session.connection(own_handle(session, handle))
    amount = quantity_of(session, quantity, connection.asset)
    text = requesting.make(session, connection, amount, memo, expires)
    if qr:
        requesting.draw(text)
    return text


def decode(session: Session, request: str) -> dict[str, Any]:
    """Explain a payment request. Raises InvalidRequest."""
    return requesting.explained(request)


def listen(
    session: Session, show: Callable[[dict[str, Any]], None], after: int | None = None, seconds: float | None = None
) -> None:
    """Give ``show`` each payment as it arrives, for some seconds or for ever; raises as ``client/listen.py`` says."""
    from picopayments_cli.client.listen import Listener

    Listener(session, show, after).listen(seconds)


def history(session: Session, handle: str | None = None) -> list[dict[str, Any]]:
    """The past actions of one connection or all, oldest first; of those too that were culled. Raises UnknownHandle."""
    imported = legacy.read_history(session.store.basedir, session.network)
    events = [*imported, *in_order(session.store.history())]
    if handle is None:
        return events
    known = {*session.connections(), *session.older(), *(Handle(bytes.fromhex(event["handle"])) for event in events)}
    wanted = handle_named(handle, known).hex()
    return [event for event in events if event["handle"] == wanted]


def cull(session: Session, handle: str | None = None) -> list[str]:
    """Put connections that are over into the archive; their handles.

    Raises ConnectionNotOver for the one that is named; without a name those that are not over are left alone.
    """
    chosen = _chosen(session, handle)
    rest = why_not_over(session, chosen)
    culled = []
    for item in chosen:
        still_to_come = rest[item.handle]
        if still_to_come is None:
            session.store.archive(item.handle)
            culled.append(item.handle.hex())
        elif handle is not None:
            raise ConnectionNotOver(still_to_come, handle=item.handle.hex(), stage=item.stage)
    return culled


def _chosen(session: Session, handle: str | None) -> list[Connection]:
    """One connection, or all of them. Raises InvalidHex, UnknownHandle, AmbiguousHandle, ConnectionTooOld."""
    if handle is not None:
        return [session.connection(own_handle(session, handle))]
    return list(session.connections().values())


# For programs of this machine ---------------------------------------------------------------------------------------


def serve(
    session: Session,
    commands: Mapping[str, Callable[..., Any]],
    ready: Callable[[dict[str, str]], None],
    host: str = "127.0.0.1",
    port: int | None = None,
    **watch: Any,
) -> None:
    """Serve commands over JSON-RPC, and watch, until a signal comes, as client/serve.py says (``watch``: its Watch)."""
    from picopayments_cli.client.serve import Watch
    from picopayments_cli.client.serve import serve as run

    how = Watch(**watch, unlocker=session.home.unlocker)
    run(session.settings, session.given_basedir, commands, ready, how, host=host, port=port)


# Regtest ------------------------------------------------------------------------------------------------------------


def mine(session: Session, blocks: int = 1) -> list[str]:
    """Mine blocks on regtest; their hashes. Raises WrongNetwork elsewhere."""
    _only_regtest(session, "mine")
    return members(session.regtest.call("generate", {"blocks": blocks}, retry=False), "block hashes")


def faucet(
    session: Session,
    address: str | None = None,
    btc: int | str | None = None,
    asset: str | None = None,
    quantity: int | str | None = None,
) -> list[str]:
    """Give an address bitcoins and an asset on regtest, by default the wallet 1 BTC and 100 XCP; the txids.

    Of an asset whose quantity is left out it gives as many satoshis as of XCP.
    """
    _only_regtest(session, "faucet")
    if address is None:
        address = session.wallet_or_new().address
    else:
        script_of_address(session.network, address)
    if btc is None and asset is None and quantity is None:
        btc, quantity = FAUCET_BTC, FAUCET_XCP
    elif asset is not None and quantity is None:
        quantity = FAUCET_XCP
    asset = exact_name(session, asset or "XCP")
    params = {
        "address": address,
        "btc": 0 if btc is None else quantity_of(session, btc, "BTC", "btc"),
        "asset": asset,
        "quantity": 0 if quantity is None else quantity_of(session, quantity, asset),
    }
    return members(session.regtest.call("faucet", params, retry=False), "txids")


def feerate(session: Session, rate: int | str | None = None, minimum: int | None = None) -> dict[str, Any]:
    """Set what the regtest node estimates (``none``: nothing) and its mempool's minimum, in sat/vB; both as they are.

    A value that is left out stays. Raises WrongNetwork elsewhere.
    """
    _only_regtest(session, "feerate")
    answer = session.regtest.call("feerate", {"rate": rate, "minimum": minimum}, retry=False)
    return {"fee_rate": answer["fee_rate"], "minimum": answer["minimum"]}


def demo(session: Session) -> dict[str, Any]:
    """The whole life of a connection, on a network of its own. Raises WrongNetwork but on regtest."""
    _only_regtest(session, "demo")
    from picopayments_cli.client.demo import run

    return run(session.given_basedir)


def _only_regtest(session: Session, command: str) -> None:
    if session.network.name != "regtest":
        raise WrongNetwork(
            f"The command {command} exists on regtest only: put --regtest before it.",
            command=command,
            network=session.network.name,
        )
