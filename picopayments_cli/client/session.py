"""Hold what a command works with, files, wallet, hub and chain, and the doors through which things leave."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from picopayments_cli.chain import Chain
from picopayments_cli.chain.hub import check_network
from picopayments_cli.channel import envelope
from picopayments_cli.channel.drafts import parse_transaction, spent_outpoints, txid_of
from picopayments_cli.channel.messages import HubRefusal, KeyRequest, request_of
from picopayments_cli.channel.stages import ASKED, CLOSED
from picopayments_cli.channel.values import Handle, Outpoint, Pubkey
from picopayments_cli.channel.wire import NONCE_SIZE
from picopayments_cli.client import connection_files, legacy
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.document import from_document, rows_between, to_document
from picopayments_cli.client.folder import LOCK_WAIT
from picopayments_cli.client.history import Action
from picopayments_cli.client.listed import Listed, is_due
from picopayments_cli.client.looking import Look, Sight
from picopayments_cli.client.nodes import HubNodes, OwnNodes
from picopayments_cli.client.past import Past
from picopayments_cli.client.restore_marks import check_restored
from picopayments_cli.client.store import Store
from picopayments_cli.client.wallet import Unlocker, Wallet, make_first
from picopayments_cli.config import Settings, place_of, plain_fingerprint
from picopayments_cli.errors import (
    BadHubSignature,
    BadReply,
    BroadcastRefused,
    OldProtocol,
    PicopaymentsError,
    UnknownHandle,
    UsageError,
)
from picopayments_cli.files import damaged
from picopayments_cli.rpc import RpcClient, controls_of
from picopayments_cli.transport import SYSTEM, Trust, is_here

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Signed:
    """A reply that the hub signed with ``hub_key``, and the request that it answers."""

    body: Mapping[str, Any]
    request: Mapping[str, Any]
    hub_key: Pubkey


def nobody() -> str:
    """Refuse where nobody can be asked for the wallet's key. Raises UsageError."""
    raise UsageError("There is no wallet here, and nobody to ask for its key: type this command in a shell.")


class Home:
    """The files, with what of each connection is on disk, the wallet and the spent coins of one command.

    Its sessions at several hubs share one.
    """

    def __init__(self, settings: Settings, lock_wait: float = LOCK_WAIT, unlocker: Unlocker | None = None) -> None:
        """``lock_wait``: seconds that the store's lock is waited for; ``unlocker`` opens the wallet."""
        self.unlocker = unlocker or Unlocker()
        self.spent: set[Outpoint] = set()  # by what this command has published since it looked at the chain
        self.written: dict[Handle, Connection] = {}  # as they stand on disk
        self.unusable: dict[Handle, PicopaymentsError] | None = None  # connections that could not be loaded last
        self.fee_rate: int | None = None  # that a chain has estimated, where it is another than the one on disk
        self.told: set[int] = set()  # the indexes of the payments that this command's result reports
        self.noted: Look | None = None  # the look of which the wallet was written down
        self.restores = False  # whether this command restores a backup
        self.begins = True  # whether a missing folder is made; not once it has been used
        self._settings = settings
        self._lock_wait = lock_wait
        self._stack = ExitStack()

    def close(self) -> None:
        """Give back the store's lock."""
        self._stack.close()

    def let_go(self) -> None:
        """Give back the store's lock for a while: other commands get their turn, and all is read anew afterwards."""
        self._stack.close()
        for name in ("store", "wallet", "past"):
            self.__dict__.pop(name, None)
        self.written.clear()
        self.spent.clear()

    @property
    def is_open(self) -> bool:
        """Whether this command has the store's lock."""
        return "store" in self.__dict__

    @cached_property
    def store(self) -> Store:
        """The local files, locked from here on. Raises StoreLocked, StoreUnusable, RestoreUnfinished."""
        store = self._stack.enter_context(self._new_store())
        self.begins = False
        return store

    def _new_store(self) -> Store:
        basedir, network, backup = self._settings.basedir, self._settings.network, self._settings.backup
        legacy.make_private(basedir, network)
        if not self.restores:
            check_restored(basedir, network)
        if backup is None or self.restores:
            return Store(basedir, network, self._lock_wait, begins=self.begins)
        from picopayments_cli.client.mirror import Mirror, MirroredStore

        mirror = Mirror(Path(backup), basedir, network, self._kept_wallet)
        return MirroredStore(basedir, network, self._lock_wait, mirror, begins=self.begins)

    def _kept_wallet(self) -> Wallet | None:
        """Return the wallet once it is on disk and open: nobody is asked for its passphrase while others wait."""
        file = self.store.wallet_here()
        return self.wallet if file is not None and self.unlocker.has(file) else None

    @cached_property
    def wallet(self) -> Wallet:
        """The wallet. Raises WalletMissing, StoreDamaged, StoreUnusable."""
        return Wallet.open(self.store, self._settings.network, self.unlocker)

    def unlock(self) -> None:
        """Open the wallet, if there is one, before the lock is taken: nobody waits for who types a passphrase.

        Raises PassphraseMissing, WrongPassphrase, StoreDamaged, StoreNewer.
        """
        file = Store(self._settings.basedir, self._settings.network).wallet_here()
        if file is not None:
            self.unlocker.secret(file)

    @cached_property
    def past(self) -> Past:
        """The wallet's transactions that hold its coins yet."""
        return Past(self.store, self.wallet)


