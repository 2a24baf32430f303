"""The parser imports nothing slow, and writes some of the program's values out: here it is held to them."""

from __future__ import annotations

import inspect

from picopayments_cli import api, cli, commands, config
from picopayments_cli.channel import networks, values
from picopayments_cli.client import mnemonics, payments, payments_shown


def test_the_client_parser_has_the_values_of_the_program() -> None:
    assert tuple(networks.NETWORKS) == cli.NETWORKS
    assert (*payments.STATES, payments_shown.QUEUED, payments_shown.UNANSWERED) == commands.STATES
    assert commands.LEAST_DIGITS == values.LEAST_DIGITS
    assert commands.MAX_SECONDS == config.MAX_SECONDS
    assert commands.WORDS == mnemonics.COUNT


def test_what_is_left_out_is_the_same_by_the_command_line_and_by_serve() -> None:
    compared = 0
    for name, command in commands.COMMANDS.items():
        if name in ("version", "help", "completion", "serve"):
            continue
        defaults = {
            parameter.name: parameter.default
            for parameter in inspect.signature(api.function_of(name)).parameters.values()
        }
        for flag, settings in command.arguments:
            if "default" in settings:
                compared += 1
                assert settings["default"] == defaults[flag.removeprefix("--").replace("-", "_")], (name, flag)
    assert compared > 5
