"""The wallet commands: what they make, what they refuse, and that a kill leaves the old file or the new one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client_support import Life
from regtest_support import REGTEST, NodeProcess

from picopayments_cli import api
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import wif_of_secret
from picopayments_cli.channel.scripts import is_p2wpkh
from picopayments_cli.client import key_file, wallet_commands
from picopayments_cli.client.key_file import KeyFile
from picopayments_cli.client.session import Session
from picopayments_cli.client.store import Store
from picopayments_cli.client.wallet import Unlocker
from picopayments_cli.config import Settings
from picopayments_cli.encryption import Cost
from picopayments_cli.errors import (
    HubUnreachable,
    PassphraseMissing,
    PicopaymentsError,
    StoreDamaged,
    StoreUnusable,
    WalletEncrypted,
    WalletExists,
    WalletMissing,
    WalletNotEncrypted,
    WrongPassphrase,
    WrongWallet,
)

ABOUT = "abandon " * 11 + "about"
KEY = Key(b"\x11" * 32)
WIF = wif_of_secret(REGTEST, KEY.secret)
CHEAP = Cost(1, 1 << 13)


class Typist:
    """Somebody who knows passphrases."""

    def __init__(self, basedir: Path) -> None:
        self.basedir = basedir
        self.old, self.new = "old", "new"

    def run(self, command: Callable[..., Any], *arguments: Any) -> Any:
        """What one command does, in a process of its own."""
        session = Session(Settings(REGTEST, self.basedir))
        session.home.unlocker = Unlocker(lambda _: self.old, lambda _: self.new)
        try:
            return command(session, *arguments)
        finally:
            session.close()

    def refused(self, error: type[PicopaymentsError], command: Callable[..., Any], *arguments: Any) -> None:
        """A command that is refused, shows no secret, and changes no file."""
        before = self.files()
        with pytest.raises(error) as caught:
            self.run(command, *arguments)
        assert self.files() == before
        told = json.dumps(caught.value.as_json())
        assert not any(secret in told for secret in ("abandon about", WIF, KEY.secret.hex()))

    def files(self) -> dict[str, bytes]:
        """All files but the lock."""
        found = self.basedir.iterdir() if self.basedir.exists() else ()
        return {path.name: path.read_bytes() for path in found if path.suffix != ".lock"}

    def file(self) -> KeyFile | None:
        """The wallet's file."""
        return key_file.read(self.basedir / "regtest.wallet", self.basedir / "regtest.wif", REGTEST)

    def put_wif(self, wif: str = WIF) -> None:
        """A wallet of an older version."""
        self.basedir.mkdir(mode=0o700, exist_ok=True)
        (self.basedir / "regtest.wif").write_text(f"{wif}\n")
        (self.basedir / "regtest.wif").chmod(0o600)


@pytest.fixture
def typist(tmp_path: Path) -> Typist:
    """With an empty folder."""
    return Typist(tmp_path / "client")


def test_a_new_wallet_comes_back_from_its_words_and_from_its_key(typist: Typist, tmp_path: Path) -> None:
    made = typist.run(wallet_commands.wallet_new)
    assert set(made) == {"address", "words"}
    assert typist.run(api.address) == made["address"]
    told = typist.run(wallet_commands.wallet_export)
    assert {name: told[name] for name in made} == made
    shown = {"address": made["address"], "kind": "p2wpkh", "encrypted": False}
    assert typist.run(wallet_commands.wallet_show) == {**shown, "has_words": True}
    other, third = Typist(tmp_path / "b"), Typist(tmp_path / "c")
    assert other.run(wallet_commands.wallet_restore, made["words"].upper()) == {
        "address": made["address"],
        "connections": [],
    }
    assert third.run(wallet_commands.wallet_import, told["wif"]) == {**shown, "has_words": False}
    assert "words" not in third.run(wallet_commands.wallet_export)
    files = (typist.file(), other.file(), third.file())
    keys = {file.key_of(file.secret) for file in files if file is not None and file.secret is not None}
    assert len(keys) == 1


def test_no_wallet_takes_the_place_of_another(typist: Typist) -> None:
    for command in (
        wallet_commands.wallet_show,
        wallet_commands.wallet_export,
        wallet_commands.wallet_encrypt,
        wallet_commands.wallet_decrypt,
    ):
        typist.refused(WalletMissing, command)
    typist.run(wallet_commands.wallet_restore, ABOUT)
    typist.refused(WalletExists, wallet_commands.wallet_new)
    typist.refused(WalletExists, wallet_commands.wallet_import, WIF)
    typist.refused(WalletExists, wallet_commands.wallet_restore, "zoo " * 11 + "wrong")
    before = typist.files()
    typist.run(wallet_commands.wallet_restore, ABOUT)  # which goes on where it stopped
    assert typist.files() == before


