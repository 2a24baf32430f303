"""Get secrets from people and scripts: passphrases, a wallet's words, its key. Never from arguments, which others see.

A passphrase comes from the file descriptor that ``--passphrase-fd`` names, a line each, else from the environment, else
from the terminal, without an echo.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Mapping

from picopayments_cli.config import PASSPHRASE
from picopayments_cli.errors import PassphraseMissing, WrongPassphrase

WAYS = f"Type it at a terminal, write it to a file descriptor and name that with --passphrase-fd, or set {PASSPHRASE}."
_LONGEST = 4096  # bytes of a line


class Passphrases:
    """Where the passphrases of one process come from."""

    def __init__(self, descriptor: int | None, environ: Mapping[str, str]) -> None:
        self._descriptor = descriptor
        self._given = environ.get(PASSPHRASE)

    def current(self, address: str) -> str:
        """Get the passphrase of the wallet of an address. Raises PassphraseMissing."""
        if self._descriptor is not None:
            return _checked(_line(self._descriptor))
        if self._given is not None:
            return _checked(self._given)
        if not _somebody():
            raise PassphraseMissing(
                f"The wallet {address} is encrypted, and its passphrase was not given. {WAYS}", address=address
            )
        return _checked(_typed(f"Passphrase of the wallet {address}: "))

    def new(self, change: bool) -> str:
        """Get the passphrase to encrypt with. Raises PassphraseMissing, WrongPassphrase where two typed ones differ.

        ``change``: the environment has the old one.
        """
        if self._descriptor is not None:
            return _checked(_line(self._descriptor))
        if self._given is not None and not change:
            return _checked(self._given)
        if not _somebody():
            raise PassphraseMissing(f"The new passphrase was not given. {WAYS}")
        typed = _checked(_typed("New passphrase: "))
        if typed != _checked(_typed("New passphrase again: ")):
            raise WrongPassphrase("The two passphrases are not the same. Nothing was changed: run the command again.")
        return typed


def secret_from_stdin(prompt: str, *, echo: bool) -> str:
    """Read a secret from stdin to its end, or one line that somebody types. Raises PassphraseMissing, OSError."""
    if _somebody():
        if not echo:
            return _typed(prompt)
        print(prompt, end="", file=sys.stderr, flush=True)
        return sys.stdin.readline()
    return "" if sys.stdin is None else sys.stdin.read(_LONGEST)


def _somebody() -> bool:
    """Tell whether somebody sits at the terminal."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def _typed(prompt: str) -> str:
    """Have a secret typed, without an echo. Raises PassphraseMissing."""
    from getpass import getpass

    try:
        return getpass(prompt, sys.stderr)
    except EOFError:
        raise PassphraseMissing(f"Nothing was typed. {WAYS}") from None


def _line(descriptor: int) -> str:
    """Read one line, byte by byte: what follows is the next one's. Raises PassphraseMissing."""
    data = b""
    try:
        while not data.endswith(b"\n") and len(data) <= _LONGEST + 2 and (read := os.read(descriptor, 1)):
            data += read
        line = data.removesuffix(b"\n").removesuffix(b"\r").decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PassphraseMissing(
            f"No passphrase can be read from file descriptor {descriptor}: {reason}. {WAYS}", descriptor=descriptor
        ) from None
    if len(line) > _LONGEST:
        raise PassphraseMissing(
            f"The line on file descriptor {descriptor} is longer than {_LONGEST} letters, and is no passphrase. {WAYS}",
            descriptor=descriptor,
        )
    return line


def _checked(passphrase: str) -> str:
    """Refuse an empty passphrase; one letter is the same however a keyboard writes it. Raises PassphraseMissing."""
    if not passphrase:
        raise PassphraseMissing(f"The passphrase is empty. {WAYS}")
    return unicodedata.normalize("NFKD", passphrase)
