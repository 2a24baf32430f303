"""Make and check the English words of BIP 39 that a wallet comes from, 12 or 24 of them.

The list of words is read from disk once it is needed. Nothing here puts words into a log, or whole into an error.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from picopayments_cli.errors import InvalidWords
from picopayments_cli.suggestions import did_you_mean

if TYPE_CHECKING:
    from mnemonic import Mnemonic

COUNT = 12  # words of a wallet, where nothing else is said
BITS = {12: 128, 24: 256}  # of randomness, by the number of words
_WIF = re.compile(r"(p2w?pkh:)?[1-9A-HJ-NP-Za-km-z]{50,53}")  # a key as ``wallet export`` writes it
_LONGEST = 12  # letters of what is taken for a mistyped word: anything longer may be another secret


@cache
def _english() -> Mnemonic:
    from mnemonic import Mnemonic

    return Mnemonic("english")


def new_words(count: int = COUNT) -> str:
    """Draw 12 or 24 words."""
    return str(_english().generate(BITS[count]))


def checked_words(text: str) -> str:
    """Check words as somebody typed them, and return them as BIP 39 writes them. Raises InvalidWords."""
    words = text.lower().split()
    if len(words) == 1 and _WIF.fullmatch(text.strip()):
        raise InvalidWords(
            "This is a key in wallet import format (WIF), and no words: `picopayments-cli wallet import` makes the "
            "wallet of a key. Nothing was changed.",
            count=1,
        )
    if len(words) not in BITS:
        raise InvalidWords(
            f"A wallet has 12 or 24 words, and {_counted(len(words))}. Type all of them, in their order, with spaces "
            "between them.",
            count=len(words),
        )
    known = _english().wordlist
    for number, word in enumerate(words, 1):
        if word not in known:
            raise InvalidWords(_unknown(number, word, known), position=number)
    if not _english().check(" ".join(words)):
        raise InvalidWords(
            "These words don't belong together: their checksum is wrong. One of them is another word of the list, or "
            "two changed places. Compare them with what you wrote down.",
            count=len(words),
        )
    return " ".join(words)


def _counted(count: int) -> str:
    return "this is one" if count == 1 else f"these are {count}"


def _unknown(number: int, word: str, known: list[str]) -> str:
    if not word.isalpha() or len(word) > _LONGEST:
        return f"Word {number} is none of the list of BIP 39, whose words have 3 to 8 letters. Compare it with yours."
    return f"Word {number}, {word}, is not in the list of BIP 39.{did_you_mean(word, known)}"


def seed_of(words: str) -> bytes:
    """Stretch words to the seed (64 bytes) of BIP 39, without an additional passphrase."""
    from mnemonic import Mnemonic

    return bytes(Mnemonic.to_seed(words))
