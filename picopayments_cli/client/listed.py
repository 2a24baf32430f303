"""Reads and writes the list of connections that may have money on the chain, which stands outside of their folder.

By it a connection is missed whose file is lost: its hub is asked then, and can neither keep it back unnoticed nor name
another one in its place.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from picopayments_cli.channel.stages import AGREED, CLOSING
from picopayments_cli.channel.values import HANDLE_SIZE, PUBKEY_SIZE, Handle, Pubkey, from_hex
from picopayments_cli.client import kinds
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.folder import Folder
from picopayments_cli.client.restore_marks import have_asked
from picopayments_cli.errors import PicopaymentsError, StoreUnusable
from picopayments_cli.files import read_text

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listed:
    """The hub of a connection, and the scripts of both its deposits, the own one first."""

    hub_url: str
    hub_key: Pubkey
    deposits: tuple[bytes, bytes]

    @staticmethod
    def of(connection: Connection) -> Listed:
        """Tell what is listed of a connection."""
        channels = connection.duplex.sending, connection.duplex.receiving
        c2h, h2c = (side.contract.deposit.output for side in channels)
        return Listed(connection.hub_url, connection.hub_key, (c2h, h2c))


def is_due(connection: Connection) -> bool:
    """Tell whether something of a connection may be on the chain."""
    return connection.stage in (AGREED, CLOSING)


class ConnectionList:
    """The list of one network in a folder, which is locked; it is read once in that time."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.path = folder.path / f"{folder.network.name}.listed"
        self._known: dict[Handle, Listed] | None = None

    def forget(self) -> None:
        """Read anew next time: another process may write from here on."""
        self._known = None

    def all(self) -> Mapping[Handle, Listed]:
        """Read which connections may have money on the chain. Raises StoreUnusable.

        Where the list can't be read, the hub is asked for all: the next write puts a whole one in its place.
        """
        if self._known is None:
            try:
                self._known = parse(read_text(self.path) or "{}")
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError, PicopaymentsError) as error:
                if isinstance(error, StoreUnusable):
                    raise
                _log.warning("%s can't be used: the hub is asked which connections there are", self.path)
                if self._folder.is_writable:
                    have_asked(self._folder.path, self._folder.network)
                self._known = {}
        return self._known

    def add(self, found: Mapping[Handle, Listed]) -> None:
        """List connections before their money leaves. Raises StoreUnusable."""
        self._put({**self.all(), **found})

    def strike(self, handle: Handle) -> None:
        """Take a connection off the list that is over, or was put into the archive. Raises StoreUnusable."""
        self._put({name: item for name, item in self.all().items() if name != handle})

    def _put(self, after: dict[Handle, Listed]) -> None:
        if after != self.all():
            self._folder.write(self.path, written(after), "listed")
            self._known = after


def written(listed: Mapping[Handle, Listed]) -> str:
    """Write the list as JSON."""
    told = {
        handle.hex(): {
            "hub_url": item.hub_url,
            "hub_key": item.hub_key.hex(),
            "deposits": [d.hex() for d in item.deposits],
        }
        for handle, item in sorted(listed.items())
    }
    return json.dumps(told, indent=2) + "\n"


def parse(text: str) -> dict[Handle, Listed]:
    """Read the list. Raises KeyError, TypeError, ValueError, RecursionError, PicopaymentsError where it is none."""
    return {
        Handle(from_hex(handle, "handle", HANDLE_SIZE)): _parsed(kinds.members(item))
        for handle, item in kinds.members(json.loads(text)).items()
    }


def _parsed(item: Mapping[str, object]) -> Listed:
    c2h, h2c = (bytes.fromhex(kinds.text(output)) for output in kinds.items(item["deposits"]))
    key = Pubkey(from_hex(kinds.text(item["hub_key"]), "hub's key", PUBKEY_SIZE))
    return Listed(kinds.text(item["hub_url"]), key, (c2h, h2c))
