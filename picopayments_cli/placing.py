"""Tell where a word of the command line belongs that stands at the wrong place. The parser loads it for an error."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Action, ArgumentParser
    from collections.abc import Mapping, Sequence

_HANDLE = frozenset("0123456789abcdef")


def before(option: str, later: Sequence[str], commands: Mapping[str, ArgumentParser]) -> str:
    """Tell of an option before the command that it is one of the command's; "" where it is none."""
    having = [name for name, parser in commands.items() if option in parser._option_string_actions]
    typed = next((name for name in having if _is_typed(name, later)), None)
    if typed is not None:
        return f" {option} goes behind {typed}."
    return f" {option} is an option of {', '.join(having)}, and goes behind the command." if having else ""


def behind(word: str, command: str, parser: ArgumentParser) -> str:
    """Tell how a command takes what was given as an option, or without one; "" where that is not known."""
    places = parser._get_positional_actions()
    if word.startswith("-"):
        return missing([word], parser)
    taken = [action for action in parser._option_string_actions.values() if action.nargs is None]
    by_option = {action.option_strings[-1]: action for action in taken}
    if "--handle" in by_option and len(word) >= 8 and _HANDLE.issuperset(word):
        return f" A handle is given by an option here: `{parser.prog} --handle {word}`."
    forms = ", ".join(f"{name} {_metavar(action)}" for name, action in by_option.items())
    if not places:
        return f" {command} takes values by options alone: {forms}." if forms else f" {command} takes no values."
    return f" It is typed {_usage(parser, places)}" + (f", and all else by options: {forms}." if forms else ".")


def missing(words: Sequence[str], parser: ArgumentParser) -> str:
    """Tell of an option that names what a command takes by its place; "" where there is none."""
    places = parser._get_positional_actions()
    names = {f"--{name.lower().replace('_', '-')}" for action in places for name in (action.dest, _metavar(action))}
    given = next((option for option in (word.partition("=")[0] for word in words) if option in names), None)
    return "" if given is None else f" There is no {given}, its value is typed alone: {_usage(parser, places)}."


def _is_typed(name: str, words: Sequence[str]) -> bool:
    """Whether a command's name is among the words."""
    parts = name.split()
    return any(list(words[at : at + len(parts)]) == parts for at in range(len(words)))


def _usage(parser: ArgumentParser, places: Sequence[Action]) -> str:
    """Write how a command is typed with what it takes by place."""
    forms = [_metavar(action) if action.nargs is None else f"[{_metavar(action)}]" for action in places]
    return f"`{' '.join((parser.prog, *forms))}`"


def _metavar(action: Action) -> str:
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()
