"""A command's resources and doors, for connections of protocol 3."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from picopayments_cli.channel import envelope
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.messages import NONCE_SIZE, KeyRequest
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.values import Handle, Pubkey
from picopayments_cli.channel2.transactions import parse_transaction, spent_outpoints
from picopayments_cli.client import legacy
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.document import from_document, rows_between, to_document
from picopayments_cli.client.history import Action
from picopayments_cli.client.looking import Sight
from picopayments_cli.client.nodes import HubNodes, OwnNodes
from picopayments_cli.client.store import RowStore
from picopayments_cli.client2 import session as client
from picopayments_cli.client2.store import damaged
from picopayments_cli.config import Settings
from picopayments_cli.errors import PicopaymentsError


class Home(client.Home):
    """The files, with their rows, the wallet and the spent coins of one command."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.written: dict[Handle, Connection] = {}  # as they stand on disk

    @cached_property
    def store(self) -> RowStore:
        """The local files, locked from here on. Raises StoreLocked, StoreUnusable."""
        basedir, network = self._settings.basedir, self._settings.network
        legacy.make_private(basedir, network)
        store = RowStore(basedir, network)
        self._stack.enter_context(store)
        return store


class Session(client.Session):
    """One command's resources; opened as they are needed, given back by ``close``."""

    home: Home

    def __init__(self, settings: Settings, given_basedir: Path | None = None, home: Home | None = None) -> None:
        """``given_basedir``: the basedir where the user named one, None where it is the default."""
        super().__init__(settings, given_basedir, home or Home(settings))

    def with_hub(self, url: str) -> Session:
        """Open a session at another hub's URL. The settings' user and password are not for that hub."""
        other = Session(replace(self.settings, hub_url=url, hub_auth=None), self.given_basedir, self.home)
        if self.chain_source == "own":
            other.sight = self.sight
        return other

    @property
    def store(self) -> RowStore:
        """The local files, locked from here on. Raises StoreLocked, StoreUnusable."""
        return self.home.store

    @property
    def key(self) -> Key:
        """The wallet's key, of which every connection's keys are derived."""
        return Key(self.wallet.key.secret)

    @cached_property
    def sight(self) -> Sight:
        """The chain as this command sees it: by nodes of one's own where the settings name one, else by the hub."""
        settings = self.settings
        if settings.chain_url is None:
            from picopayments_cli.chain.hub import HubChain

            seen_by_hub = HubChain(self.rpc, self.network)
            return Sight(self.network, seen_by_hub, HubNodes(seen_by_hub, self.rpc, self.network))
        from picopayments_cli.chain.packages import LedgerChain, PackageNode

        url, timeout = settings.bitcoin_url, self._timeout
        bitcoin = PackageNode(url, timeout=timeout) if url else None
        node = LedgerChain(settings.chain_url, self.network, timeout=timeout, bitcoin=bitcoin)
        return Sight(self.network, node, OwnNodes(node, self.network, bitcoin))

    # Connections ----------------------------------------------------------------------------------------------------

    def connections(self) -> dict[Handle, Connection]:  # type: ignore[override]
        """Load all connections. A handle asked for and never got is left out: nothing was deposited for it."""
        found: Any = super().connections()
        return dict(found)

    def connection(self, handle: Handle) -> Connection:  # type: ignore[override]
        """Load one connection. Raises UnknownHandle, StoreDamaged."""
        found: Connection = super().connection(handle)  # type: ignore[assignment]
        return found

    def archived(self) -> dict[Handle, Connection]:  # type: ignore[override]
        """Load the connections that were culled. Raises StoreDamaged, StoreNewer."""
        found: Any = super().archived()
        return dict(found)

    def _connection(  # type: ignore[override]
        self, handle: Handle, document: Mapping[str, Any], folder: Path | None = None
    ) -> Connection:
        try:
            found = from_document(handle, document)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, PicopaymentsError) as error:
            path = (folder or self.store.folder) / f"{handle.hex()}.json"
            raise damaged(path, f"a member is missing or wrong ({type(error).__name__})") from error
        if folder is None:
            self.home.written[handle] = found
        return found

    def proven_key(self, hub_key: Pubkey | None) -> Pubkey:
        """Have the hub prove its key by signing a reply to a fresh nonce. ``hub_key``: the key it is known by, if any.

        Raises BadHubSignature, BadReply, HubUnreachable and its kind.
        """
        request = envelope.seal(self.wallet.key, KeyRequest(os.urandom(NONCE_SIZE)).as_json())
        return self.call("mph_key", [request], hub_key).hub_key

    # The doors ------------------------------------------------------------------------------------------------------

    def save(self, connection: Connection, label: str, *actions: Action) -> Connection:  # type: ignore[override]
        """Write a connection to disk with the rows that are new, and with it the actions of its history."""
        handle = connection.handle
        if handle not in self.home.written and handle in self.store.handles():
            self.connection(handle)
        rows = rows_between(self.home.written.get(handle), connection)
        self.store.save_rows(handle, to_document(connection), rows, label, actions)
        self.home.written[handle] = connection
        return connection

    def forget(self, handle: Handle) -> None:
        """Remove a connection for which nothing was deposited."""
        self.store.remove(handle)
        self.home.written.pop(handle, None)

    def submit(self, raws: Sequence[bytes], label: str) -> tuple[bytes, ...]:
        """Hand transactions that depend on each other to the network together; the txids of those that it took."""
        if len(raws) == 1:
            return (bytes.fromhex(self.broadcast(raws[0], label))[::-1],)
        taken = self.sight.nodes.submit(raws)
        for tx in map(parse_transaction, raws):
            if tx is not None and bytes(tx.GetTxid()) in taken:
                self.home.spent.update(spent_outpoints(tx))
        return taken

    def script_address(self, script: bytes) -> str:
        """The address of a scriptPubKey."""
        return str(address_of_script(self.network, script))
