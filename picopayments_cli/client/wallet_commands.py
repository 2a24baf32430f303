"""The commands that make, show, import, export and restore a wallet, and encrypt its file.

The wallet's file is changed in one step: a command that is killed leaves the old one or the new one, and a wrong
passphrase changes nothing.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any

from picopayments_cli.client import asking, key_file, lost
from picopayments_cli.client.key_file import WORDS, KeyFile
from picopayments_cli.client.mnemonics import COUNT
from picopayments_cli.client.restore_marks import check_restored
from picopayments_cli.client.session import Session
from picopayments_cli.client.store import Store
from picopayments_cli.errors import (
    InvalidKey,
    OldProtocol,
    StoreDamaged,
    StoreNewer,
    StoreUnusable,
    WalletEncrypted,
    WalletNotEncrypted,
    WrongWallet,
)

log = logging.getLogger(__name__)
NO_CONNECTIONS = (
    "No connection is here. If this wallet has any elsewhere, `picopayments-cli sync` has the hub give them back."
)


def here(session: Session) -> KeyFile:
    """Read the wallet's file: what only looks makes no wallet. Raises WalletMissing, StoreDamaged."""
    return _there(session.store.load_wallet(), session)


def check_begun(session: Session) -> None:
    """Refuse a folder in which nothing was begun, before its lock is taken. Raises WalletMissing, RestoreUnfinished.

    A wrong --basedir or network leads there: a look at nothing must not seem to have gone well. Whatever is wrong with
    a wallet that was there, the command finds out itself.
    """
    basedir, network = session.settings.basedir, session.network
    check_restored(basedir, network)
    with suppress(StoreDamaged, StoreNewer):
        _there(Store(basedir, network).load_wallet(), session)


def wallet_new(session: Session, words: int = COUNT) -> dict[str, Any]:
    """Make a wallet of new words, and tell them. Raises WalletExists."""
    here = session.store.load_wallet()
    if here is not None:
        raise key_file.taken(session.store.basedir, here)
    file = KeyFile.drawn(session.network, words)
    session.store.save_wallet(file)
    log.warning("Write the words down, and show them to nobody: they are the wallet, on this machine or another.")
    return {"address": file.address, "words": file.secret}


def wallet_show(session: Session) -> dict[str, Any]:
    """The wallet's address and kind, whether its file is encrypted, and whether it has words. Raises WalletMissing."""
    return _shown(here(session))


def wallet_import(session: Session, wif: str) -> dict[str, Any]:
    """Take in a key as a wallet. Raises InvalidKey, WalletExists, WrongWallet."""
    if not wif.strip():
        raise InvalidKey("Nothing came on standard input: write the wallet's key there, in wallet import format (WIF).")
    file = _put(session, KeyFile.of_wif(session.network, wif))
    if not session.store.handles():
        log.warning(NO_CONNECTIONS)
    return _shown(file)


def wallet_export(session: Session) -> dict[str, Any]:
    """The wallet's key as Electrum writes it, and its words where it comes from words. Raises WrongPassphrase."""
    session.home.unlock()
    file = here(session)
    secret = session.home.unlocker.secret(file)
    log.warning("This is the wallet itself: who sees it can take all that it holds. Keep it on paper, not in files.")
    told = {"address": file.address, "kind": file.kind, "wif": file.wif_of(secret)}
    return told | ({"words": secret} if file.holds == WORDS else {})


def wallet_restore(session: Session, words: str) -> dict[str, Any]:
    """Make the wallet of these words anew, and take back its connections from the hub; its address, their handles.

    Raises InvalidWords, WalletExists, WrongWallet, and with the result what kept the hub from being asked, or
    StoreDamaged where a connection that should be here has not come back.
    """
    file = _put(session, KeyFile.of_words(session.network, words))
    session.home.unlock()
    if session.settings.hub_url is None:
        log.warning("No hub is set, and none was asked for connections: set hub_url, and run `picopayments-cli sync`.")
    unasked = lost.take_back(session, always=True)
    _tell_of_other_hubs(session)
    connections = [handle.hex() for handle in session.store.handles()]
    result = {"address": file.address, "connections": connections}
    unusable = (error for error in session.unusable.values() if not isinstance(error, OldProtocol))
    failure = unasked or next(unusable, None)
    if failure is not None:
        failure.result = result
        raise failure
    return result


def _tell_of_other_hubs(session: Session) -> None:
    """Say that a hub of which nothing here tells was not asked: the words alone name none."""
    if session.settings.hub_url is not None and len(asking.known(session)) < 2:
        log.warning(
            "Only the hub %s was asked. If this wallet has connections with other hubs, name each of them: "
            "`picopayments-cli --hub-url URL sync`.",
            session.settings.hub_url,
        )


