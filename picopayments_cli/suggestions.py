"""Guess what a mistyped word was meant to be. Imports nothing of this program: the parser loads it for an error."""

from __future__ import annotations

from difflib import get_close_matches


def did_you_mean(word: str, known: list[str]) -> str:
    """Make a question of the known word that a mistyped one is most like: " Did you mean status?". Else "" is made."""
    close = get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""