def test_the_file_is_encrypted_and_decrypted_and_changes_its_passphrase(typist: Typist) -> None:
    typist.run(wallet_commands.wallet_restore, ABOUT)
    typist.refused(WalletNotEncrypted, wallet_commands.wallet_decrypt)
    typist.refused(WalletNotEncrypted, wallet_commands.wallet_passphrase)
    assert typist.run(wallet_commands.wallet_encrypt)["encrypted"]
    assert b"abandon" not in b"".join(typist.files().values())
    typist.refused(WrongPassphrase, wallet_commands.wallet_export)  # the old one is not the new one
    typist.refused(WrongPassphrase, wallet_commands.wallet_passphrase)
    typist.refused(WrongPassphrase, wallet_commands.wallet_decrypt)
    typist.refused(WalletEncrypted, wallet_commands.wallet_encrypt)
    typist.old, typist.new = "new", "newer"
    assert typist.run(wallet_commands.wallet_passphrase)["encrypted"]
    typist.refused(WrongPassphrase, wallet_commands.wallet_decrypt)
    typist.old = "newer"
    assert typist.run(wallet_commands.wallet_export)["words"] == ABOUT
    assert not typist.run(wallet_commands.wallet_decrypt)["encrypted"]
    file = typist.file()
    assert file is not None
    assert file.secret == ABOUT


def test_the_file_of_an_older_version_is_read_left_alone_and_goes_once_it_is_encrypted(typist: Typist) -> None:
    typist.put_wif()
    before = typist.files()
    address = typist.run(api.address)
    assert address[0] in "mn"
    assert typist.run(wallet_commands.wallet_show)["kind"] == "p2pkh"
    assert typist.run(wallet_commands.wallet_export) == {"address": address, "kind": "p2pkh", "wif": WIF}
    assert typist.files() == before
    typist.run(wallet_commands.wallet_encrypt)
    assert set(typist.files()) == {"regtest.wallet"}
    typist.old = typist.new
    assert typist.run(wallet_commands.wallet_export) == {"address": address, "kind": "p2pkh", "wif": WIF}


def test_an_encryption_that_was_cut_off_has_not_happened_and_is_done_again(typist: Typist) -> None:
    typist.put_wif()
    typist.run(wallet_commands.wallet_encrypt)
    typist.put_wif()
    assert not typist.run(wallet_commands.wallet_show)["encrypted"]
    typist.run(wallet_commands.wallet_encrypt)
    assert set(typist.files()) == {"regtest.wallet"}
    typist.put_wif(wif_of_secret(REGTEST, b"\x22" * 32))
    typist.refused(StoreDamaged, wallet_commands.wallet_show)
    typist.refused(StoreDamaged, api.address)


def test_what_can_not_be_read_again_does_not_take_the_place(typist: Typist) -> None:
    typist.run(wallet_commands.wallet_restore, ABOUT)
    before = typist.files()

    def unreadable(_: bytes) -> None:
        raise StoreUnusable("It can't be read.")

    file = typist.file()
    assert file is not None
    with Store(typist.basedir, REGTEST) as store, pytest.raises(StoreUnusable):
        store.save_wallet(file.sealed_under("x", ABOUT, CHEAP), "encryption", unreadable)
    assert typist.files() == before


def doors(body: Callable[[], None], deadly: int) -> bool:
    """Run this in a process that dies before it flushes, replaces or removes for the nth time; whether it lived."""
    child = os.fork()
    if child == 0:
        left = deadly

        def deadly_before(name: str) -> None:
            real = getattr(os, name)

            def door(*arguments: Any, **members: Any) -> Any:
                nonlocal left
                if left == 0:
                    os._exit(9)
                left -= 1
                return real(*arguments, **members)

            setattr(os, name, door)

        for name in ("fsync", "replace", "unlink", "open"):
            deadly_before(name)
        try:
            body()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 0


@pytest.mark.parametrize("before", ["clear", "wif", "sealed"])
def test_a_kill_anywhere_leaves_the_old_wallet_or_the_new_one(typist: Typist, before: str) -> None:
    clear = KeyFile.of_words(REGTEST, ABOUT) if before != "wif" else KeyFile.of_wif(REGTEST, WIF)
    secret = clear.secret or ""
    old = clear if before != "sealed" else clear.sealed_under("old", secret, CHEAP)
    new = clear.sealed_under("new", secret, CHEAP)

    def change() -> None:
        with Store(typist.basedir, REGTEST) as store:
            store.save_wallet(new, "encryption", lambda data: key_file.parse(store.wallet_path, REGTEST, data.decode()))

    seen, lived, number = set(), False, 0
    while not lived:
        shutil.rmtree(typist.basedir, ignore_errors=True)
        typist.put_wif()
        if before != "wif":
            (typist.basedir / "regtest.wif").unlink()
            (typist.basedir / "regtest.wallet").write_text(old.text())
            (typist.basedir / "regtest.wallet").chmod(0o600)
        lived = doors(change, number)
        found = typist.file()
        assert found in (old, new)
        seen.add(found)
        change()
        assert set(typist.files()) == {"regtest.wallet"}
        assert typist.file() == new
        number += 1
    assert seen == {old, new}
    assert number > 4


def test_a_kill_while_a_wallet_is_made_leaves_one_or_none(typist: Typist) -> None:
    lived, number = False, 0
    while not lived:
        lived = doors(lambda: typist.run(wallet_commands.wallet_restore, ABOUT), number)
        assert typist.file() in (None, KeyFile.of_words(REGTEST, ABOUT))
        number += 1
        if number < 4:
            shutil.rmtree(typist.basedir, ignore_errors=True)
    assert typist.file() is not None


