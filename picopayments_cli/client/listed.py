"""Reads and writes the list of connections that may have money on the chain, which stands outside of their folder.

By it a connection is missed whose file is lost: its hub is asked then, and can neither keep it back unnoticed nor name
another one in its place. A list that is lost itself is made anew of all that other files name and that is not over. It
names the wallet's address, too: no other wallet takes the place of one whose file is lost.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING
from picopayments_cli.channel.values import HANDLE_SIZE, PUBKEY_SIZE, Handle, Pubkey, from_hex
from picopayments_cli.client import connection_files, key_file, kinds
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.folder import Folder
from picopayments_cli.client.restore_marks import have_asked
from picopayments_cli.config import connections_folder
from picopayments_cli.errors import LocalFiles, PicopaymentsError, StoreUnusable
from picopayments_cli.files import read_text, unused, usable

_log = logging.getLogger(__name__)
_WALLET = "wallet"  # whose connections these are: the member of the list that is no handle


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


Listing = Mapping[Handle, Listed | None]  # None: other files name a connection, and tell no more of it


# The list -----------------------------------------------------------------------------------------------------------


class ConnectionList:
    """The list of one network in a folder, which is locked; it is read once in that time."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.path = folder.path / f"{folder.network.name}.listed"
        self._known: Listing | None = None

    def forget(self) -> None:
        """Read anew next time: another process may write from here on, or a restore has put the list in place."""
        self._known = None

    def all(self) -> Listing:
        """Read which connections may have money on the chain, some by name only. Raises StoreUnusable.

        Where the list is lost it is made anew of what other files name, and the hubs are asked for all.
        """
        if self._known is None:
            self._known = read(self.path)
        if self._known is None:
            self._known = named(self._folder.path, self._folder.network)
            if self._known or had_any(self._folder.path, self._folder.network):
                self._put_anew(self._known)
        return self._known

    def address(self) -> str | None:
        """Read of which wallet the connections are; None where nothing tells. Raises StoreUnusable."""
        return address_of(self._folder.path, self._folder.network)

    def add(self, found: Mapping[Handle, Listed]) -> None:
        """List connections before their money leaves. Raises StoreUnusable."""
        self._put({**self.all(), **found})

    def strike(self, handle: Handle) -> None:
        """Take a connection off the list that is over, or was put into the archive. Raises StoreUnusable."""
        self._put({name: item for name, item in self.all().items() if name != handle})

    def _put(self, after: Listing) -> None:
        if after != self.all():
            self._write(after)
            self._known = after

    def _put_anew(self, found: Listing) -> None:
        """Write a list in the place of one that is lost, and keep that where it is there. A full disk stops nothing."""
        _log.warning("%s can't be used: the hubs are asked which connections there are", self.path)
        if not self._folder.is_writable:
            return
        try:
            self._folder.check()
            have_asked(self._folder.path, self._folder.network)
            with usable(self.path):
                if self.path.exists():
                    self.path.rename(unused(self.path))
            self._write(found)
        except LocalFiles as error:
            _log.warning("The list of connections was not written anew: %s", error.message)

    def _write(self, after: Listing) -> None:
        folder, network = self._folder.path, self._folder.network
        wallet = key_file.read(folder / f"{network.name}.wallet", folder / f"{network.name}.wif", network)
        self._folder.write(self.path, written(after, self.address() if wallet is None else wallet.address), "listed")


def written(listing: Listing, address: str | None) -> str:
    """Write the list as JSON. ``address``: the wallet's, None where it is not known."""
    told = {handle.hex(): None if item is None else _told(item) for handle, item in sorted(listing.items())}
    return json.dumps({**({} if address is None else {_WALLET: address}), **told}, indent=2) + "\n"


def _told(item: Listed) -> dict[str, Any]:
    deposits = [output.hex() for output in item.deposits]
    return {"hub_url": item.hub_url, "hub_key": item.hub_key.hex(), "deposits": deposits}


