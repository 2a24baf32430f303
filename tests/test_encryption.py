"""What is sealed opens with its key alone, whole, and for what it was sealed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picopayments_cli.encryption import OVERHEAD, Cost, seal, stretch, unseal

KEY = bytes(range(0x80, 0xA0))
CHEAP = Cost(1, 1 << 13)


def test_a_published_vector_opens() -> None:
    """draft-irtf-cfrg-xchacha, A.3.1."""
    nonce = bytes(range(0x40, 0x58))
    ciphertext = bytes.fromhex(
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54"
        "c216cb96b72e1213b4522f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff921f9664c97637da9768812f6"
        "15c68b13b52e"
    )
    tag = bytes.fromhex("c0875924c1c7987947deafd8780acf49")
    about = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    assert unseal(KEY, nonce + ciphertext + tag, about).startswith(b"Ladies and Gentlemen of the class of '99")


@given(st.binary(max_size=300), st.binary(max_size=20))
def test_what_was_sealed_opens(data: bytes, about: bytes) -> None:
    sealed = seal(KEY, data, about)
    assert len(sealed) == len(data) + OVERHEAD
    assert unseal(KEY, sealed, about) == data


@given(st.data())
def test_one_other_bit_and_nothing_opens(draw: st.DataObject) -> None:
    sealed = bytearray(seal(KEY, b"one commit", b"state"))
    place = draw.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[place // 8] ^= 1 << place % 8
    with pytest.raises(ValueError, match="changed"):
        unseal(KEY, bytes(sealed), b"state")


def test_another_key_purpose_or_a_cut_end_opens_nothing() -> None:
    sealed = seal(KEY, b"one commit", b"state")
    for key, data, about in (
        (bytes(32), sealed, b"state"),
        (KEY, sealed, b"backup"),
        (KEY, sealed[:-1], b"state"),
        (KEY, sealed[: OVERHEAD - 1], b"state"),
        (KEY, b"", b"state"),
    ):
        with pytest.raises(ValueError, match=r"changed|short"):
            unseal(key, data, about)


def test_the_same_data_never_looks_the_same() -> None:
    assert seal(KEY, b"one commit", b"") != seal(KEY, b"one commit", b"")


def test_a_passphrase_makes_one_key_for_each_salt_and_cost() -> None:
    """A file of today opens tomorrow: the figure is fixed, and another library's Argon2id makes it, too."""
    key = stretch("correct horse", bytes(16), CHEAP)
    assert key.hex() == "f230a3bde2fda6eacd56fc595a18e5d2750b813583e11a3187fbbf3451527b0d"
    others = [stretch("correct horse", bytes(15) + b"1", CHEAP), stretch("correct horse", bytes(16), Cost(2, 1 << 13))]
    assert len({key, *others, stretch("Correct horse", bytes(16), CHEAP)}) == 4


def test_a_letter_written_in_two_ways_is_one_letter() -> None:
    assert stretch("caf\u00e9", bytes(16), CHEAP) == stretch("cafe\u0301", bytes(16), CHEAP)


@pytest.mark.parametrize("cost", [(0, 1 << 20), (17, 1 << 20), (1, 1 << 12), (1, (1 << 30) + 1), (-1, -1)])
def test_a_file_cannot_ask_for_all_of_a_machines_memory(cost: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="out of bounds"):
        Cost(*cost)
