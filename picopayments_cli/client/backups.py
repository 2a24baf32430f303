"""Makes a backup of the client's files, reads one through, and restores one into an empty folder.

A backup may be older than the last sync: a hash handed out again, or a commit published though it was given back, could
cost what was paid since. So a restored connection is stopped at once. It goes on only where the hub keeps its newest
state and has signed that it is. Else it closes: it asks the hub before it signs, and publishes a commit alone at its
deadline only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from picopayments_cli.channel.stages import AGREED, ASKED, CLOSED, CLOSING
from picopayments_cli.channel.values import Handle
from picopayments_cli.client import history, kinds
from picopayments_cli.client.backup_file import (
    Content,
    Files,
    documents,
    files_in,
    names_in,
    now,
    owner_of,
    read,
    rows_of,
    write,
)
from picopayments_cli.client.document import from_document
from picopayments_cli.client.key_file import P2PKH, P2WPKH, KeyFile
from picopayments_cli.client.restore_marks import have_asked, is_unfinished, marked
from picopayments_cli.client.session import Session
from picopayments_cli.client.store import Store
from picopayments_cli.client.wallet import Wallet
from picopayments_cli.errors import (
    BackupDamaged,
    FolderNotEmpty,
    ForeignBackup,
    InvalidWords,
    PicopaymentsError,
    WalletMissing,
)
from picopayments_cli.files import flush_folder, remove_file, replace_file, usable

log = logging.getLogger(__name__)
_DAMAGES = (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, PicopaymentsError)


# Making one ---------------------------------------------------------------------------------------------------------


def back_up(session: Session, path: Path) -> dict[str, Any]:
    """Write a backup of all files, in the place of an older one; what it has in it.

    Raises as ``backup_file.write``, and WalletMissing.
    """
    store, network = session.store, session.network
    if store.load_wallet() is None:
        raise WalletMissing(
            f"There is no wallet of {network.name} in {store.basedir}: name the network and the --basedir that have "
            "it. Nothing was written.",
            basedir=str(store.basedir),
        )
    for handle, error in session.unusable.items():
        log.warning("the connection %s goes into the backup as it is: %s", handle.hex(), error.message)
    write(path, network, session.wallet, files_in(store.basedir, network))
    return _shown(session, path, read(path, network, owner_of(network, session.wallet)))


# Reading one --------------------------------------------------------------------------------------------------------


def verify(session: Session, path: Path) -> dict[str, Any]:
    """Read a backup through, and check all that is in it; what it has in it. Changes nothing.

    Raises BackupDamaged, ForeignBackup, StoreNewer, StoreUnusable.
    """
    content, _ = _opened(session, path)
    if content.broken is not None:
        raise BackupDamaged(
            f"{content.broken.message} Its part up to {content.time} is whole: `picopayments-cli restore FILE` takes "
            "that.",
            path=str(path),
            whole_until=content.time,
        )
    _check(session, path, content.files)
    return _shown(session, path, content)


def _opened(session: Session, path: Path) -> tuple[Content, Wallet]:
    """Open a backup with the wallet that is in the folder, else with the words or the key that somebody gives.

    Raises InvalidWords, InvalidKey, and as ``backup_file.read``.
    """
    with usable(path):
        path.stat()  # before somebody types words for a file that is not there
    if Store(session.settings.basedir, session.network).wallet_here() is not None:
        return _opened_here(session, path), session.wallet
    given = session.read_key().strip()
    if not given:
        raise InvalidWords("Nothing came on standard input: write the wallet's words there, or its key.", count=0)
    if len(given.split()) > 1:
        files = [KeyFile.of_words(session.network, given)]
    else:  # both kinds of wallets have such keys
        files = [KeyFile.of_wif(session.network, f"{kind}:{given.rpartition(':')[2]}") for kind in (P2WPKH, P2PKH)]
    wallets = [Wallet(file) for file in files]
    content = read(path, session.network, owner_of(session.network, wallets[0]))
    found = next((wallet for wallet in wallets if wallet.address == content.address), None)
    if found is None:
        raise ForeignBackup(
            f"{path} is of the wallet {content.address}, of the same key: give its words, or its key as "
            "`picopayments-cli wallet export` prints it. Nothing was changed.",
            path=str(path),
            address=content.address,
        )
    return content, found


def _opened_here(session: Session, path: Path) -> Content:
    """Open a backup with the wallet that is in the folder: nothing is read from standard input then."""
    try:
        return read(path, session.network, owner_of(session.network, session.wallet))
    except ForeignBackup as error:
        here = session.wallet.address
        error.message += (
            f" It was tried with the wallet {here}, which is in {session.settings.basedir}, and no words or key were "
            "read: to open it with others, name another --basedir, a new one."
        )
        raise


def _check(session: Session, path: Path, files: Files) -> None:
    """Check that each file of a backup is what it should be. Raises BackupDamaged."""
    for archived in (False, True):
        for handle, data in documents(files, session.network, archived=archived).items():
            try:
                _check_document(session, handle, data, rows_of(files, session.network, handle, archived=archived))
            except _DAMAGES as error:
                raise _damaged(path, f"its connection {handle} can't be used ({type(error).__name__})") from None
    for name, data in files.items():
        try:
            for item in data.splitlines() if name.endswith("history.jsonl") or "payments" in name else ():
                kinds.members(json.loads(item))
        except _DAMAGES:
            raise _damaged(path, f"its file {name} has a line that is none of its kind") from None


def _check_document(session: Session, handle: str, data: bytes, rows: bytes) -> None:
    document = kinds.members(json.loads(data))
    if document["network"] != session.network.name:
        raise ValueError("it is of another network")
    size = kinds.whole(document.get("rows_size", 0))
    if size > len(rows):
        raise ValueError("rows are missing")
    if document["stage"] != ASKED:
        lines = [json.loads(line) for line in rows[:size].splitlines()]
        from_document(Handle(bytes.fromhex(handle)), {**document, "rows": lines})


def _damaged(path: Path, why: str) -> BackupDamaged:
    return BackupDamaged(
        f"{path} is not whole: {why}. The folder that it was made of was damaged, too: mend that, or take another "
        "backup. Nothing was changed.",
        path=str(path),
    )


def _shown(session: Session, path: Path, content: Content) -> dict[str, Any]:
    """Show what is in a backup."""
    files = content.files
    live, culled = (documents(files, session.network, archived=archived) for archived in (False, True))
    return {
        "file": str(path),
        "bytes": content.place.size,
        "network": session.network.name,
        "address": content.address,
        "made": content.time,
        "age": max(int((_moment(now()) - _moment(content.time)).total_seconds()), 0),
        "connections": {handle: _connection_shown(data) for handle, data in sorted(live.items())},
        "culled": sorted(culled),
        "payments": files.get(f"{session.network.name}.payments.jsonl", b"").count(b"\n"),
    }


def _connection_shown(data: bytes) -> dict[str, Any]:
    try:
        told: Mapping[str, Any] = kinds.members(json.loads(data))
    except (TypeError, ValueError, RecursionError):
        return {"damaged": True}
    return {name: told.get(name) for name in ("asset", "hub_url", "stage", "changes")}


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)


# Restoring one ------------------------------------------------------------------------------------------------------


def restore(session: Session, path: Path) -> dict[str, Any]:
    """Put a backup into an empty folder; its connections are stopped. Return what was in it.

    Raises FolderNotEmpty, BackupDamaged where nothing of it can be used, ForeignBackup, StoreNewer, StoreUnusable.
    """
    session.home.restores = True
    if session.settings.basedir.exists():
        _check_empty(session)
    content, wallet = _opened(session, path)
    store = session.store
    _check_empty(session)
    with marked(store.basedir, session.network):
        _clear(session)
        if store.wallet_here() is None:
            store.save_wallet(wallet.file, "restored wallet")
        _place(session, content)
        store.listed.forget()
        _stop_all(session)
        store.skip_indexes()
        have_asked(store.basedir, session.network)
    _warn(path, content)
    return _shown(session, path, content)


def _check_empty(session: Session) -> None:
    """Refuse a folder that is in use, unless a restore was cut off there. Raises FolderNotEmpty."""
    store = session.store
    if is_unfinished(store.basedir, session.network):
        return
    own = [name for name in (store.history_path, store.payments_path, store.notes.hubs_path) if name.exists()]
    if store.all_handles() or session.older() or own:
        raise FolderNotEmpty(
            f"{store.basedir} has connections or a history of {session.network.name} already, which a backup would "
            "take the place of: name another --basedir, a new one. Nothing was changed.",
            basedir=str(store.basedir),
        )


def _clear(session: Session) -> None:
    """Remove what a restore that was cut off has written, all but the settings."""
    basedir = session.store.basedir
    with usable(basedir):
        for name in names_in(basedir, session.network):
            if not name.endswith(".cfg"):
                remove_file(basedir / name)


def _place(session: Session, content: Content) -> None:
    """Write the files, on disk when this returns; settings that are there stay. Raises StoreUnusable."""
    basedir = session.store.basedir
    for name, data in content.files.items():
        path = basedir / name
        with usable(path):
            if not path.parent.exists():
                path.parent.mkdir(mode=0o700)
                flush_folder(basedir)
            if not (name.endswith(".cfg") and path.exists()):
                replace_file(path, data)


def _stop_all(session: Session) -> None:
    """Have each connection that goes on do nothing but close. One whose deposit has not left stays as it is."""
    for item in session.connections().values():
        if item.stage != CLOSED or not item.final:
            stopped = replace(item, restored=True, stage=CLOSING if item.stage == AGREED else item.stage)
            told = (history.closing(),) if item.stage == AGREED else ()
            session.save(stopped, "restored", *told)


def _warn(path: Path, content: Content) -> None:
    """Say how old the backup is, and what that means."""
    if content.broken is not None:
        log.warning("%s The parts before that were restored.", content.broken.message)
    log.warning(
        "The backup %s was made at %s. Later payments are not in it, so its connections are stopped: run "
        "`picopayments-cli sync` now. A connection goes on if the hub has its newest state and proves that. Else the "
        "connection closes, at what the hub shows: sync after each block until it is closed. While the hub does not "
        "answer, the connection waits for its deadline. If the folder that was backed up is still there, use that one "
        "instead, and never both.",
        path,
        content.time,
    )
