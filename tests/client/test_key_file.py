"""The file of a wallet: words or a WIF, in clear or under a passphrase, and nothing that was changed is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from regtest_support import REGTEST

from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.client import key_file
from picopayments_cli.client.key_file import KeyFile
from picopayments_cli.client.mnemonics import checked_words, new_words, seed_of
from picopayments_cli.client.wallet import Unlocker, Wallet
from picopayments_cli.encryption import Cost
from picopayments_cli.errors import (
    InvalidKey,
    InvalidWords,
    PassphraseMissing,
    StoreDamaged,
    StoreNewer,
    WrongPassphrase,
)

CHEAP = Cost(1, 1 << 13)
ABOUT = "abandon " * 11 + "about"
WORDS = KeyFile.of_words(REGTEST, ABOUT)
WIF = "cTGhosGriPpuGA586jemcuH9pE9spwUmneMBmYYzrQEbY92DJrbo"  # of the same key
MAINNET = "KwDiBf89QgGbjEhKnhXJuH7LrciVrZi3qYjgd9M7rFU73sVHnoWn"
OLD = KeyFile.of_wif(REGTEST, WIF)
SEALED = WORDS.sealed_under("a passphrase", ABOUT, CHEAP)
PATH = Path("regtest.wallet")


def parsed(document: dict[str, Any]) -> KeyFile:
    return key_file.parse(PATH, REGTEST, json.dumps(document))


# Words --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "seed"),  # BIP 39's vectors have the passphrase TREZOR; these are of the same words without one
    [
        (
            ABOUT,
            "5eb00bbddcf069084889a8ab9155568165f5c453ccb85e70811aaed6f6da5fc1"
            "9a5ac40b389cd370d086206dec8aa6c43daea6690f20ad3d8d48b2d2ce9e38e4",
        )
    ],
)
def test_the_seed_is_that_of_bip_39(words: str, seed: str) -> None:
    assert seed_of(words).hex() == seed


@pytest.mark.parametrize("count", [12, 24])
def test_drawn_words_are_good_and_new(count: int) -> None:
    drawn = [new_words(count) for _ in range(2)]
    assert drawn[0] != drawn[1]
    for words in drawn:
        assert len(words.split()) == count
        assert checked_words(f"  {words.upper()}\n".replace(" ", "\n ")) == words


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "these are 0"),
        ("abandon", "this is one"),
        (WIF, "is a key in wallet import format (WIF), and no words: `picopayments-cli wallet import`"),
        (f" p2wpkh:{WIF}\n", "is a key in wallet import format (WIF), and no words: `picopayments-cli wallet import`"),
        ("abandon " * 13, "these are 13"),
        ("abandon " * 15, "these are 15"),  # BIP 39 knows it, but no wallet of ours has so many
        ("abandon " * 12, "checksum"),
        (ABOUT.replace("abandon", "abandn", 3).replace("abandn", "abandon", 2), "Word 3, abandn,"),
        (ABOUT.replace("about", "abuot"), "Did you mean about?"),
    ],
)
def test_words_that_are_none_are_refused_with_what_helps(text: str, told: str) -> None:
    with pytest.raises(InvalidWords) as refused:
        checked_words(text)
    assert told in refused.value.message


@pytest.mark.parametrize("secret", [WIF, "ab" * 32, "hunter2", "correcthorsebatterystaple"])
def test_another_secret_in_the_place_of_a_word_is_not_shown(secret: str) -> None:
    with pytest.raises(InvalidWords, match="Word 2 is none") as refused:
        checked_words(ABOUT.replace("abandon", secret, 2).replace(secret, "abandon", 1))
    assert secret.lower() not in json.dumps(refused.value.as_json()).lower()


@pytest.mark.parametrize("words", [ABOUT, "abandon about", "abandon " * 11])
def test_words_in_the_place_of_a_key_are_told_from_one(words: str) -> None:
    with pytest.raises(InvalidKey, match="These are words, and no key: `picopayments-cli wallet restore`") as refused:
        KeyFile.of_wif(REGTEST, words)
    assert "abandon" not in json.dumps(refused.value.as_json())


# Kinds --------------------------------------------------------------------------------------------------------------


def test_words_make_a_p2wpkh_wallet_and_a_wif_says_its_kind() -> None:
    assert (WORDS.kind, WORDS.address) == ("p2wpkh", "bcrt1q6rz28mcfaxtmd6v789l9rrlrusdprr9pz3cppk")
    assert (OLD.kind, OLD.address) == ("p2pkh", "mzYpQmSAGYWWyTLiLGbGaG8T3rHdjNcV11")
    same = KeyFile.of_wif(REGTEST, f" p2wpkh:{WIF}\n")
    assert (same.kind, same.address, same.holds) == ("p2wpkh", WORDS.address, "wif")
    assert KeyFile.of_wif(REGTEST, f"p2pkh:{WIF}") == OLD
    for file, secret in ((WORDS, ABOUT), (OLD, WIF), (same, WIF)):
        again = KeyFile.of_wif(REGTEST, file.wif_of(secret))
        assert (again.address, again.key_of(WIF)) == (file.address, file.key_of(secret))
        assert Wallet(file).key == file.key_of(secret)


@pytest.mark.parametrize(
    "text", ["", "p2sh:" + WIF, ":" + WIF, WIF[:-1], "KwDiBf89QgGbjEhKnhXJuH7LrciVrZi3qYjgd9M7rFU73sVHnoWn"]
)
def test_what_is_no_key_of_the_network_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(InvalidKey) as refused:
        KeyFile.of_wif(REGTEST, text)
    assert not text or text not in json.dumps(refused.value.as_json())


# The file -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [WORDS, OLD, SEALED, OLD.sealed_under("ä", WIF, CHEAP)])
def test_a_file_is_read_as_it_was_written(file: KeyFile) -> None:
    assert key_file.parse(PATH, REGTEST, file.text()) == file
    assert file.sealed is None or not any(word in file.text() for word in (*ABOUT.split(), WIF))
    assert "abandon" not in repr(file) + repr(Wallet(file))
    assert WIF not in repr(file) + repr(Wallet(file))


def test_only_the_passphrase_opens_what_is_sealed() -> None:
    assert SEALED.unsealed("a passphrase") == ABOUT
    for wrong in ("", "a passphrase ", "A passphrase"):
        with pytest.raises(WrongPassphrase):
            SEALED.unsealed(wrong)
    again = WORDS.sealed_under("a passphrase", ABOUT, CHEAP)
    assert again.sealed != SEALED.sealed  # another salt, another nonce


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_does_not_open(place: int, by: int) -> None:
    assert SEALED.sealed is not None
    data = bytearray(SEALED.sealed.data)
    data[place % len(data)] ^= by
    document = json.loads(SEALED.text()) | {"sealed": data.hex()}
    with pytest.raises(WrongPassphrase):
        parsed(document).unsealed("a passphrase")


@pytest.mark.parametrize(
    "change",
    [
        {"address": OLD.address, "kind": "p2pkh"},  # the same key's, but another place to be paid at
        {"holds": "wif"},
        {"address": KeyFile.drawn(REGTEST).address},
        {"salt": "00" * 16},
        {"operations": 2},
        {"memory": 1 << 14},
    ],
)
def test_what_stands_beside_the_sealed_secret_can_not_be_changed(change: dict[str, Any]) -> None:
    with pytest.raises(WrongPassphrase):
        parsed(json.loads(SEALED.text()) | change).unsealed("a passphrase")


@pytest.mark.parametrize(
    "change",
    [
        {"format": "x"},
        {"version": 0},
        {"version": "1"},
        {"network": "testnet"},
        {"kind": "p2tr"},
        {"kind": "p2pkh"},  # an address of the other kind
        {"holds": "seed"},
        {"address": OLD.address},
        {"address": 5},
        {"secret": "abandon " * 12},
        {"secret": WIF},
        {"secret": None},
    ],
)
def test_a_file_in_clear_that_was_changed_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(StoreDamaged) as refused:
        parsed(json.loads(WORDS.text()) | change)
    assert "abandon" not in json.dumps(refused.value.as_json())


@pytest.mark.parametrize(
    "change",
    [
        *({"memory": size} for size in (0, -1, 1 << 12, 1 << 31, 1 << 60, "8192", 8192.0)),
        *({"operations": passes} for passes in (0, 17, 10**9, None)),
        *({"salt": salt} for salt in ("", "00" * 15, "00" * 17, "zz" * 16, 5)),
        {"sealed": "zz"},
    ],
)
def test_a_sealed_file_asks_for_no_more_than_a_machine_has(change: dict[str, Any]) -> None:
    with pytest.raises(StoreDamaged):
        parsed(json.loads(SEALED.text()) | change)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"' + WIF + '"', "[" * 10**5])
def test_what_is_no_wallet_is_refused(text: str) -> None:
    with pytest.raises(StoreDamaged):
        key_file.parse(PATH, REGTEST, text)


def test_a_file_of_a_newer_version_is_left_alone() -> None:
    with pytest.raises(StoreNewer):
        parsed(json.loads(WORDS.text()) | {"version": 2})


def test_the_same_words_have_another_address_on_mainnet() -> None:
    assert KeyFile.of_words(NETWORKS["mainnet"], ABOUT).address == "bc1qcr8te4kr609gcawutmrza0j4xv80jy8z306fyu"


# Unlocking ----------------------------------------------------------------------------------------------------------


def test_a_passphrase_is_asked_for_once_and_only_where_one_is_needed() -> None:
    asked: list[str] = []

    def ask(address: str) -> str:
        asked.append(address)
        return "a passphrase"

    unlocker = Unlocker(ask)
    assert Wallet(WORDS, unlocker).key == WORDS.key_of(ABOUT)
    locked = Wallet(SEALED, unlocker)
    assert (locked.address, locked.script) == (WORDS.address, Wallet(WORDS).script)
    assert asked == []
    assert [Wallet(SEALED, unlocker).key, locked.key] == [WORDS.key_of(ABOUT)] * 2
    assert Wallet(WORDS.sealed_under("another", ABOUT, CHEAP), unlocker).key == locked.key
    assert asked == [WORDS.address]
    with pytest.raises(PassphraseMissing):
        _ = Wallet(SEALED).key
