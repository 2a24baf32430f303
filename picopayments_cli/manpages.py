"""``python -m picopayments_cli.manpages FOLDER``: write the manual pages of both programs, as their parsers have it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from picopayments_cli import __version__, cli
from picopayments_cli.hub import cli as hub_cli

if TYPE_CHECKING:
    from argparse import Action, ArgumentParser


def main(argv: list[str] | None = None) -> int:
    """Write the pages into a folder, which is made where it is missing; the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) != 1:
        print("usage: python -m picopayments_cli.manpages FOLDER", file=sys.stderr)
        return 2
    folder = Path(words[0])
    folder.mkdir(parents=True, exist_ok=True)
    for parser in (cli._parser(), hub_cli._parser()):
        (folder / f"{parser.prog}.1").write_text(page_of(parser), encoding="utf-8")
    return 0


def page_of(parser: ArgumentParser) -> str:
    """Make the manual page of a program, in roff."""
    name = _plain(parser.prog)
    lines = [
        f'.TH "{name.upper()}" 1 "" "{name} {_plain(__version__)}" "User Commands"',
        *(".SH NAME", f"{name} \\- {_plain(parser.description or '')}"),
        *(".SH SYNOPSIS", *_verbatim(parser.format_usage().removeprefix("usage: "))),
        *(".SH OPTIONS", *_arguments(parser)),
    ]
    commands = _commands(parser)
    if commands:
        lines.append(".SH COMMANDS")
    for command in commands:
        lines += [f".SS {_plain(command.prog.partition(' ')[2])}", *_verbatim(command.description or "")]
        lines += [*_arguments(command), *_verbatim(command.epilog or "")]
    if not commands:
        lines += [".SH EXAMPLE", *_verbatim((parser.epilog or "").partition("\n")[2])]
    return "\n".join(lines) + "\n"


def _commands(parser: ArgumentParser) -> list[ArgumentParser]:
    """List the commands of a parser; a group of commands gives its own."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            return [each for command in action.choices.values() for each in _commands(command) or [command]]
    return []


def _arguments(parser: ArgumentParser) -> Iterator[str]:
    """Describe each argument of a parser: its name, then its help."""
    form = parser._get_formatter()
    for action in parser._actions:
        if isinstance(action.choices, dict) or action.dest == "help":
            continue
        yield from (".TP", f".B {_plain(_name(parser, action))}", _plain(form._expand_help(action)))


def _name(parser: ArgumentParser, action: Action) -> str:
    return parser._get_formatter()._format_action_invocation(action)


def _verbatim(text: str) -> Iterator[str]:
    """Show lines as they are."""
    yield from (".PP", ".nf", *map(_plain, text.strip("\n").splitlines()), ".fi")


def _plain(text: str) -> str:
    """Write a text so that roff shows it as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.exit(main())
