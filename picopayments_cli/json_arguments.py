"""Read the arguments of a command that come as JSON, by the same rules as those that are typed."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from picopayments_cli.errors import UsageError

Declared = tuple[str, dict[str, Any]]  # a name, and what argparse is told of it


class Checker(argparse.ArgumentParser):
    """argparse's parser for what comes as JSON. Raises UsageError."""

    def error(self, message: str) -> NoReturn:
        """Refuse the call."""
        _off(self.prog, message)


def _off(command: str, message: str) -> NoReturn:
    raise UsageError(f"{command}: {message}.", command=command)


def from_json(
    command: str, arguments: Iterable[Declared], values: tuple[Any, ...], members: Mapping[str, Any]
) -> dict[str, Any]:
    """Read the arguments of a command, checked as if they had been typed; null is not given. Raises UsageError.

    ``arguments``: as the command declares them. ``values``: by place, in that order, options included; or ``members``:
    by name.
    """
    declared = {plain(name): (name, settings) for name, settings in arguments}
    if len(values) > len(declared):
        _off(command, f"it takes {len(declared)} arguments, not {len(values)}")
    by_place = dict(zip(declared, values, strict=False))
    given = by_place or {plain(name): members[name] for name in members}
    unknown = sorted(set(given).difference(declared))
    if unknown:
        _off(command, f"it has no argument {unknown[0]!r}; it has: {', '.join(declared) or 'none'}")
    if len(given) < len(members):
        _off(command, "an argument is named twice")
    parser = Checker(prog=command, add_help=False, allow_abbrev=False)
    options: list[str] = []
    places: list[str] = []
    left_out = ""
    for member, (name, settings) in declared.items():
        parser.add_argument(name, **settings)
        words = _words(command, name, settings, given.get(member))
        if name.startswith("--"):
            options += words
        elif words and left_out:
            _off(command, f"{member} needs {left_out}, too")
        else:
            places += words
            left_out = left_out or ("" if words else member)
    return vars(parser.parse_args([*options, *(["--", *places] if places else [])]))


def plain(name: str) -> str:
    """Return the name that an argument has in JSON."""
    return name.removeprefix("--").replace("-", "_")


def _words(command: str, name: str, settings: dict[str, Any], value: Any) -> list[str]:
    """A JSON value as words of a command line."""
    if value is None:
        return []
    if settings.get("action") == "store_true":
        if not isinstance(value, bool):
            _off(command, f"{plain(name)} must be true or false")
        return [name] if value else []
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "--":
        _off(command, f"{plain(name)} must be text or a whole number")
    try:
        text = str(value)
    except ValueError:
        _off(command, f"{plain(name)} has too many digits")
    return [f"{name}={text}" if name.startswith("--") else text]
