"""The directive ``help-of``: what ``--help`` prints, for a program and each of its commands, from the parser itself."""

from __future__ import annotations

import importlib
import os
from argparse import ArgumentParser

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

WIDTH = "80"


class HelpOf(Directive):
    """``.. help-of:: MODULE``, where MODULE has a function ``_parser``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a section for the program, and one for each of its commands in it."""
        os.environ["COLUMNS"] = WIDTH  # where argparse looks
        parser = importlib.import_module(self.arguments[0])._parser()
        section = _section(parser)
        section += [_section(command) for command in _commands(parser)]
        return [section]


def _commands(parser: ArgumentParser) -> list[ArgumentParser]:
    return [
        command for action in parser._actions if isinstance(action.choices, dict) for command in action.choices.values()
    ]


def _section(parser: ArgumentParser) -> nodes.section:
    text = parser.format_help()
    made = nodes.section(ids=[nodes.make_id(parser.prog)], names=[nodes.fully_normalize_name(parser.prog)])
    made += nodes.title(parser.prog, parser.prog)
    made += nodes.literal_block(text, text, language="none")
    return made


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directive."""
    app.add_directive("help-of", HelpOf)
    return {"parallel_read_safe": True}