def read(path: Path) -> dict[Handle, Listed | None] | None:
    """Read the list; None where there is none that can be used. Raises StoreUnusable."""
    try:
        members = _members(path)
        return {
            Handle(from_hex(handle, "handle", HANDLE_SIZE)): None if item is None else _parsed(kinds.members(item))
            for handle, item in members.items()
            if handle != _WALLET
        }
    except StoreUnusable:
        raise
    except (KeyError, TypeError, ValueError, RecursionError, PicopaymentsError):
        return None


def address_of(basedir: Path, network: Network) -> str | None:
    """Find of which wallet a folder's list is, else its newest connection in the history; None where neither says.

    Raises StoreUnusable.
    """
    try:
        return kinds.text(_members(basedir / f"{network.name}.listed")[_WALLET])
    except StoreUnusable:
        raise
    except (KeyError, TypeError, ValueError, RecursionError, PicopaymentsError):
        told = [event.get("address") for event in _lines(basedir / f"{network.name}.history.jsonl")]
        return next((item for item in reversed(told) if isinstance(item, str)), None)


def _members(path: Path) -> Mapping[str, Any]:
    return kinds.members(json.loads(read_text(path) or ""))


def _parsed(item: Mapping[str, object]) -> Listed:
    c2h, h2c = (bytes.fromhex(kinds.text(output)) for output in kinds.items(item["deposits"]))
    key = Pubkey(from_hex(kinds.text(item["hub_key"]), "hub's key", PUBKEY_SIZE))
    return Listed(kinds.text(item["hub_url"]), key, (c2h, h2c))


# A list that is lost ------------------------------------------------------------------------------------------------


def had_any(basedir: Path, network: Network) -> bool:
    """Tell whether a folder has had connections, over by now, or a list of them. Raises StoreUnusable."""
    names = ("listed", "history.jsonl", "payments.jsonl")
    with usable(basedir):
        return any((basedir / f"{network.name}.{name}").exists() for name in names)


def named(basedir: Path, network: Network) -> dict[Handle, Listed | None]:
    """Find the connections that files name, and that none of them says to be over. Raises StoreUnusable.

    A line or document that can't be read names none: what it would tell is asked of the hubs.
    """
    found: set[str] = set()
    over: set[str] = set()
    for event in _lines(basedir / f"{network.name}.history.jsonl"):
        (over if event.get("action") == "closed" else found).add(str(event.get("handle")))
    found |= {str(entry.get("handle")) for entry in _lines(basedir / f"{network.name}.payments.jsonl")}
    archive = basedir / f"{network.name}.archive"
    with usable(basedir):
        live = sorted(connections_folder(network, basedir).glob("*.json"))
        over |= {path.stem for path in archive.glob("*.json")}
    for path in live:
        stage = _stage(path)
        if stage == CLOSED:
            over.add(path.stem)
        elif stage in (AGREED, CLOSING):
            found.add(path.stem)
    handles = []
    for name in found - over:
        with suppress(PicopaymentsError):
            handles.append(Handle(from_hex(name, "handle", HANDLE_SIZE)))
    return dict.fromkeys(sorted(handles))


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """Read the objects of a file of lines, those that can be read."""
    with usable(path):
        data = path.read_bytes() if path.exists() else b""
    for line in data.splitlines():
        with suppress(TypeError, ValueError, RecursionError):
            yield kinds.members(json.loads(line))


def _stage(path: Path) -> object:
    """Read the stage of a document, closed for one of an older protocol; None where it can't be read.

    Raises StoreUnusable.
    """
    with usable(path):
        data = path.read_bytes()
    with suppress(KeyError, TypeError, ValueError, RecursionError):
        document = kinds.members(json.loads(data))
        return document["stage"] if kinds.whole(document["version"]) >= connection_files.VERSION else CLOSED
    return None