class Session:
    """One command's resources; opened as they are needed, given back by ``close``."""

    def __init__(self, settings: Settings, given_basedir: Path | None = None, home: Home | None = None) -> None:
        """``given_basedir``: the basedir where the user named one, None where it is the default."""
        self.settings = settings
        self.given_basedir = given_basedir
        self.network = settings.network
        self.ask: Callable[[str], bool] | None = None  # asks the user; None where nobody is there
        self.read_key: Callable[[], str] = nobody  # reads the wallet's key from who runs the command
        self.progress: Callable[[], AbstractContextManager[Callable[..., None]]] | None = None  # shows how a wait goes
        self.home = home or Home(settings)

    def close(self) -> None:
        """Give back the store's lock."""
        self.home.close()

    def with_hub(self, url: str) -> Session:
        """Open a session at another hub's URL. The settings' user and password are not for that hub."""
        other = Session(replace(self.settings, hub_url=url, hub_auth=None), self.given_basedir, self.home)
        if self.chain_source == "own":
            other.sight = self.sight
        return other

    @property
    def store(self) -> Store:
        """The local files, locked from here on. Raises StoreLocked, StoreUnusable."""
        return self.home.store

    @property
    def wallet(self) -> Wallet:
        """The wallet. Raises WalletMissing."""
        return self.home.wallet

    def keep_rate(self) -> None:
        """See that the fee rate is on disk that the chain has estimated, for the time when it has none."""
        if self.home.fee_rate is not None:
            self.store.notes.save_rate(self.home.fee_rate)
            self.home.fee_rate = None

    def wallet_or_new(self) -> Wallet:
        """Open the wallet; where there is none, a new one is on disk before its address is told."""
        make_first(self.store, self.network)
        return self.wallet

    @cached_property
    def rpc(self) -> RpcClient:
        """The hub. Raises InvalidSetting where none is set."""
        settings = self.settings
        trust = self._trust(settings.require_hub_url, verify=settings.verify_tls)
        _warn_of("hub_url", settings.require_hub_url, trust)
        return RpcClient(settings.require_hub_url, timeout=self._timeout, trust=trust, auth=settings.hub_auth)

    def _trust(self, url: str, *, verify: bool = True) -> Trust:
        """Find which certificates are good of the server at a URL, by the settings."""
        pins = self.settings.pinned_certificates or {}
        pin = next((pin for of, pin in pins.items() if place_of(of) == place_of(url)), None)
        return Trust(verify, self.settings.ca_file, pin and plain_fingerprint(pin))

    @cached_property
    def regtest(self) -> RpcClient:
        """The server that mines and gives on regtest: one's own node, or the hub, which asks its node."""
        url = self.settings.chain_url
        if url is None:
            check_network(self.rpc, self.network)
            return self.rpc
        return controls_of(url, self._timeout, self._trust(url))

    @cached_property
    def sight(self) -> Sight:
        """The chain as this command sees it: by nodes of one's own where the settings name one, else by the hub."""
        settings = self.settings
        if settings.chain_url is None:
            from picopayments_cli.chain.hub import HubChain

            seen_by_hub = HubChain(self.rpc, self.network)
            return Sight(self.network, seen_by_hub, HubNodes(seen_by_hub, self.rpc, self.network))
        from picopayments_cli.chain.bitcoin import BitcoinNode
        from picopayments_cli.chain.node import PATIENCE, NodeChain

        _warn_of("chain_url", settings.chain_url)
        _warn_of("bitcoin_url", settings.bitcoin_url)
        bitcoin = None
        if settings.bitcoin_url is not None:
            trust = self._trust(settings.bitcoin_url)
            bitcoin = BitcoinNode(settings.bitcoin_url, timeout=self._timeout, trust=trust)
        node = NodeChain(
            settings.chain_url,
            self.network,
            timeout=self._timeout,
            patience=min(PATIENCE, settings.timeout),
            bitcoin=bitcoin,
            trust=self._trust(settings.chain_url),
        )
        return Sight(self.network, node, OwnNodes(node, self.network, bitcoin))

    @property
    def chain(self) -> Chain:
        """The chain itself, for what need not be remembered."""
        return self.sight.chain

    @property
    def chain_source(self) -> str:
        """Whose word about the chain is believed: ``own`` (a node's of one's own) or ``hub``."""
        return "hub" if self.settings.chain_url is None else "own"

    @property
    def _timeout(self) -> tuple[float, float]:
        return min(10.0, self.settings.timeout), self.settings.timeout

    # Connections ----------------------------------------------------------------------------------------------------

    def connections(self) -> dict[Handle, Connection]:
        """Load all connections that can be used; ``unusable`` has the others, and those that are missing.

        A handle asked for and never got is left out: nothing was deposited for it.
        """
        found, failed = {}, {}
        for handle, document in self.store.load_all().items():
            try:
                if isinstance(document, PicopaymentsError):
                    raise document
                if document.get("stage") != ASKED:
                    found[handle] = self._connection(handle, document)
            except PicopaymentsError as error:
                failed[handle] = error
        self.home.unusable = failed
        return found

    @property
    def unusable(self) -> dict[Handle, PicopaymentsError]:
        """Tell why the connections that were left out when all were loaded last can't be used, by handle."""
        if self.home.unusable is None:
            self.connections()
        return self.home.unusable or {}

    def check_all_usable(self) -> None:
        """Refuse what can't be done without knowing all connections of this protocol. Raises as ``Store.load``."""
        self.connections()
        for error in self.unusable.values():
            if not isinstance(error, OldProtocol):
                raise error

    def connection(self, handle: Handle) -> Connection:
        """Load one connection. Raises UnknownHandle, ConnectionTooOld, OldProtocol, StoreDamaged."""
        try:
            document = self.store.load(handle)
        except UnknownHandle:
            if handle in self.older():
                raise legacy.too_old([handle]) from None
            raise
        return self._connection(handle, document)

    def check_new(self, handle: Handle) -> None:
        """Refuse a handle that a connection has here, live, archived or of 1.0.4, or a waiting request.

        It is a file's name, and the hub chose it. Raises BadReply.
        """
        if self.store.has(handle) or handle in self.store.listed.all() or handle in self.older():
            raise BadReply(
                "The hub names a handle that a connection here has already. Nothing was deposited.", handle=handle.hex()
            )

    def older(self) -> list[Handle]:
        """List the handles of the original client's connections. Raises StoreDamaged, StoreUnusable."""
        return legacy.read_handles(self.store.basedir, self.network)

    def archived(self) -> dict[Handle, Connection]:
        """Load the connections that were culled. Raises StoreDamaged, StoreNewer."""
        archive = self.store.archived
        return {handle: self._connection(handle, item, archive.path) for handle, item in archive.load_all().items()}

    def _connection(self, handle: Handle, document: Mapping[str, Any], folder: Path | None = None) -> Connection:
        try:
            found = from_document(handle, document)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, PicopaymentsError) as error:
            path, why = (folder or self.store.folder) / f"{handle.hex()}.json", type(error).__name__
            with connection_files.advised(folder is None):
                raise damaged(path, f"a member is missing or wrong ({why})") from error
        if folder is None:
            self.home.written[handle] = found
        return found

    def pinned_key(self) -> Pubkey | None:
        """Find the key that the hub's scheme, host and port are bound to; None if it is new. Raises StoreDamaged."""
        url, known = self.settings.require_hub_url, self.store.notes.hub_keys()
        # Older files have the URL as it was spelled.
        text = known.get(url) or next((key for of, key in known.items() if place_of(of) == place_of(url)), None)
        if text is None:
            return None
        key = envelope.named_key({"pubkey": text})
        if key is None:
            raise damaged(self.store.notes.hubs_path, "what it holds for the hub is no public key")
        return key

    def pin_hub(self, key: Pubkey) -> None:
        """Bind scheme, host and port of the hub to its key, from the first answer on."""
        if self.pinned_key() is None:
            self.store.notes.save_hub_key(place_of(self.settings.require_hub_url), key.hex())

    def proven_key(self, hub_key: Pubkey | None) -> Pubkey:
        """Have the hub prove its key by signing a reply to a fresh nonce. ``hub_key``: the key it is known by, if any.

        Raises BadHubSignature, BadReply, HubUnreachable and its kind.
        """
        return self.call("mph_key", [KeyRequest(os.urandom(NONCE_SIZE)).as_json()], hub_key).hub_key

    def hub_key(self) -> Pubkey:
        """Find the key to which a request of the wallet's is signed: the bound one, or that which a new hub proves.

        Raises StoreDamaged, and as ``proven_key``.
        """
        return self.pinned_key() or self._first_key

    @cached_property
    def _first_key(self) -> Pubkey:
        """The key of a hub that is new to this wallet, and of its network; the same for all of a command."""
        check_network(self.rpc, self.network)
        return self.proven_key(None)

    def sealed(self, method: str, body: Mapping[str, Any], hub_key: Pubkey) -> dict[str, Any]:
        """Sign a request with the wallet's key, for this method of this hub alone."""
        return envelope.seal(self.wallet.key, body, envelope.asking(method, hub_key))

    # The doors ------------------------------------------------------------------------------------------------------

    def save(self, connection: Connection, label: str, *actions: Action) -> Connection:
        """Write a connection to disk with the rows that are new, and with it the actions of its history."""
        self.keep_rate()
        handle = connection.handle
        self.enlist([connection])
        if handle not in self.home.written and handle in self.store.handles():
            self.connection(handle)
        rows = rows_between(self.home.written.get(handle), connection)
        self.store.save(handle, to_document(connection), label, actions, rows)
        self.home.written[handle] = connection
        if connection.stage == CLOSED:
            self.store.listed.strike(handle)
        return connection

    def enlist(self, connections: Iterable[Connection]) -> None:
        """List those that may have money on the chain: one whose file is lost later is missed."""
        self.store.listed.add({item.handle: Listed.of(item) for item in connections if is_due(item)})

    def forget(self, handle: Handle) -> None:
        """Remove a connection for which nothing was deposited."""
        self.store.remove(handle)
        self.home.written.pop(handle, None)

    def call(self, method: str, requests: Iterable[Mapping[str, Any]], hub_key: Pubkey | None) -> Signed:
        """Send the newest of the requests, and take the hub's signed reply to any one of them.

        ``hub_key`` None: the hub is new, and the key that its reply names is taken. Raises BadHubSignature, BadReply,
        and what the hub refuses.
        """
        sent = list(requests)
        try:
            body = self.rpc.call(method, sent[-1], retry=True)
        except PicopaymentsError as error:
            if error.said is not None and hub_key is not None:
                self._check_refusal(error, method, sent[-1], hub_key)
            raise
        if not isinstance(body, Mapping):
            raise BadReply("The hub's reply is not an object.", method=method)
        key = hub_key or envelope.named_key(body)
        if key is None or envelope.signed_by(body, key, envelope.answering(method, key)) is None:
            raise self._not_the_hub("The hub's reply", method=method)
        use, names = envelope.asking(method, key), request_of(body)
        answered = next((request for request in sent if names == envelope.digest(request, use)), None)
        if answered is None:
            other = BadReply("The hub's reply answers another request. Nothing of it was taken.", method=method)
            other.said = body
            raise other
        return Signed(body, answered, key)

    def _check_refusal(self, error: PicopaymentsError, method: str, sent: Mapping[str, Any], hub_key: Pubkey) -> None:
        """Check that it is the hub that refuses this request. Raises BadHubSignature."""
        if envelope.signed_by(error.said or {}, hub_key, envelope.answering(method, hub_key)) is not None:
            refusal, asked = HubRefusal.parse(error.said), envelope.digest(sent, envelope.asking(method, hub_key))
            if (refusal.cause, refusal.request) == (error.name, asked):
                return
        raise self._not_the_hub(f"The refusal {error.name}", refusal=error.name) from error

    def _not_the_hub(self, what: str, **data: Any) -> BadHubSignature:
        return BadHubSignature(
            f"{what} is not signed with the key that this hub is known by. Nothing of it was taken. See that the URL "
            "is right. If it is, another hub stands there, or somebody stands between: wait, try from another network, "
            "ask the operator, or close the connection alone: `picopayments-cli close HANDLE`.",
            hub_url=self.rpc.url,
            **data,
        )

    def broadcast(self, raw: bytes, label: str) -> str:
        """Hand a signed transaction to the network, and return its txid in hex."""
        (taken,) = self._leave([raw], lambda: (self.chain.broadcast(raw),))
        txid = taken[::-1].hex()
        log.debug("broadcast %s: %s", label, txid)
        return txid

    def submit(self, raws: Sequence[bytes], label: str) -> tuple[bytes, ...]:
        """Hand transactions that depend on each other to the network together; the txids of those that it took."""
        if len(raws) == 1:
            return (bytes.fromhex(self.broadcast(raws[0], label))[::-1],)
        return self._leave(raws, lambda: self.sight.nodes.submit(raws))

    def _leave(self, raws: Sequence[bytes], send: Callable[[], tuple[bytes, ...]]) -> tuple[bytes, ...]:
        """Send, and remember it before; what the network has refused is forgotten."""
        past = self.home.past
        new = past.add(raws)
        try:
            taken = send()
        except BroadcastRefused:
            past.drop(new)
            raise
        past.drop([txid for txid in new if txid not in taken])
        for tx in (parse_transaction(raw) for raw in raws if txid_of(raw) in taken):
            self.home.spent.update(spent_outpoints(tx) if tx is not None else ())
        return taken


def _warn_of(name: str, url: str | None, trust: Trust = SYSTEM) -> None:
    """Warn of a way to another machine that is not protected.

    A hub signs its own replies, but not what it tells about the chain: who stands between can lie about that as it can.
    """
    parts = urlsplit(url or "")
    if parts.scheme == "http" and not is_here(parts.hostname or ""):
        log.warning(
            "%s is http: others on the way to %s can read what passes, passwords too, and change what is told of the "
            "blockchain",
            name,
            parts.hostname,
        )
    elif parts.scheme == "https" and not trust.verify and trust.fingerprint is None:
        log.warning("verify_tls is false: anybody on the way can pose as %s", parts.hostname)
