"""Keep the wallet's key and a document per connection, with its rows, its events and the numbers of its payments.

In the basedir stand ``<network>.wallet`` (older: ``<network>.wif``), ``<network>.connections/<handle>.json``,
``<network>.history.jsonl`` (past events, one a line) and ``<network>.payments.jsonl`` (what became of payments, see
``payments``). Other modules have the other files: ``notes``, ``listed``, ``archive``. Nothing is written before the
first save, except the lock's file and the folder it stands in (see ``folder``).

All that grows with a connection's age stands beside its document, in ``<handle>.commits.jsonl``: rows that are only
added to. They are on disk before the document, which says how many bytes of them count (``rows_size``): lines behind
those are of a save that was cut off, and the next one writes over them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.values import Handle
from picopayments_cli.client import connection_files, key_file
from picopayments_cli.client.archive import Archive
from picopayments_cli.client.connection_files import Kept, Row
from picopayments_cli.client.folder import LOCK_WAIT, Folder
from picopayments_cli.client.history import Action, Event, events_of
from picopayments_cli.client.key_file import KeyFile
from picopayments_cli.client.listed import ConnectionList
from picopayments_cli.client.notes import Notes
from picopayments_cli.client.payments import Entry, PaymentLog, Reported, entries_of
from picopayments_cli.config import connections_folder, settings_file
from picopayments_cli.errors import LocalFiles, OldProtocol, PicopaymentsError, StoreDamaged, UnknownHandle
from picopayments_cli.files import check_private, damaged, flush_folder, read_text, remove_file, usable

_ASSET = ("asset", "asset_longname")


class Store:
    """The files of one network in one folder; everything but its making happens inside ``with store:``.

    ``begins``: whether a folder that is not there is made. Raises as ``Folder``, and StoreUnusable where a file can't
    be read or written, or can be read by others.
    """

    def __init__(
        self,
        basedir: Path,
        network: Network,
        lock_wait: float = LOCK_WAIT,
        *,
        begins: bool = True,
        disk: Folder | None = None,
    ) -> None:
        """``disk``: the folder, where it does more with what is written than others do."""
        self.basedir = basedir
        self.network = network
        self.wallet_path = basedir / f"{network.name}.wallet"
        self.wif_path = basedir / f"{network.name}.wif"  # of an older wallet
        self.folder = connections_folder(network, basedir)
        self.history_path = basedir / f"{network.name}.history.jsonl"
        self.payments_path = basedir / f"{network.name}.payments.jsonl"
        self._disk = disk or Folder(basedir, network, lock_wait, begins=begins)
        self.notes = Notes(self._disk)
        self.listed = ConnectionList(self._disk)
        self.archived = Archive(self._disk, self.wif_path.name)
        self.payments = PaymentLog(
            self.payments_path, self._counts, lambda: self.notes.reported().upto, self._disk.append
        )
        self._kept: dict[Handle, Kept] = {}  # of files known to be ours, since the lock was taken

    def __enter__(self) -> Store:
        self._disk.__enter__()
        try:
            self._check_modes()
        except BaseException:
            self._disk.give_up()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.clear()
        self.listed.forget()
        self.payments.forget()
        self._disk.__exit__()

    def _check_modes(self) -> None:
        """Refuse what concerns all connections; a connection's own files are looked at when it is read."""
        folders, wallet = (self.folder, self.archived.path), (self.wallet_path, self.wif_path)
        lines = (self.history_path, self.payments_path)
        for path in (*wallet, *folders, *lines, self.listed.path, *self.notes.private):
            with usable(path):
                check_private(path)

    # The wallet's key ----------------------------------------------------------------------------------------------

    def load_wallet(self) -> KeyFile | None:
        """Read the wallet's key file; None if there is none yet. Raises StoreDamaged, StoreNewer.

        They are raised where there is none any more, too: a new key could not settle what the old one has signed.
        """
        found = self.wallet_here()
        others = (self.archived.path, self.history_path, self.listed.path)
        if found is None and (self._files() or any(path.exists() for path in others)):
            raise damaged(
                self.wallet_path,
                f"it is missing, or {self.wif_path.name}, and the connections here are of its key "
                "(`picopayments-cli wallet restore` makes it anew from the wallet's words)",
            )
        return found

    def wallet_here(self) -> KeyFile | None:
        """Read the key file that is there, if one is. Raises StoreDamaged, StoreNewer."""
        return key_file.read(self.wallet_path, self.wif_path, self.network)

    def save_wallet(
        self, wallet: KeyFile, label: str = "new wallet", check: Callable[[bytes], object] | None = None
    ) -> None:
        """Write the wallet's key file, a new one or in the place of one of this same wallet; the older file goes.

        ``check`` reads what was written before anything goes. Raises WalletExists, StoreDamaged, StoreUnusable.
        """
        here = self.wallet_here()
        if here is not None and here.name != wallet.name:
            raise key_file.taken(self.basedir, here)
        self._disk.write(self.wallet_path, wallet.text(), label, check=check)
        if self.wif_path.exists():
            with usable(self.wif_path):
                remove_file(self.wif_path)
                flush_folder(self.basedir)

    def save_settings(self, settings: dict[str, Any]) -> None:
        """Write the network's settings file. Raises StoreUnusable."""
        text = json.dumps(settings, indent=2, allow_nan=False) + "\n"
        self._disk.write(settings_file(self.network, self.basedir), text, "settings")

    # Connections ---------------------------------------------------------------------------------------------------

    def handles(self) -> list[Handle]:
        """List the handles of all connections whose files are here, in order."""
        return [Handle(bytes.fromhex(path.stem)) for path in self._files()]

    def missing(self) -> list[Handle]:
        """List the handles of connections that may have money on the chain, and whose files are lost."""
        return [handle for handle in self.listed.all() if not self.has(handle)]

    def all_handles(self) -> list[Handle]:
        """List the handles of all connections, those that are missing or in the archive, too."""
        return [*self.handles(), *self.missing(), *self.archived.handles()]

    def load(self, handle: Handle) -> dict[str, Any]:
        """Read a connection's document with its ``rows``.

        Raises UnknownHandle, OldProtocol, StoreDamaged, StoreNewer.
        """
        path = self._path(handle)
        with connection_files.advised():
            document = self._load(handle)
            return {**document, "rows": connection_files.read_rows(path, self._kept[handle].size)}

    def _load(self, handle: Handle) -> dict[str, Any]:
        """Read a document without its rows."""
        path = self._path(handle)
        with usable(path):
            check_private(path)
            check_private(connection_files.rows_path(path))
        text = read_text(path)
        if text is None and handle in self.missing():
            raise damaged(path, "it is missing, and its connection may have money on the chain")
        if text is None:
            raise UnknownHandle(
                f"There is no connection {handle.hex()} on {self.network.name} in {self.basedir}. "
                "`picopayments-cli status` lists those that there are, `picopayments-cli history` those that were "
                "culled, too. If its file is lost, `picopayments-cli wallet restore` asks the hub for it.",
                handle=handle.hex(),
            )
        document = self._parsed(path, text)
        self._kept[handle] = connection_files.kept(path, document)
        return connection_files.without_header(document)

    def load_all(self) -> dict[Handle, dict[str, Any] | PicopaymentsError]:
        """Read the documents of all connections, in the order of their handles.

        In the place of one that is missing or can't be used stands why: OldProtocol, StoreDamaged, StoreNewer,
        StoreUnusable.
        """
        found: dict[Handle, dict[str, Any] | PicopaymentsError] = {}
        for handle in sorted((*self.handles(), *self.missing())):
            try:
                found[handle] = self.load(handle)
            except (OldProtocol, LocalFiles) as error:
                found[handle] = error
        return found

    def has(self, handle: Handle) -> bool:
        """Tell whether a connection, or a request for one, has this handle here or in the archive."""
        path = self._path(handle)
        with usable(path):
            return any(os.path.lexists(folder / path.name) for folder in (self.folder, self.archived.path))

    def save(
        self,
        handle: Handle,
        document: dict[str, Any],
        label: str,
        actions: Sequence[Action] = (),
        rows: Sequence[Row] = (),
    ) -> None:
        """Write a connection's document, and add rows to it, on disk when this returns: both count, or none.

        Every durable change takes this door; ``label`` names the occasion, for the log and for tests that stand here.
        ``actions`` go into the history together with the change, or not at all: the document carries them until its
        next change, and before that they are put into the history's file. Those that are about payments get their
        index with it. The members ``format``, ``version``, ``network``, ``changes``, ``events``, ``event_count``,
        ``rows`` and ``rows_size`` are the store's own. A file that is damaged, older or newer is not overwritten.
        Raises StoreUnusable, StoreDamaged, StoreNewer, OldProtocol.
        """
        if not connection_files.HEADER.isdisjoint(document):
            raise ValueError(f"a document has no members named {', '.join(sorted(connection_files.HEADER))}")
        path = self._path(handle)
        before = self._moved_events(handle)
        size = self._add_rows(handle, rows)
        events = events_of(handle, actions, before)
        count, changes = before + len(events), self._kept.get(handle, Kept()).changes + 1
        header = {
            "format": connection_files.FORMAT,
            "version": connection_files.VERSION,
            "network": self.network.name,
            "changes": changes,
        }
        whole = {**header, **document, "rows_size": size, "event_count": count, "events": events}
        self._disk.check()
        self.payments.add(entries_of(events, {name: document[name] for name in _ASSET if name in document}))
        self._disk.write(path, json.dumps(whole, allow_nan=False, separators=(",", ":")) + "\n", label)
        self.payments.keep()
        self._kept[handle] = Kept(count, events, size, changes)

    def _add_rows(self, handle: Handle, rows: Sequence[Row]) -> int:
        """Write rows behind those that the document counts; the bytes that it counts from now on."""
        size = self._kept.get(handle, Kept()).size
        data = b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)
        if data:
            self._disk.append(connection_files.rows_path(self._path(handle)), data, size)
        return size + len(data)

    def remove(self, handle: Handle) -> None:
        """Remove a connection's document and rows, if they are there. Its history stays. Raises as ``save``."""
        path = self._path(handle)
        self._disk.check()
        self._moved_events(handle)
        self._disk.remove(path, connection_files.rows_path(path))
        self._kept.pop(handle, None)
        self.listed.strike(handle)

    def set_aside(self, handle: Handle) -> None:
        """Rename the files of a connection that can't be used, in whose place others are written. Raises as ``save``.

        Their names end in ``.damaged``, or ``.damaged`` and a number. The events in them are kept where they can be.
        """
        self._disk.check()
        with suppress(StoreDamaged):
            self._moved_events(handle)
        path = self._path(handle)
        with usable(path):
            for name in (connection_files.rows_path(path), path):
                if name.exists():
                    name.rename(_unused(name))
            flush_folder(path.parent)
        self._kept.pop(handle, None)

    def archive(self, handle: Handle) -> None:
        """Move a connection's document and rows into the archive, the rows first. Raises as ``load`` and ``save``."""
        self.load(handle)
        self.archived.put(self._path(handle))
        self.remove(handle)

    # History -------------------------------------------------------------------------------------------------------

    def history(self, about: str = "") -> list[Event]:
        """Read the events of all connections, in no order; one may occur twice. Raises StoreDamaged, StoreUnusable.

        A connection whose file can't be used leaves out its last events, which stand in that file.

        ``about``: a text; a line of the file without it is left out, and only its ends are looked at, which is faster.
        """
        found: list[Event] = []
        text = about.encode()
        with usable(self.history_path):
            data = self.history_path.read_bytes() if self.history_path.exists() else b""
        lines = data[: data.rfind(b"\n") + 1].splitlines()  # what follows was cut off: a document has it still
        for number, line in enumerate(lines, 1):
            if text not in line and line.startswith(b"{") and line.endswith(b"}"):
                continue
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
            if not connection_files.is_event(event):
                raise damaged(self.history_path, f"line {number} is no event")
            found.append(event)
        for handle in self.handles():
            with suppress(OldProtocol, LocalFiles):
                self._load(handle)
                found += self._kept[handle].events
        return found

    def _moved_events(self, handle: Handle) -> int:
        """Move a document's events to the history's file, and count all that the connection has had."""
        if handle not in self._kept:
            if not self._path(handle).exists():
                return self._lost_events(handle) if handle in self.listed.all() else 0
            self._load(handle)
        kept = self._kept[handle]
        if kept.events:
            lines = "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in kept.events)
            self._disk.append(self.history_path, lines.encode(), None)
        return kept.count

    def _lost_events(self, handle: Handle) -> int:
        """Count the events of a connection whose document is lost, as far as other files tell: none is used again."""
        name, numbers = handle.hex(), [-1]
        numbers += [entry["number"] for entry in self.payments.newest(about=name) if entry["handle"] == name]
        with suppress(StoreDamaged):
            numbers += [event["number"] for event in self.history(about=name) if event["handle"] == name]
        return max(numbers) + 1

    # Payments by their index ---------------------------------------------------------------------------------------

    def _counts(self, entry: Entry) -> bool:
        """Tell whether the event of a payment is in its connection's document, or was before that was taken away."""
        for folder in (self.folder, self.archived.path):
            path = folder / f"{entry['handle']}.json"
            text = read_text(path) if connection_files.is_connection(path.name) else None
            if text is not None:
                with suppress(PicopaymentsError):
                    return connection_files.kept(path, self._parsed(path, text)).count > int(entry["number"])
        return True

    def skip_indexes(self) -> None:
        """Have payments go on at an index that no lost file can have used: the milliseconds of now.

        A script that goes on behind the last index that it has seen would miss what got a used one. Raises as
        ``Notes.save_reported``.
        """
        last = self.payments.last
        reported = self.notes.reported()
        self.notes.save_reported(Reported(max(last, int(time.time() * 1000)), tuple(reported.waiting(last))))
        self.payments.forget()

    def _path(self, handle: Handle) -> Path:
        return self.folder / f"{handle.hex()}.json"

    def _files(self) -> list[Path]:
        return connection_files.connections_in(self.folder)

    def _parsed(self, path: Path, text: str) -> dict[str, Any]:
        return connection_files.parse(path, text, self.network, self.wif_path.name)


def _unused(path: Path) -> Path:
    """Find a name for a file that is set aside. Raises OSError."""
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while os.path.lexists(aside):
        number, aside = number + 1, path.with_name(f"{path.name}.damaged{number + 1}")
    return aside
