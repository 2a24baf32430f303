"""What a command works with: settings, store, wallet, hub and chain, and the doors through which things leave."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from picopayments_cli.chain import Chain, Query, View
from picopayments_cli.channel import envelope
from picopayments_cli.channel.counterparty import asset_id
from picopayments_cli.channel.deadlines import WATCHED_REVOKED, exposed
from picopayments_cli.channel.facts import Facts, paid_commit, unspent
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.stages import ASKED, CLOSED, CLOSING
from picopayments_cli.channel.state import Channel, Revoked
from picopayments_cli.channel.transactions import (
    Draft,
    Output,
    Purse,
    output_of,
    parse_transaction,
    spent_outpoints,
)
from picopayments_cli.channel.values import Coin, Handle, Outpoint, Pubkey
from picopayments_cli.client import legacy
from picopayments_cli.client.connection import Connection, from_document, to_document
from picopayments_cli.client.history import Action
from picopayments_cli.client.store import Store, damaged
from picopayments_cli.client.wallet import Wallet, spendable
from picopayments_cli.config import Settings, place_of
from picopayments_cli.errors import (
    BadHubSignature,
    BadPreviousTransaction,
    BadReply,
    FeeTooHigh,
    LocalFiles,
    NodeUnreachable,
    PicopaymentsError,
)
from picopayments_cli.rpc import LOOPBACK, RpcClient

log = logging.getLogger(__name__)
WALLET_RESERVE = 20_000  # satoshis that stay in the wallet, for fees that can't wait
_NONCE_SIZE = 32


@dataclass(frozen=True)
class Signed:
    """A reply that the hub signed with ``hub_key``, and the digest of the request that it answers."""

    body: Mapping[str, Any]
    request: bytes
    hub_key: Pubkey


class Session:
    """One command's resources; opened as they are needed, given back by ``close``."""

    def __init__(self, settings: Settings, given_basedir: Path | None = None) -> None:
        """``given_basedir``: the basedir where the user named one, None where it is the default."""
        self.settings = settings
        self.given_basedir = given_basedir
        self.network = settings.network
        self._dirty: dict[bytes, bool] = {}  # whether a script has a history, as this command saw it
        self._attached: dict[Outpoint, bool] = {}  # whether assets are attached to a coin of the wallet
        self._stack = ExitStack()
        self._spent: set[Outpoint] = set()  # by what this command has published, which its look was before

    def close(self) -> None:
        """Give back the store's lock."""
        self._stack.close()

    def with_hub(self, url: str) -> Session:
        """The same files and wallet with the hub at another URL. User and password of the settings are not for it."""
        other = Session(replace(self.settings, hub_url=url, hub_auth=None), self.given_basedir)
        other.__dict__.update(store=self.store, wallet=self.wallet, _originals=self._originals, _spent=self._spent)
        return other.seen_through(self) if self.chain_source == "own" else other

    def seen_through(self, other: Session) -> Session:
        """This session, seeing the chain as another one does."""
        self.__dict__.update(chain=other.chain, _dirty=other._dirty, _attached=other._attached)
        return self

    @cached_property
    def store(self) -> Store:
        """The local files, locked from here on. Raises StoreLocked, StoreUnusable."""
        legacy.make_private(self.settings.basedir, self.network)
        return self._stack.enter_context(Store(self.settings.basedir, self.network))

    @cached_property
    def wallet(self) -> Wallet:
        """The wallet; a new one is not on disk before ``keep_wallet``."""
        return Wallet.open(self.store, self.network)

    def keep_wallet(self) -> None:
        """Have the wallet's key on disk."""
        self.wallet.keep(self.store)

    @cached_property
    def rpc(self) -> RpcClient:
        """The hub. Raises InvalidSetting where none is set."""
        settings = self.settings
        _warn_of("hub_url", settings.require_hub_url, settings.verify_tls)
        return RpcClient(
            settings.require_hub_url,
            timeout=self._timeout,
            verify=settings.verify_tls,
            auth=settings.hub_auth,
        )

    @cached_property
    def regtest(self) -> RpcClient:
        """What mines and gives on regtest: the node of one's own, or the hub, which asks its node."""
        url = self.settings.chain_url
        if url is None:
            return self.rpc
        return RpcClient(url.rstrip("/") + "/v1/", timeout=self._timeout, unreachable=NodeUnreachable)

    @cached_property
    def chain(self) -> Chain:
        """The chain, seen by a node of one's own where the settings name one; else through the hub."""
        settings = self.settings
        if settings.chain_url is None:
            from picopayments_cli.chain.hub import HubChain

            return HubChain(self.rpc, self.network)
        from picopayments_cli.chain.bitcoin import BitcoinNode
        from picopayments_cli.chain.node import NodeChain

        _warn_of("chain_url", settings.chain_url)
        _warn_of("bitcoin_url", settings.bitcoin_url)
        bitcoin = settings.bitcoin_url and BitcoinNode(settings.bitcoin_url, timeout=self._timeout)
        return NodeChain(settings.chain_url, self.network, timeout=self._timeout, bitcoin=bitcoin or None)

    @property
    def chain_source(self) -> str:
        """Whose word about the chain is believed: ``own`` (a node's of one's own) or ``hub``."""
        return "hub" if self.settings.chain_url is None else "own"

    @property
    def _timeout(self) -> tuple[float, float]:
        return min(10.0, self.settings.timeout), self.settings.timeout

    # Connections ----------------------------------------------------------------------------------------------------

    def connections(self) -> dict[Handle, Connection]:
        """All connections. A handle asked for, and never got, is dropped: nothing was deposited for it."""
        found = {}
        for handle, document in self.store.load_all().items():
            if document.get("stage") != ASKED:
                found[handle] = self._connection(handle, document)
        return {**self._imported(), **found}

    def connection(self, handle: Handle) -> Connection:
        """One connection. Raises UnknownHandle, StoreDamaged."""
        imported = self._imported().get(handle)
        if imported is not None:
            return imported
        return self._connection(handle, self.store.load(handle))

    def archived(self) -> dict[Handle, Connection]:
        """The connections that were culled. Raises StoreDamaged, StoreNewer."""
        folder = self.store.archive_folder
        return {handle: self._connection(handle, item, folder) for handle, item in self.store.archived().items()}

    @cached_property
    def _originals(self) -> Mapping[Handle, Connection]:
        """The original client's connections, as its data file has them. Raises StoreDamaged, StoreUnusable."""
        path = legacy.data_file(self.store.basedir, self.network)
        return legacy.read_connections(path, self.wallet.key, self.settings.hub_url or "") if path.exists() else {}

    def _imported(self) -> dict[Handle, Connection]:
        """Those of the original client's connections that have no document of ours yet."""
        return {handle: item for handle, item in self._originals.items() if not self.store.knows(handle)}

    def _connection(self, handle: Handle, document: Mapping[str, Any], folder: Path | None = None) -> Connection:
        try:
            return from_document(handle, document)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, PicopaymentsError) as error:
            path = (folder or self.store.folder) / f"{handle.hex()}.json"
            raise damaged(path, f"a member is missing or wrong ({type(error).__name__})") from error

    def hub_key(self) -> Pubkey | None:
        """The key that the hub's scheme, host and port are bound to; None where it is new. Raises StoreDamaged."""
        url, known = self.settings.require_hub_url, self.store.hub_keys()
        # Older files have the URL as it was spelled.
        text = known.get(url) or next((key for of, key in known.items() if place_of(of) == place_of(url)), None)
        if text is None:
            return None
        key = envelope.named_key({"pubkey": text})
        if key is None:
            raise damaged(self.store.hubs_path, "what it holds for the hub is no public key")
        return key

    @cached_property
    def known_key(self) -> Pubkey | None:
        """The key of the hub: the one that it is bound to, else the one that it proves now; None where it can't."""
        try:
            return self.hub_key() or self.proven_key(None)
        except LocalFiles:
            raise
        except PicopaymentsError as error:
            log.debug("whose hub it is is not known: %s", error.message)
            return None

    def pin_hub(self, key: Pubkey) -> None:
        """Bind scheme, host and port of the hub to its key, from the first answer on."""
        if self.hub_key() is None:
            self.store.save_hub_key(place_of(self.settings.require_hub_url), key.hex())

    def proven_key(self, hub_key: Pubkey | None) -> Pubkey:
        """The key with which the hub signs a request drawn for this; ``hub_key``, where it is known by that.

        Raises BadHubSignature, BadReply, HubUnreachable and its kind.
        """
        return self.call("mph_key", [{"nonce": os.urandom(_NONCE_SIZE).hex()}], hub_key).hub_key

    # The doors ------------------------------------------------------------------------------------------------------

    def save(self, connection: Connection, label: str, *actions: Action) -> Connection:
        """Put a connection on disk, and the actions that this comes to into its history with it."""
        if connection.handle in self._originals:
            legacy.keep_backup(legacy.data_file(self.store.basedir, self.network))
        self.store.save(connection.handle, to_document(connection), label, actions)
        return connection

    def call(self, method: str, requests: Iterable[Mapping[str, Any]], hub_key: Pubkey | None) -> Signed:
        """Send the newest of the signed requests; the hub's signed reply, which must answer one of them.

        ``hub_key`` None: the hub is new, and the key that its reply names is taken. Raises BadHubSignature, BadReply,
        and what the hub refuses.
        """
        sent = list(requests)
        try:
            body = self.rpc.call(method, sent[-1], retry=True)
        except PicopaymentsError as error:
            if error.said is not None and hub_key is not None:
                self._check_refusal(error, sent[-1], hub_key)
            raise
        if not isinstance(body, Mapping):
            raise BadReply("The hub's reply is not an object.", method=method)
        key = hub_key or envelope.named_key(body)
        if key is None or envelope.signed_by(body, key) is None:
            raise self._not_the_hub("The hub's reply", method=method)
        named = body.get("request_sha256")
        answered = [request for request in sent if envelope.digest(request).hex() == named]
        if not answered:
            raise BadReply("The hub's reply answers another request. Nothing of it was taken.", method=method)
        return Signed(body, envelope.digest(answered[0]), key)

    def _check_refusal(self, error: PicopaymentsError, sent: Mapping[str, Any], hub_key: Pubkey) -> None:
        """Believe the hub alone that it refuses a request. Raises BadHubSignature."""
        said = error.said or {}
        right = said.get("type") == error.name and said.get("request_sha256") == envelope.digest(sent).hex()
        if not right or envelope.signed_by(said, hub_key) is None:
            raise self._not_the_hub(f"The refusal {error.name}", refusal=error.name) from error

    def _not_the_hub(self, what: str, **data: Any) -> BadHubSignature:
        return BadHubSignature(
            f"{what} is not signed with the key that this hub is known by. Nothing of it was taken. See that the URL "
            "is right. If it is, another hub stands there, or somebody stands between: wait, try from another network, "
            "ask the operator, or `close` the connection alone.",
            hub_url=self.rpc.url,
            **data,
        )

    def broadcast(self, raw: bytes, label: str) -> str:
        """Hand a signed transaction to the network; its txid in hex."""
        txid = self.chain.broadcast(raw)[::-1].hex()
        tx = parse_transaction(raw)
        self._spent.update(spent_outpoints(tx) if tx is not None else ())
        log.debug("broadcast %s: %s", label, txid)
        return txid

    # The chain ------------------------------------------------------------------------------------------------------

    def address(self, channel: Channel) -> str:
        """The address of a channel's deposit."""
        return str(address_of_script(self.network, channel.script.output))

    def rate(self, view: View) -> int:
        """The fee rate of what this party signs alone, in sat/vB. Raises FeeTooHigh."""
        rate = self.settings.fee_rate or view.fee_rate
        if rate > self.settings.fee_ceiling:
            raise FeeTooHigh(
                f"The network asks {rate} sat/vB, more than the fee_ceiling of {self.settings.fee_ceiling}. Wait, or "
                "raise the ceiling in the settings.",
                rate=rate,
                fee_ceiling=self.settings.fee_ceiling,
            )
        return rate

    def check_inputs(self, draft: Draft) -> None:
        """Compare each coin that is to be spent with the transaction that made it. Raises BadPreviousTransaction.

        Legacy signatures don't commit to values: a wrong one would go to the miners.
        """
        txids = sorted({coin.outpoint.txid for coin in draft.inputs})
        known = self.chain.view(Query(transactions=txids)).transactions
        for coin in draft.inputs:
            made = output_of(known.get(coin.outpoint.txid, b""), coin.outpoint)
            if made != Output(coin.value, coin.script):
                raise BadPreviousTransaction(
                    f"The coin {coin.outpoint} holds {made.value} satoshis, not the {coin.value} that were named. "
                    "Nothing was signed.",
                    outpoint=str(coin.outpoint),
                    value=made.value,
                    named=coin.value,
                )

    def signed(self, draft: Draft) -> bytes:
        """The transaction that only this party signs, in bytes. Raises BadPreviousTransaction."""
        self.check_inputs(draft)
        raw: bytes = draft.signed(self.wallet.key).serialize()
        return raw

    def dirty(self, scripts: Iterable[bytes], *, again: bool = False) -> set[bytes]:
        """Those of these scripts that have a history, the mempool included.

        Asks the chain only for those that this command has not looked at yet, or for all of them ``again``.
        """
        wanted = set(scripts)
        unknown = wanted if again else wanted - self._dirty.keys()
        if unknown:
            self._note_histories(unknown, self.chain.view(Query(history=list(self._addresses(unknown)))))
        return {script for script in wanted if self._dirty[script]}

    def _addresses(self, scripts: Iterable[bytes]) -> dict[str, bytes]:
        return {str(address_of_script(self.network, script)): script for script in scripts}

    def _note_histories(self, scripts: Iterable[bytes], view: View) -> None:
        for address, script in self._addresses(scripts).items():
            self._dirty[script] = bool(view.history[address])

    def look(self, connections: Iterable[Connection], *, beside: Iterable[bytes] = (), settle: bool = True) -> Look:
        """What the chain shows of these connections and the wallet, and, for ``dirty``, of the scripts beside.

        One round trip; with ``settle`` a second one where a deposit is spent, to see what became of the commit.
        """
        scripts = list(beside)
        looked_at = list(connections)
        channels = [channel for item in looked_at for channel in (item.duplex.sending, item.duplex.receiving)]
        addresses = [self.address(channel) for channel in channels]
        watched = self._revoked(item.duplex.sending for item in looked_at)
        wallet = self.wallet.address
        # What the ledger shows on a channel matters when it opens and when it ends.
        asked = [
            self.address(channel)
            for item in looked_at
            if item.stage in (CLOSING, CLOSED) or item.duplex.receiving.anchor is None
            for channel in (item.duplex.sending, item.duplex.receiving)
        ]
        history = [*addresses, *self._addresses(scripts)]
        view = self.chain.view(Query(history=history, coins=[wallet, *watched], balances=[wallet, *asked]))
        self._note_histories(scripts, view)
        facts = [
            Facts(
                view.height,
                view.history[address],
                unspent(channel.script.output, view.history[address]),
                revoked_coins=tuple(
                    (revoked, coin)
                    for watched_address, (of, revoked) in watched.items()
                    if of == channel
                    for coin in view.coins[watched_address]
                ),
                assets=_asset_ids(view.balances[address]) if address in view.balances else None,
                truncated=address in view.truncated,
            )
            for channel, address in zip(channels, addresses, strict=True)
        ]
        if settle:
            facts = self._with_commits(channels, facts)
        pairs = {item.handle: (facts[2 * n], facts[2 * n + 1]) for n, item in enumerate(looked_at)}
        return Look(view, pairs)

    def _revoked(self, channels: Iterable[Channel]) -> dict[str, tuple[Channel, Revoked]]:
        """The addresses of revoked commits that are to be watched, the greatest exposures of each channel."""
        return {
            str(address_of_script(self.network, channel.commit_script(item.revoke_hash).output)): (channel, item)
            for channel in channels
            for item in exposed(channel)[: WATCHED_REVOKED]
        }

    def _with_commits(self, channels: list[Channel], facts: list[Facts]) -> list[Facts]:
        """The facts with what became of the outputs that the anchors' spenders pay first."""
        outputs = map(paid_commit, channels, facts)
        paid = {n: script for n, script in enumerate(outputs) if script is not None}
        if not paid:
            return facts
        addresses = {n: str(address_of_script(self.network, script)) for n, script in paid.items()}
        asked = list(addresses.values())
        view = self.chain.view(Query(history=asked, balances=asked))
        found = list(facts)
        for n, address in addresses.items():
            found[n] = replace(
                facts[n],
                commit_history=view.history[address],
                commit_coins=unspent(paid[n], view.history[address]),
                commit_assets=_asset_ids(view.balances[address]),
            )
        return found

    def purse(self, view: View, *, can_wait: bool = True) -> Purse:
        """The wallet's confirmed plain coins, less those of deposits that are not on the chain yet, and the fee rate.

        What can't wait pays the ceiling where the network asks more. Raises FeeTooHigh for what can.
        """
        taken = {
            outpoint
            for item in self.connections().values()
            if item.stage != CLOSED
            for tx in [parse_transaction(item.deposit_raw)]
            if tx is not None
            for outpoint in spent_outpoints(tx)
        }
        taken |= self._spent
        coins = tuple(coin for coin in spendable(view.coins[self.wallet.address]) if coin.outpoint not in taken)
        coins = self._plain(coins, can_wait)
        rate = self.rate(view) if can_wait else min(self.settings.fee_rate or view.fee_rate, self.settings.fee_ceiling)
        return Purse(self.wallet.unlock, coins, rate, WALLET_RESERVE)

    def _plain(self, coins: tuple[Coin, ...], can_wait: bool) -> tuple[Coin, ...]:
        """The coins without attached assets; what can't wait does without any where that can't be known."""
        unknown = {coin.outpoint for coin in coins} - self._attached.keys()
        try:
            attached = self.chain.attached(unknown) if unknown else set()
        except PicopaymentsError as error:
            if can_wait:
                raise
            log.warning("the wallet's coins are left alone, since assets may be attached to them: %s", error.message)
            return ()
        if attached:
            log.warning("%d coins of the wallet are left alone: assets are attached to them", len(attached))
        self._attached |= {outpoint: outpoint in attached for outpoint in unknown}
        return tuple(coin for coin in coins if not self._attached[coin.outpoint])


@dataclass(frozen=True)
class Look:
    """One look at the chain: the view, and per connection the facts of c2h and h2c."""

    view: View
    facts: Mapping[Handle, tuple[Facts, Facts]]

    def held(self, address: str, asset: str) -> int:
        """What the ledger says an address holds, where it was asked."""
        return self.view.balances.get(address, {}).get(asset, 0)


def _warn_of(name: str, url: str | None, verify: bool = True) -> None:
    """Say which way to another machine is not protected; money does not depend on the hub's, privacy does."""
    parts = urlsplit(url or "")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        log.warning("%s is http: others on the way to %s can read what passes, passwords too", name, parts.hostname)
    elif parts.scheme == "https" and not verify:
        log.warning("verify_tls is false: whoever stands between can pose as %s at TLS", parts.hostname)


def _asset_ids(balances: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(asset_id(name) for name, quantity in balances.items() if quantity and name != "BTC")