# With connections ---------------------------------------------------------------------------------------------------


FEE = 1  # of a sync: a close begins with one


def test_words_alone_bring_the_connections_back(it: Life) -> None:
    it.open()
    it.receive(120)
    handle, moved = it.handle, it.connection.duplex.receiving.moved
    words = wallet_commands.wallet_export(it.session)["words"]
    it.session.close()
    shutil.rmtree(it.basedir)
    it.restart()
    it.hub.silent = True
    with pytest.raises(HubUnreachable) as refused:
        wallet_commands.wallet_restore(it.session, words)
    assert refused.value.result == {"address": it.session.wallet.address, "connections": []}
    it.hub.silent = False
    it.restart()
    assert wallet_commands.wallet_restore(it.session, words)["connections"] == [handle]
    held = it.held()
    it.restart()
    it.close()
    it.settle()
    assert it.held() == held + 1000 + moved - FEE


def test_another_wallet_does_not_come_to_the_connections_of_a_lost_one(it: Life) -> None:
    it.open()
    words = wallet_commands.wallet_export(it.session)["words"]
    it.session.store.wallet_path.unlink()
    it.restart()
    before = it.files()
    with pytest.raises(StoreDamaged, match="wallet restore"):
        api.address(it.session)
    with pytest.raises(StoreDamaged):
        wallet_commands.wallet_new(it.session)
    with pytest.raises(WrongWallet):
        wallet_commands.wallet_restore(it.session, ABOUT)
    with pytest.raises(WrongWallet):
        wallet_commands.wallet_import(it.session, WIF)
    assert it.files() == before
    it.restart()
    assert wallet_commands.wallet_restore(it.session, words)["connections"] == [it.handle]
    it.sync()
    assert it.status() == "open"


def test_an_encrypted_wallet_shows_itself_and_does_nothing_without_its_passphrase(it: Life) -> None:
    it.open()
    store, file = it.session.store, it.session.wallet.file
    store.save_wallet(file.sealed_under("secret", file.secret or "", CHEAP), "encryption")
    it.restart()
    assert api.address(it.session) == file.address
    assert api.status(it.session)["connections"][it.handle]["status"] == "open"
    assert api.balances(it.session).get("XCP", 0) == 0
    for command in (api.sync, lambda session: api.blocksend(session, "BTC", file.address, 1000)):
        before = it.files()
        it.restart()
        with pytest.raises(PassphraseMissing):
            command(it.session)
        assert {name: data for name, data in it.files().items() if not name.endswith((".seen", ".rate"))} == {
            name: data for name, data in before.items() if not name.endswith((".seen", ".rate"))
        }
    it.restart()
    it.session.home.unlocker = Unlocker(lambda _: "secret")
    it.hub.to_pay = [7]
    assert api.sync(it.session)[it.handle]["received_payments"][0]["amount"] == 7


def test_the_words_take_a_forgotten_passphrase_off_where_the_connections_are(it: Life) -> None:
    it.open()
    words = wallet_commands.wallet_export(it.session)["words"]
    store, file = it.session.store, it.session.wallet.file
    store.save_wallet(file.sealed_under("forgotten", file.secret or "", CHEAP), "encryption")
    it.restart()
    with pytest.raises(WrongWallet):
        wallet_commands.wallet_restore(it.session, ABOUT)
    it.restart()
    assert wallet_commands.wallet_restore(it.session, words)["connections"] == [it.handle]
    it.restart()
    assert not wallet_commands.wallet_show(it.session)["encrypted"]
    it.pay(5)


@pytest.fixture(params=["p2wpkh", "p2pkh"])
def of_kind(request: pytest.FixtureRequest, tmp_path: Path, node: NodeProcess) -> Iterator[Life]:
    """A client whose wallet is new, and one that has that of an older version."""
    typist = Typist(tmp_path / "client")
    if request.param == "p2pkh":
        typist.put_wif(wif_of_secret(REGTEST, os.urandom(32)))
    made = Life(typist.basedir, node, Key(os.urandom(32)))
    assert is_p2wpkh(made.wallet) == (request.param == "p2wpkh")
    yield made
    made.session.close()


@pytest.mark.parametrize("how", ["agreed", "alone"])
def test_wallets_of_both_kinds_live_a_whole_life(of_kind: Life, how: str) -> None:
    """Deposit, payments both ways, a close with the hub or without it, and a send; the ledger has it all."""
    it = of_kind
    held = it.held()
    it.open()
    it.receive(120)
    it.pay(50)
    duplex = it.connection.duplex  # a hub that is gone fetches nothing of what it was paid
    moved = duplex.net - FEE if how == "agreed" else duplex.receiving.moved
    it.hub.silent = how == "alone"
    it.close()
    it.settle(80)
    assert it.held() == held + moved
    it.restart()
    api.blocksend(it.session, "XCP", it.session.wallet.address, it.held())
    it.mine()
    assert it.held() == held + moved