def wallet_encrypt(session: Session) -> dict[str, Any]:
    """Encrypt the wallet's file under a new passphrase. Raises WalletEncrypted."""
    before = _peeked(session)
    if before.secret is None:
        raise WalletEncrypted(
            "The wallet is encrypted already. `picopayments-cli wallet passphrase` gives it another passphrase.",
            address=before.address,
        )
    passphrase = session.home.unlocker.new_passphrase(before.address, change=False)
    log.warning("Nobody can replace a passphrase that is forgotten: see that the wallet's words are on paper.")
    return _change(session, before, before.sealed_under(passphrase, before.secret), passphrase)


def wallet_decrypt(session: Session) -> dict[str, Any]:
    """Take the passphrase off the wallet's file. Raises WrongPassphrase, WalletNotEncrypted."""
    before = _encrypted(session)
    return _change(session, before, before.in_clear(session.home.unlocker.secret(before)), "")


def wallet_passphrase(session: Session) -> dict[str, Any]:
    """Give the wallet's file another passphrase. Raises WrongPassphrase, WalletNotEncrypted."""
    before = _encrypted(session)
    secret = session.home.unlocker.secret(before)
    passphrase = session.home.unlocker.new_passphrase(before.address, change=True)
    return _change(session, before, before.sealed_under(passphrase, secret), passphrase)


def _shown(file: KeyFile) -> dict[str, Any]:
    encrypted, has_words = file.secret is None, file.holds == WORDS
    return {"address": file.address, "kind": file.kind, "encrypted": encrypted, "has_words": has_words}


def _peeked(session: Session) -> KeyFile:
    """Read the wallet's file without the lock, which nobody is to hold while somebody types. Raises WalletMissing."""
    return _there(Store(session.settings.basedir, session.network).wallet_here(), session)


def _there(file: KeyFile | None, session: Session) -> KeyFile:
    if file is None:
        raise key_file.missing(session.settings.basedir, session.network)
    return file


def _encrypted(session: Session) -> KeyFile:
    """Read a file that is encrypted. Raises WalletNotEncrypted, WalletMissing."""
    file = _peeked(session)
    if file.secret is not None:
        raise WalletNotEncrypted(
            "The wallet is not encrypted. `picopayments-cli wallet encrypt` does that.", address=file.address
        )
    return file


def _put(session: Session, file: KeyFile) -> KeyFile:
    """See that a wallet is on disk; one that is there already stays as it is. Raises WalletExists, WrongWallet.

    The words of a wallet take its passphrase off: who has them has all, and a passphrase may be forgotten.
    """
    here = session.store.wallet_here()
    if here is not None and here.name == file.name:
        if here.secret is not None or file.holds != WORDS:
            return here
        _write(session, here, file, "", file.secret or "")
        log.warning("The wallet's file is not encrypted any more: `picopayments-cli wallet encrypt` encrypts it.")
        return file
    listed = session.store.listed.address()
    if listed not in (None, file.address):
        raise WrongWallet(
            f"The connections that were in {session.store.basedir} are of the wallet {listed}, and this is "
            f"{file.address}. Nothing was changed: use that one's words or key, or name another --basedir.",
            address=file.address,
            listed=listed,
        )
    key = file.key_of(session.home.unlocker.secret(file))
    for item in session.connections().values():
        if item.secrets(key).payer.xonly != item.duplex.sending.contract.deposit.payer:
            raise WrongWallet(
                f"The connection {item.handle.hex()} here is of another wallet. Nothing was changed: use that one's "
                "words or key, or name another --basedir.",
                handle=item.handle.hex(),
                address=file.address,
            )
    session.store.save_wallet(file)
    return file


def _change(session: Session, before: KeyFile, after: KeyFile, passphrase: str) -> dict[str, Any]:
    """Write the wallet's file anew, as ``_write`` does, and show it. Raises StoreUnusable."""
    _write(session, before, after, passphrase, session.home.unlocker.secret(before))
    return _shown(after)


def _write(session: Session, before: KeyFile, after: KeyFile, passphrase: str, secret: str) -> None:
    """Put a file in another's place, once what was written opens to that secret. Raises StoreUnusable."""
    store = session.store

    def check(data: bytes) -> None:
        written = key_file.parse(store.wallet_path, session.network, data.decode())
        if (written.unsealed(passphrase) if written.secret is None else written.secret) != secret:
            raise StoreUnusable("The new file could not be read again. The old one stays.", path=str(store.wallet_path))

    if store.load_wallet() != before:
        raise StoreUnusable(
            f"Another process has changed {store.wallet_path} meanwhile. Nothing was changed: run the command again.",
            path=str(store.wallet_path),
        )
    store.save_wallet(after, "encryption", check)
