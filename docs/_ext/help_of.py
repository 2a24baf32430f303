"""The directive ``help-of``: what ``--help`` tells of a program and of each of its commands, from the parser itself."""

from __future__ import annotations

import importlib
import re
from argparse import Action, ArgumentParser
from collections.abc import Iterator

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx


class HelpOf(Directive):
    """``.. help-of:: MODULE``, where MODULE has a function ``_parser``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a section for the program, and in it one for each of its commands."""
        parser = importlib.import_module(self.arguments[0])._parser()
        section = _section(parser)
        section += [_section(command) for command in _commands(parser)]
        return [section]


def _commands(parser: ArgumentParser) -> Iterator[ArgumentParser]:
    """Each command of a program; of a group of commands each of its own."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                yield from list(_commands(command)) or [command]


def _section(parser: ArgumentParser) -> nodes.section:
    made = nodes.section(ids=[nodes.make_id(parser.prog)], names=[nodes.fully_normalize_name(parser.prog)])
    made += nodes.title(parser.prog, parser.prog)
    usage = parser.format_usage().removeprefix("usage: ")
    made += _verbatim(re.sub(r"\n +", "\n    ", usage))
    made += [_paragraph(text) for text in (parser.description or "").split("\n\n")]
    told = list(_arguments(parser))
    if told:
        made += nodes.definition_list("", *told)
    made += _verbatim((parser.epilog or "").removeprefix("example:\n"))
    return made


def _arguments(parser: ArgumentParser) -> Iterator[nodes.definition_list_item]:
    """Each argument by its name, with its help, but ``--help`` and the commands."""
    form = parser._get_formatter()
    for action in parser._actions:
        if action.dest != "help" and not isinstance(action.choices, dict):
            term = nodes.term("", "", nodes.literal("", _name(parser, action)))
            yield nodes.definition_list_item("", term, nodes.definition("", _paragraph(form._expand_help(action))))


def _name(parser: ArgumentParser, action: Action) -> str:
    return parser._get_formatter()._format_action_invocation(action)


def _paragraph(text: str) -> nodes.paragraph:
    """Make a paragraph, in which the text between backticks is code."""
    parts = enumerate(text.split("`"))
    return nodes.paragraph("", "", *(nodes.literal("", part) if n % 2 else nodes.Text(part) for n, part in parts))


def _verbatim(text: str) -> nodes.literal_block:
    return nodes.literal_block(text.strip(), text.strip(), language="none")


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directive."""
    app.add_directive("help-of", HelpOf)
    return {"parallel_read_safe": True}
