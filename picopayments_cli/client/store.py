"""Keep the client's files, private and whole, for one writer at a time: the wallet's key and a document per connection.

In the basedir stand ``<network>.wallet`` (older: ``<network>.wif``), ``<network>.connections/<handle>.json``,
``<network>.hubs`` (the hubs' public keys), ``<network>.history.jsonl`` (past events, one a line),
``<network>.archive/`` (connections that are over and put aside), ``<network>.payments.jsonl`` (what became of
payments, see ``payments``), ``<network>.reported`` (which of them commands have reported), ``<network>.rate`` (the last
fee rate that a chain estimated), ``<network>.sent`` (the wallet's transactions that hold its coins yet),
``<network>.coins`` (the wallet as it was seen last), ``<network>.seen`` (what the last look at the chain showed),
``<network>.listed`` (connections that may have money on the chain, see ``listed``) and ``<network>.lock``. Nothing is
written before the first save, except the lock's file and the folder it stands in.

All that grows with a connection's age stands beside its document, in ``<handle>.commits.jsonl``: rows that are only
added to. They are on disk before the document, which says how many bytes of them count (``rows_size``): lines behind
those are of a save that was cut off, and the next one writes over them.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from picopayments_cli.channel.networks import Network
from picopayments_cli.channel.past import Own
from picopayments_cli.channel.values import Handle
from picopayments_cli.client import connection_files, key_file, kinds, listed
from picopayments_cli.client.connection_files import Kept, Row
from picopayments_cli.client.history import Action, Event, events_of
from picopayments_cli.client.key_file import KeyFile
from picopayments_cli.client.listed import Listed
from picopayments_cli.client.payments import Entry, PaymentLog, Reported, entries_of
from picopayments_cli.client.restore_marks import have_asked
from picopayments_cli.config import connections_folder, settings_file
from picopayments_cli.errors import (
    LocalFiles,
    OldProtocol,
    PicopaymentsError,
    StoreDamaged,
    StoreLocked,
    StoreUnusable,
    UnknownHandle,
)
from picopayments_cli.files import (
    append_lines,
    check_own,
    check_private,
    damaged,
    flush_folder,
    read_text,
    remove_file,
    replace_file,
    usable,
)

LOCK_WAIT = 60.0
_ASSET = ("asset", "asset_longname")
_log = logging.getLogger(__name__)


class Store:
    """The files of one network in one folder; everything but its making happens inside ``with store:``.

    ``begins``: whether a folder that is not there is made. Raises StoreLocked where another process holds the lock
    for longer than ``lock_wait`` seconds, and StoreUnusable where a file can't be read or written, or can be read by
    others.
    """

    def __init__(self, basedir: Path, network: Network, lock_wait: float = LOCK_WAIT, *, begins: bool = True) -> None:
        self.basedir = basedir
        self.network = network
        self.wallet_path = basedir / f"{network.name}.wallet"
        self.wif_path = basedir / f"{network.name}.wif"  # of an older wallet
        self.folder = connections_folder(network, basedir)
        self.archive_folder = basedir / f"{network.name}.archive"
        self.hubs_path = basedir / f"{network.name}.hubs"
        self.rate_path = basedir / f"{network.name}.rate"
        self.sent_path = basedir / f"{network.name}.sent"
        self.coins_path = basedir / f"{network.name}.coins"
        self.seen_path = basedir / f"{network.name}.seen"
        self.history_path = basedir / f"{network.name}.history.jsonl"
        self.payments_path = basedir / f"{network.name}.payments.jsonl"
        self.reported_path = basedir / f"{network.name}.reported"
        self.listed_path = basedir / f"{network.name}.listed"
        self.payments = PaymentLog(self.payments_path, self._counts, lambda: self.reported().upto, self._append)
        self._lock_wait = lock_wait
        self._begins = begins
        self._lock = FileLock(basedir / f"{network.name}.lock", mode=0o600, fallback_to_soft=False)
        self._locked: tuple[int, int] | None = None  # which file the lock was, when it was taken
        self._kept: dict[Handle, Kept] = {}  # of files known to be ours, since the lock was taken
        self._listed: dict[Handle, Listed] | None = None  # as they were read since then

    def __enter__(self) -> Store:
        with usable(self.basedir):
            if self._begins:
                self.basedir.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif not self.basedir.is_dir():
                raise _moved(self.basedir)
            check_own(self.basedir)
            found = _identity(self.basedir)
        _log.debug("wait for the lock of %s", self.basedir)
        with usable(Path(self._lock.lock_file)):
            self._acquire()
            self._locked = _identity(Path(self._lock.lock_file))
        try:
            with usable(self.basedir):
                if _identity(self.basedir) != found:  # another folder stands there, which the lock may have made
                    raise _moved(self.basedir)
            self._check_modes()
        except BaseException:
            self._lock.release()
            if not self._begins:
                _unmake(self.basedir, Path(self._lock.lock_file))
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.clear()
        self._listed = None
        self.payments.forget()
        self._lock.release()

    def _acquire(self) -> None:
        try:
            self._lock.acquire(timeout=self._lock_wait)
        except Timeout:
            raise StoreLocked(
                f"Another process has been using {self.basedir} for {self._lock_wait:g} seconds. Wait until it is "
                "done, or stop it, and run the command again.",
                basedir=str(self.basedir),
                seconds=self._lock_wait,
            ) from None

    def _check_lock(self) -> None:
        """Refuse to write without the lock. Raises RuntimeError, StoreUnusable if its file was removed meanwhile."""
        if not self._lock.is_locked:
            raise RuntimeError("the store is written inside `with store:` only")
        path = Path(self._lock.lock_file)
        with usable(path):
            found = _identity(path)
        if found is None or found != self._locked:
            raise StoreUnusable(
                f"{path} was taken away while it was in use, and another process may write here now: nothing more was "
                "written. See that all files are there, and run the command again.",
                path=str(path),
            )

    def _check_modes(self) -> None:
        """Refuse what concerns all connections; a connection's own files are looked at when it is read."""
        folders, wallet = (self.folder, self.archive_folder), (self.wallet_path, self.wif_path)
        kept = (self.hubs_path, self.rate_path, self.sent_path, self.coins_path, self.payments_path, self.reported_path)
        for path in (*wallet, *folders, self.history_path, self.listed_path, *kept):
            with usable(path):
                check_private(path)

    # The wallet's key ----------------------------------------------------------------------------------------------

    def load_wallet(self) -> KeyFile | None:
        """Read the wallet's key file; None if there is none yet. Raises StoreDamaged, StoreNewer.

        They are raised where there is none any more, too: a new key could not settle what the old one has signed.
        """
        found = self.wallet_here()
        others = (self.archive_folder, self.history_path, self.listed_path)
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
        self._write(self.wallet_path, wallet.text(), label, check=check)
        if self.wif_path.exists():
            with usable(self.wif_path):
                remove_file(self.wif_path)
                flush_folder(self.basedir)

    def save_settings(self, settings: dict[str, Any]) -> None:
        """Write the network's settings file. Raises StoreUnusable."""
        text = json.dumps(settings, indent=2, allow_nan=False) + "\n"
        self._write(settings_file(self.network, self.basedir), text, "settings")

    # Connections ---------------------------------------------------------------------------------------------------

    def handles(self) -> list[Handle]:
        """List the handles of all connections whose files are here, in order."""
        return [Handle(bytes.fromhex(path.stem)) for path in self._files()]

    def missing(self) -> list[Handle]:
        """List the handles of connections that may have money on the chain, and whose files are lost."""
        return [handle for handle in self.listed() if not self.has(handle)]

    def all_handles(self) -> list[Handle]:
        """List the handles of all connections, those that are missing or in the archive, too."""
        return [
            *self.handles(),
            *self.missing(),
            *(Handle(bytes.fromhex(path.stem)) for path in connection_files.connections_in(self.archive_folder)),
        ]

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
            return any(os.path.lexists(folder / path.name) for folder in (self.folder, self.archive_folder))

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
        self._check_lock()
        self.payments.add(entries_of(events, {name: document[name] for name in _ASSET if name in document}))
        self._write(path, json.dumps(whole, allow_nan=False, separators=(",", ":")) + "\n", label)
        self.payments.keep()
        self._kept[handle] = Kept(count, events, size, changes)

    def _add_rows(self, handle: Handle, rows: Sequence[Row]) -> int:
        """Write rows behind those that the document counts; the bytes that it counts from now on."""
        size = self._kept.get(handle, Kept()).size
        data = b"".join(json.dumps(row, separators=(",", ":")).encode() + b"\n" for row in rows)
        if data:
            self._check_lock()
            path = connection_files.rows_path(self._path(handle))
            with usable(path):
                self._make_folder(path)
                self._append(path, data, size)
        return size + len(data)

    def remove(self, handle: Handle) -> None:
        """Remove a connection's document and rows, if they are there. Its history stays. Raises as ``save``."""
        path = self._path(handle)
        self._check_lock()
        self._moved_events(handle)
        with usable(path):
            if path.exists():
                remove_file(path)
                flush_folder(path.parent)
            remove_file(connection_files.rows_path(path))
        self._kept.pop(handle, None)
        self.strike(handle)

    def set_aside(self, handle: Handle) -> None:
        """Rename the files of a connection that can't be used, in whose place others are written. Raises as ``save``.

        Their names end in ``.damaged``, or ``.damaged`` and a number. The events in them are kept where they can be.
        """
        self._check_lock()
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
        path = self._path(handle)
        rows = connection_files.rows_path(path)
        if rows.exists():
            self._write(self.archive_folder / rows.name, read_text(rows) or "", "archived")
        self._write(self.archive_folder / path.name, read_text(path) or "", "archived")
        self.remove(handle)

    def archived(self) -> dict[Handle, dict[str, Any]]:
        """Read the documents in the archive, in the order of their handles. Raises StoreDamaged, StoreNewer.

        Those of protocol 2 are left out: they are over.
        """
        found = {}
        for path in connection_files.connections_in(self.archive_folder):
            try:
                document = self._parsed(path, read_text(path) or "")
            except OldProtocol:
                continue
            rows = connection_files.read_rows(path, connection_files.kept(path, document).size)
            found[Handle(bytes.fromhex(path.stem))] = {**connection_files.without_header(document), "rows": rows}
        return found

    # The list of connections ---------------------------------------------------------------------------------------

    def listed(self) -> Mapping[Handle, Listed]:
        """Read which connections may have money on the chain. Raises StoreUnusable.

        Where the list can't be read, the hub is asked for all: the next write puts a whole one in its place.
        """
        if self._listed is None:
            try:
                self._listed = listed.parse(read_text(self.listed_path) or "{}")
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError, PicopaymentsError) as error:
                if isinstance(error, StoreUnusable):
                    raise
                _log.warning("%s can't be used: the hub is asked which connections there are", self.listed_path)
                have_asked(self.basedir, self.network)
                self._listed = {}
        return self._listed

    def enlist(self, found: Mapping[Handle, Listed]) -> None:
        """List connections before their money leaves. Raises StoreUnusable."""
        self._relist({**self.listed(), **found})

    def strike(self, handle: Handle) -> None:
        """Take a connection off the list that is over, or was put into the archive. Raises StoreUnusable."""
        self._relist({name: item for name, item in self.listed().items() if name != handle})

    def _relist(self, after: dict[Handle, Listed]) -> None:
        if after != self.listed():
            self._write(self.listed_path, listed.written(after), "listed")
            self._listed = after

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
                return self._lost_events(handle) if handle in self.listed() else 0
            self._load(handle)
        kept = self._kept[handle]
        if kept.events:
            lines = "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in kept.events)
            with usable(self.history_path):
                self._append(self.history_path, lines.encode(), None)
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
        for folder in (self.folder, self.archive_folder):
            path = folder / f"{entry['handle']}.json"
            text = read_text(path) if connection_files.is_connection(path.name) else None
            if text is not None:
                with suppress(PicopaymentsError):
                    return connection_files.kept(path, self._parsed(path, text)).count > int(entry["number"])
        return True

    def reported(self) -> Reported:
        """Read which payments commands have reported. Raises StoreDamaged."""
        text = read_text(self.reported_path)
        try:
            if text is None:
                return Reported()
            found = kinds.members(json.loads(text))
            return Reported(kinds.whole(found["upto"]), tuple(map(kinds.whole, kinds.items(found["left"]))))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise damaged(self.reported_path, "it does not tell which payments were reported") from None

    def save_reported(self, reported: Reported) -> None:
        """Write which payments commands have reported. Raises StoreUnusable."""
        self._write(self.reported_path, json.dumps({"upto": reported.upto, "left": reported.left}) + "\n", "reported")

    def skip_indexes(self) -> None:
        """Have payments go on at an index that no lost file can have used: the milliseconds of now.

        A script that goes on behind the last index that it has seen would miss what got a used one. Raises as
        ``save_reported``.
        """
        last = self.payments.last
        self.save_reported(Reported(max(last, int(time.time() * 1000)), tuple(self.reported().waiting(last))))
        self.payments.forget()

    # The last fee rate ----------------------------------------------------------------------------------------------

    def last_rate(self) -> int | None:
        """Read the last fee rate (sat/vB) that a chain estimated; None if there is none, or it can't be read."""
        try:
            text = (read_text(self.rate_path) or "").strip()
        except LocalFiles:
            return None
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None

    def save_rate(self, rate: int) -> None:
        """Write the fee rate that a chain estimates, for the time when it has none."""
        self._remember(self.rate_path, f"{rate}\n", "fee rate")

    # The last look at the chain -------------------------------------------------------------------------------------

    def last_look(self) -> dict[str, Any]:
        """Read what the last look at the chain showed; nothing where that can't be read, as it is only for showing."""
        try:
            found = json.loads(read_text(self.seen_path) or "{}")
        except (LocalFiles, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def save_last_look(self, told: dict[str, Any]) -> None:
        """Write what this look at the chain showed. It may be lost with the power."""
        self._remember(self.seen_path, json.dumps(told) + "\n", "last look", flush=False)

    # The wallet's own transactions ---------------------------------------------------------------------------------

    def sent(self) -> list[Own]:
        """Read the wallet's transactions that hold its coins yet. Raises StoreDamaged."""
        text = read_text(self.sent_path)
        try:
            return [] if text is None else [kinds.own_transaction(item) for item in kinds.items(json.loads(text))]
        except (TypeError, ValueError, RecursionError):
            raise damaged(self.sent_path, "it does not list transactions") from None

    def save_sent(self, sent: Sequence[Own]) -> None:
        """Write the wallet's transactions that hold its coins yet. Raises StoreUnusable."""
        items = [[item.raw.hex(), item.height, item.missing] for item in sent]
        self._write(self.sent_path, json.dumps(items) + "\n", "sent")

    def load_coins(self) -> dict[str, Any]:
        """Read how the wallet was seen last; empty where it never was. Raises StoreDamaged."""
        text = read_text(self.coins_path)
        try:
            return {} if text is None else kinds.members(json.loads(text))
        except (TypeError, ValueError, RecursionError):
            raise damaged(self.coins_path, "it does not list coins") from None

    def save_coins(self, document: dict[str, Any]) -> None:
        """Write how the wallet is seen. Raises StoreUnusable."""
        self._write(self.coins_path, json.dumps(document) + "\n", "wallet seen")

    # Hubs ----------------------------------------------------------------------------------------------------------

    def hub_keys(self) -> dict[str, str]:
        """Read the public key (hex) that each hub's URL is bound to. Raises StoreDamaged."""
        text = read_text(self.hubs_path)
        try:
            keys = json.loads(text) if text is not None else {}
        except ValueError:
            raise damaged(self.hubs_path, "it is not JSON") from None
        if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys.values()):
            raise damaged(self.hubs_path, "it does not map URLs to keys")
        return keys

    def save_hub_key(self, url: str, key: str) -> None:
        """Bind a hub's URL to its public key (hex). Raises StoreUnusable, StoreDamaged."""
        self._write(self.hubs_path, json.dumps({**self.hub_keys(), url: key}, indent=2) + "\n", "hub key")

    def _path(self, handle: Handle) -> Path:
        return self.folder / f"{handle.hex()}.json"

    def _files(self) -> list[Path]:
        return connection_files.connections_in(self.folder)

    def _parsed(self, path: Path, text: str) -> dict[str, Any]:
        return connection_files.parse(path, text, self.network, self.wif_path.name)

    def _write(
        self, path: Path, text: str, label: str, *, flush: bool = True, check: Callable[[bytes], object] | None = None
    ) -> None:
        self._check_lock()
        _log.debug("write %s: %s", path.name, label)
        with usable(path):
            self._make_folder(path)
            replace_file(path, text.encode(), flush=flush, check=check)

    def _remember(self, path: Path, text: str, label: str, *, flush: bool = True) -> None:
        """Write what can be done without: a full disk costs no command its result."""
        try:
            self._write(path, text, label, flush=flush)
        except LocalFiles as error:
            _log.warning("The %s was not written down: %s", label, error.message)

    def _append(self, path: Path, data: bytes, size: int | None) -> int:
        """Add lines to a file, as ``append_lines`` does. Raises OSError."""
        return append_lines(path, data, size)

    def _make_folder(self, path: Path) -> None:
        """Make the folder that a file stands in. Raises OSError."""
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700)
            flush_folder(path.parent.parent)


def _unused(path: Path) -> Path:
    """Find a name for a file that is set aside. Raises OSError."""
    number, aside = 1, path.with_name(f"{path.name}.damaged")
    while os.path.lexists(aside):
        number, aside = number + 1, path.with_name(f"{path.name}.damaged{number + 1}")
    return aside


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell which file or folder stands there, whatever its name; None if there is none. Raises OSError."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _unmake(basedir: Path, lock: Path) -> None:
    """Take away a folder in which there is nothing but a lock: taking that made both in the place of one that moved."""
    with suppress(OSError):
        if os.listdir(basedir) == [lock.name]:
            lock.unlink()
            basedir.rmdir()


def _moved(basedir: Path) -> StoreUnusable:
    return StoreUnusable(
        f"{basedir} was taken away while it was in use. Nothing was done: put it back, and run the command again.",
        path=str(basedir),
    )
