"""Complete command lines in bash, zsh and fish: by the parser, the settings and the files, asking nobody else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import argcomplete
from argcomplete.completers import DirectoriesCompleter, FilesCompleter, SuppressCompleter
from argcomplete.shell_integration import shellcode

from picopayments_cli.config import choose_client_basedir, choose_network, connections_folder, known_settings

if TYPE_CHECKING:
    from argparse import Action, ArgumentParser, Namespace

PROGRAMS = ("picopayments-cli", "picopayments-hub")


def script(shell: str) -> str:
    """Make the script by which a shell asks the programs for completions: bash, zsh or fish."""
    return shellcode(PROGRAMS, shell=shell).strip()


def answer(parser: ArgumentParser) -> None:
    """Tell the shell, which has set the environment, what its line may go on with; this ends the process."""
    for action in _actions(parser):
        if action.dest in _COMPLETERS:
            vars(action)["completer"] = _COMPLETERS[action.dest]
    argcomplete.autocomplete(parser, always_complete_options=False, default_completer=SuppressCompleter())


def own_handles(parsed_args: Namespace, **_: Any) -> list[str]:
    """List the handles of the basedir and network that the line names: those of the files there."""
    given = vars(parsed_args)
    network = choose_network(given.get("network"), os.environ)
    folder = connections_folder(network, choose_client_basedir(given.get("basedir"), os.environ))
    return sorted(path.stem for path in folder.glob("*.json"))


def _actions(parser: ArgumentParser) -> Iterator[Action]:
    """Walk through the arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from _actions(command)


def _settings(**_: Any) -> list[str]:
    return known_settings()


_COMPLETERS: dict[str, Callable[..., Any]] = {
    "handle": own_handles,
    "source": own_handles,
    "key": _settings,
    "basedir": DirectoriesCompleter(),
    "ca_file": FilesCompleter(),
    "backup": FilesCompleter(),
    "file": FilesCompleter(),
    "ssl_cert": FilesCompleter(),
    "ssl_key": FilesCompleter(),
}
