"""The client's command line: arguments in, one JSON document on stdout, errors on stderr, exit codes.

Nothing slow is imported up here, not even typing: ``version`` and ``--help`` start at once.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import sys

from picopayments_cli.commands import COMMANDS, GROUPS, Command, descriptor, seconds
from picopayments_cli.interrupts import exit_code, told_alike

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn, TextIO

    from picopayments_cli.client.wallet import Unlocker

PROG = "picopayments-cli"
NETWORKS = ("mainnet", "testnet", "testnet4", "signet", "regtest")
CONFIG = ("network", "basedir", "hub_url", "timeout", "ca_file", "backup")
ASK_SECONDS = 30  # that a question waits for its answer: less than others wait for the lock
HELP_WIDTH = 80
WALLET = tuple(name for name in COMMANDS if name.startswith("wallet "))
NOT_SERVED = ("serve", "demo", "listen", "help", "completion", "restore", *WALLET)
NEEDS_KEY = (
    *("backup", "blocksend", "close", "connect", "listen", "pay", "queuepayment", "request", "restore", "serve"),
    "sync",
)
NEEDS_WALLET = (  # address and faucet make one
    *("blocksend", "cancelpayment", "close", "connect", "cull", "history", "listen", "pay", "payments", "queuepayment"),
    *("request", "serve", "status", "sync"),
)
FROM_STDIN = {"wallet import": ("wif", "The key (WIF): ", False), "wallet restore": ("words", "The words: ", True)}
GOES_ON = "Run the command again: it goes on where it stopped."
NEXT = {  # after an interrupt of a command that does another thing when it is run again
    "blocksend": "The payment may have left: run again the command pays again. Look first whether it has left: "
    "`picopayments-cli searchrawtxs ADDRESS --unconfirmed`, with the wallet's address.",
    "connect": "Look first with `picopayments-cli status` whether the connection is there. If it is, go on with "
    "`picopayments-cli sync --wait`: run again the command opens another one.",
    "pay": "See first with `picopayments-cli payments` whether the payment is there: run again without its --token the "
    "command pays once more.",
    "queuepayment": "See first with `picopayments-cli status` whether the payment is queued: run again without its "
    "--token the command queues another one.",
    "listen": "Nothing is lost: `picopayments-cli listen --after INDEX` goes on behind the last index that it printed.",
    "mine": "Run again the command mines as many blocks once more.",
    "faucet": "Run again the command gives as much once more.",
    "demo": "Run again the command starts anew.",
    "wallet new": "See first with `picopayments-cli wallet show` whether the wallet is there; `picopayments-cli wallet "
    "export` shows its words.",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code. ``argv`` leaves out the program's name and is by default the process's own.

    Raises SystemExit with code 2 for a usage error and 0 for ``--help``, as argparse does.
    """
    with told_alike():
        keep_streams()
        return _main(sys.argv[1:] if argv is None else argv)


def _main(words: list[str]) -> int:
    Parser.program, Parser.human, Parser.typed = PROG, "--human" in words, ()
    human = Parser.human
    arguments: dict[str, Any] = {"command": ""}
    debug = False
    try:
        parser = _parser()
        complete(parser)
        arguments |= parser.read(words)
        Parser.typed = parser.before_command(dashed(words))
        debug, human = arguments.pop("debug"), arguments.pop("human")
        if arguments["command"] == "serve":
            return _serve(debug, **arguments)
        if arguments["command"] == "listen":
            _run(debug, tell=lambda _: None, show=_show_line, **arguments)
            return 0
        if arguments["command"] == "help":
            parser.read([*arguments["topic"], "--help"])
        if arguments["command"] == "completion":
            from picopayments_cli.completion import script

            write_out(script(arguments["shell"]))
            return 0

        def tell(result: Any) -> None:
            write_out(result if arguments.get("csv") else _written(arguments["command"], result, human))

        _run(debug, ask=_asker(), tell=tell, **arguments)
    except KeyboardInterrupt as stopped:  # a wait says itself how to go on
        told = str(stopped) or f"Interrupted. {NEXT.get(arguments['command'], GOES_ON)}"
        return interrupted(told, human=human)
    except Exception as error:
        return refuse(error, debug, human=human)
    return 0


def _run(
    debug: bool,
    *,
    command: str,
    string_amounts: bool,
    tell: Callable[[Any], None],
    ask: Callable[[str], bool] | None = None,
    passphrase_fd: int | None = None,
    unlocker: Unlocker | None = None,
    **arguments: Any,
) -> None:
    """Run a command, and ``tell`` its result, ready for JSON; ``ask`` has the user answer. Raises what they raise.

    ``unlocker`` has opened the wallet already; else its passphrase comes from the file descriptor, or as it can.
    """
    if command == "version":
        from picopayments_cli import __version__

        tell(__version__)
        return
    _log_to_stderr(debug)
    from picopayments_cli import api
    from picopayments_cli.client import wallet_commands

    config = {name: arguments.pop(name) for name in CONFIG}
    served, unlocker = unlocker is not None, unlocker or _unlocker(passphrase_fd)
    if command in FROM_STDIN:
        from picopayments_cli.passphrases import secret_from_stdin

        name, prompt, echo = FROM_STDIN[command]
        arguments[name] = secret_from_stdin(prompt, echo=echo)
    with api.open_session(**config, environ=os.environ, ask=ask) as session:
        session.home.unlocker, session.home.begins = unlocker, not served
        if command in ("backup", "restore") and not served:  # who calls a server does not sit at its terminal
            session.read_key = _read_key
        session.progress = None if ask is None else _bars
        if command in NEEDS_WALLET:
            wallet_commands.check_begun(session)
        if command in NEEDS_KEY:
            session.home.unlock()
        if string_amounts:
            from picopayments_cli.client.string_amounts import told_as_text

            tell = told_as_text(command, tell)
            arguments |= {name: told_as_text(command, arguments[name]) for name in ("show",) if name in arguments}
        api.carry_out(session, api.function_of(command), arguments, lambda result: tell(all_typed(result)))


def _unlocker(passphrase_fd: int | None) -> Unlocker:
    """Make what opens an encrypted wallet, and asks for its passphrase."""
    from picopayments_cli.client.wallet import Unlocker
    from picopayments_cli.passphrases import Passphrases

    passphrases = Passphrases(passphrase_fd, os.environ)
    return Unlocker(passphrases.current, passphrases.new)


def _serve(debug: bool, *, command: str, **given: Any) -> int:
    """Serve the other commands, with the same config arguments, until a signal comes; the exit code."""
    config = {name: given[name] for name in CONFIG}
    unlocker = _unlocker(given.pop("passphrase_fd"))

    from picopayments_cli.errors import PicopaymentsError
    from picopayments_cli.json_arguments import from_json

    def offered(name: str) -> Any:
        declared = COMMANDS[name].arguments

        def run(*values: Any, **members: Any) -> Any:
            told: list[Any] = []
            own = {"string_amounts": given["string_amounts"], "unlocker": unlocker}
            try:
                chosen = from_json(name, declared, values, members)
                _run(debug, command=name, tell=told.append, **config, **own, **chosen)
            except PicopaymentsError as error:
                typed = all_typed(error.as_json())
                error.message, error.data, error.result = typed["message"], typed["data"], all_typed(error.result)
                raise
            return told[0]

        return run

    commands = {name: offered(name) for name in COMMANDS if name not in NOT_SERVED}
    own: dict[str, Any] = {"commands": commands, "ready": announce, "show": _show_event, "unlocker": unlocker}
    own["typed"] = all_typed
    _run(debug, command=command, tell=lambda _: None, **own, **given)
    return 0


def _log_to_stderr(debug: bool) -> None:
    import logging

    class Typed(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return as_typed(super().format(record))

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Typed("%(asctime)s %(name)s: %(message)s" if debug else "%(message)s"))
    logger = logging.getLogger("picopayments_cli")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)


# Questions ----------------------------------------------------------------------------------------------------------


def _asker() -> Callable[[str], bool] | None:
    """A function that asks whoever sits at the terminal; None where nobody does."""
    there = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))
    return _ask if there else None


def _ask(question: str) -> bool:
    """Ask on stderr, as stdout is the result's; whether the answer is yes.

    No answer is no, after a while: other commands wait for the lock meanwhile.
    """
    from select import select

    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answered = select([sys.stdin], [], [], ASK_SECONDS)[0]
    if not answered:
        print(file=sys.stderr)
    return bool(answered) and sys.stdin.readline().strip().lower() in ("y", "yes")


def _read_key() -> str:
    """Read the words or the key of a wallet that is not here."""
    from picopayments_cli.passphrases import secret_from_stdin

    return secret_from_stdin("The wallet's words, or its key: ", echo=False)


def _bars() -> Any:
    """Show on the terminal how a wait goes."""
    from picopayments_cli.human import bars

    return bars()


# Output -------------------------------------------------------------------------------------------------------------


def _written(command: str, result: Any, human: bool) -> str:
    if not human:
        return json.dumps(result, indent=2, sort_keys=True)
    from picopayments_cli.human import text_of

    return text_of(command, result)


class OutputLost(Exception):
    """stdout does not take what was to be written."""


def write_out(document: str, told: str = "The command was carried out, but its result could not be written") -> None:
    """Write a document on stdout, and a letter that it can't write as its number.

    Raises OutputLost, which tells what is lost.
    """
    if sys.stdout is None:
        raise OutputLost(f"{told}: stdout is closed.")
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(document.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        _drop(sys.stdout)
        raise OutputLost(f"{told}: {error}.") from error


def _show_line(payment: dict[str, Any]) -> None:
    """Write a payment on a line of its own. Raises OutputLost."""
    told = f"The payment of index {payment['index']} was received, but could not be written"
    write_out(json.dumps(payment, sort_keys=True), told)


def _show_event(event: dict[str, Any]) -> None:
    """Write an event on a line of its own. Raises OutputLost."""
    write_out(json.dumps(event), f"The event {event['number']} could not be written")


def announce(where: dict[str, Any]) -> None:
    """Write on stdout where a server accepts requests. Raises OutputLost."""
    write_out(json.dumps(where, sort_keys=True), "The server was stopped, as its line could not be written")


def keep_streams() -> None:
    """Send to nowhere what goes to a stderr that is closed: Python would print it on stdout.

    No file that is opened later gets the number of a closed stream either: it would take in what is printed there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    atexit.register(_tell, "")  # what a full stderr did not take would fail once more at exit, and change the exit code


def _drop(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # else the flush at exit would fail once more


def refuse(error: Exception, debug: bool, *, human: bool = False) -> int:
    """Print an error's line on stderr, JSON or for people, with ``debug`` its traceback too; the exit code."""
    if debug:
        import traceback

        _tell("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    from picopayments_cli.errors import PicopaymentsError

    if isinstance(error, OutputLost):
        return _fail(1, "OutputLost", str(error), human=human)
    if isinstance(error, PicopaymentsError):
        return _fail(error.exit_code, error.name, error.message, error.data, human=human)
    advice = "report it together with what stands above" if debug else "run the command again with --debug"
    told = f"A fault of this program: please {advice}. {type(error).__name__}: {error}"
    return _fail(1, "InternalError", told, human=human)


def interrupted(message: str, *, human: bool = False) -> int:
    """Print the line of a command that was stopped; the exit code."""
    return _fail(exit_code(), "Interrupted", message, human=human)


def _fail(code: int, name: str, message: str, data: dict[str, Any] | None = None, *, human: bool = False) -> int:
    error = all_typed({"name": name, "message": message, "data": data or {}})
    line = json.dumps({"error": error}, sort_keys=True, default=str)
    if human:
        message = error["message"]
        line = "error: " + " ".join("".join(c if c.isprintable() else " " for c in f"{message} ({name})").split())
    _tell(f"{line}\n")
    return code


def as_typed(text: str) -> str:
    """Give each command of this program that a text names the arguments that the user typed before the command.

    User and password in a URL are hidden: texts end up in logs.
    """
    if not Parser.typed:
        return text
    from shlex import join

    from picopayments_cli.config import shown

    words: list[str] = []
    for word in Parser.typed:
        name, sign, value = word.partition("=") if word.startswith("--") else ("", "", word)
        words.append(f"{name}{sign}{shown('_url', value)}" if "://" in value else word)
    return text.replace(f"`{Parser.program} ", f"`{Parser.program} {join(words)} ")


def all_typed(value: Any) -> Any:
    """Give the commands in all errors of a value their config arguments, as ``as_typed`` does.

    In an error's data too, which scripts show to people; nothing else is touched: strangers write memos.
    """
    if isinstance(value, dict) and {"name", "message", "data"} <= value.keys():
        data = {name: as_typed(item) if isinstance(item, str) else item for name, item in value["data"].items()}
        return {**value, "message": as_typed(value["message"]), "data": all_typed(data)}
    if isinstance(value, dict):
        return {name: all_typed(item) for name, item in value.items()}
    return [all_typed(item) for item in value] if isinstance(value, list) else value


def _tell(text: str) -> None:
    """Write on stderr; where that takes nothing, the exit code is all that is left to tell."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)


# Input --------------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse's parser, where a usage error ends in the line that every failure ends in, JSON or for people."""

    human = False
    program = PROG
    typed: Sequence[str] = ()  # the words before the command, of the program's own parser
    words: Sequence[str] = ()  # all of them, while they are parsed
    commands: dict[str, CommandParser]  # of the program's own parser

    def __init__(self, *, example: str, **settings: Any) -> None:
        import re

        super().__init__(allow_abbrev=False, formatter_class=Help, **settings)
        self._negative_number_matcher = re.compile(r"-[0-9.,]")  # -1XCP is a wrong quantity, and no option
        self.epilog = f"example:\n  {self.prog.partition(' ')[0]} {example}"

    def read(self, words: list[str]) -> dict[str, Any]:
        """Parse words, ``_`` in the names of options taken for ``-``. Raises SystemExit, OutputLost."""
        words = dashed(words)
        self._check_first(words)
        Parser.words = words
        found, rest = self.parse_known_args(words)
        if rest:
            self._off(rest, vars(found).get("command"))
        return vars(found)

    def _check_first(self, words: list[str]) -> None:
        """Refuse an unknown option before the command: argparse would take its value for the command."""
        value = False
        for position, word in enumerate(words):
            option, equals, _ = word.partition("=")
            if value:
                value = False
            elif not option.strip("-") or not option.startswith("--"):
                return
            elif option in self._option_string_actions:
                value = self._option_string_actions[option].nargs is None and not equals
            else:
                self._off(words[position : position + 1], later=words[position + 1 :])

    def before_command(self, words: list[str]) -> list[str]:
        """The options that stand before the command, with their values; the words are known to parse."""
        value = False
        for position, word in enumerate(words):
            option, equals, _ = word.partition("=")
            if not value and option not in self._option_string_actions:
                return words[:position]
            value = not value and not equals and self._option_string_actions[option].nargs is None
        return words

    def _off(self, words: list[str], command: str | None = None, later: Sequence[str] = ()) -> NoReturn:
        """Refuse words that were not recognized; guess where the first belongs, or what it was meant to be.

        ``later``: the words behind it, where it stands before the command.
        """
        from picopayments_cli import placing

        option = words[0].partition("=")[0]
        if command and option in self._option_string_actions:
            guess = f" {option} goes before {command}."
        elif command:
            guess = placing.behind(option, command, self.commands[command])
        else:
            guess = placing.before(option, later, self.commands)
        if not guess and option.startswith("--"):
            from picopayments_cli.suggestions import did_you_mean

            guess = did_you_mean(option, [*self._words_of(command), *self._option_string_actions])
        asked = self.commands[command] if command else self  # whose usage is shown
        asked.error(f"unrecognized arguments: {' '.join(words)}.{guess}")

    def _words_of(self, command: str | None) -> list[str]:
        """The options of a command, and the words that it takes by place."""
        if not command:
            return []
        parser = self.commands[command]
        places = (action.choices or () for action in parser._get_positional_actions())
        return [*parser._option_string_actions, *(word for choices in places for word in choices)]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse what is none of an argument's choices. Raises ArgumentError."""
        if action.choices is not None and value != [] and value not in action.choices:  # []: no words at all
            from picopayments_cli.suggestions import did_you_mean

            known = [str(choice) for choice in action.choices]
            guess = self._as_value_of_option(action, value) or did_you_mean(str(value), known)
            guess = guess or f" Choose from {', '.join(known)}."
            raise argparse.ArgumentError(action, f"there is no {value!r}.{guess}")

    def _as_value_of_option(self, action: argparse.Action, value: Any) -> str:
        """Tell of an option before a command of a group, whose value was taken for that command."""
        at = Parser.words.index(value) if value in Parser.words else 0
        if not isinstance(action.choices, dict) or not at or not Parser.words[at - 1].startswith("--"):
            return ""
        from picopayments_cli import placing

        return placing.before(Parser.words[at - 1], Parser.words[at:], action.choices)

    def error(self, message: str) -> NoReturn:
        """Print usage, message and JSON on stderr; exit with code 2."""
        self._print_message(f"{self.format_usage()}{self.prog}: error: {message}\n", sys.stderr)
        sys.exit(_fail(2, "UsageError", f"{message} (`{self.prog} --help` shows the usage)", human=self.human))

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print help or version as a result on stdout, all else on stderr. Raises OutputLost."""
        if file is sys.stderr:
            _tell(message)
        else:
            write_out(message.rstrip("\n"), "The text could not be written")


class CommandParser(Parser):
    """The parser of one command, which is set up once something is asked of it: of all commands one is typed."""

    def __init__(self, *, arguments: tuple[tuple[str, dict[str, Any]], ...], **settings: Any) -> None:
        self._later = (arguments, settings)

    def error(self, message: str) -> NoReturn:
        """Tell also how something is given that is missing, as it was given as an option."""
        if "are required" in message:
            from picopayments_cli import placing

            message += f".{told}" if (told := placing.missing(Parser.words, self)) else ""
        super().error(message)

    def __getattr__(self, name: str) -> Any:
        """Set the parser up where it lacks what is asked for. Raises AttributeError."""
        later = vars(self).pop("_later", None)
        if later is None:
            raise AttributeError(name)
        super().__init__(**later[1])
        self.set_defaults(command=self.prog.partition(" ")[2])
        for flag, settings in later[0]:
            self.add_argument(flag, **settings)
        return getattr(self, name)


class _Uncoloured:
    """A theme of Python 3.14's argparse without colours."""

    def __getattr__(self, name: str) -> str:
        return ""


class Help(argparse.RawDescriptionHelpFormatter):
    """Help of a fixed width, in no colours: the terminal's own, and colours, take modules that are slow to load."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=HELP_WIDTH)

    def _set_color(self, color: bool) -> None:
        """Take no colours; asked from Python 3.14 on."""
        self._theme, self._decolor = _Uncoloured(), str


def dashed(argv: list[str]) -> list[str]:
    """The arguments, with ``-`` for every ``_`` in the names of options."""
    words: list[str] = []
    for position, word in enumerate(argv):
        if word == "--":
            return words + argv[position:]
        name, equals, value = word.partition("=")
        words.append(name.replace("_", "-") + equals + value if word.startswith("--") else word)
    return words


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, which ends the process. Anybody else is not answered here."""
    if "_ARGCOMPLETE" in os.environ:
        from picopayments_cli.completion import answer

        answer(parser)


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add ``--version``."""
    from picopayments_cli import __version__

    text = "print the version of this program, and exit"
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}", help=text)


def add_network(parser: argparse._ActionsContainer) -> None:
    """Add ``--network``, and its short forms."""
    network = parser.add_mutually_exclusive_group()
    network.add_argument(
        "--network",
        choices=NETWORKS,
        metavar="NAME",
        help=f"{', '.join(NETWORKS)} (PICOPAYMENTS_NETWORK; default: mainnet)",
    )
    for name in NETWORKS[1:]:
        network.add_argument(
            f"--{name}", dest="network", action="store_const", const=name, help=f"same as --network {name}"
        )


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        description="Micropayments in Counterparty assets, through a hub.",
        example="--testnet status",
        usage="%(prog)s [config arguments] <command> [command arguments]",
    )
    add_version(parser)
    config = parser.add_argument_group("config arguments")
    add_network(config)
    config.add_argument("--basedir", metavar="PATH", help="folder of keys and connections (PICOPAYMENTS_BASEDIR)")
    config.add_argument("--hub-url", metavar="URL", help="the hub's URL (PICOPAYMENTS_HUB_URL)")
    config.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        help="seconds that an answer of hub or node may take (PICOPAYMENTS_TIMEOUT; default: 60)",
    )
    config.add_argument(
        "--ca-file",
        metavar="FILE",
        help="certificate authorities in PEM, in place of the system's (PICOPAYMENTS_CA_FILE)",
    )
    config.add_argument(
        "--backup", metavar="FILE", help="also write each change into this backup file (PICOPAYMENTS_BACKUP)"
    )
    config.add_argument(
        "--string-amounts", action="store_true", help="print each quantity as text: its satoshis in decimal digits"
    )
    config.add_argument(
        "--passphrase-fd",
        metavar="NUMBER",
        type=descriptor,
        help="file descriptor with the wallet's passphrase (PICOPAYMENTS_PASSPHRASE)",
    )
    config.add_argument("--human", action="store_true", help="tables and plain lines for people, not JSON")
    config.add_argument("--debug", action="store_true", help="tell more on stderr, tracebacks included")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="<command>", required=True, prog=PROG, parser_class=CommandParser
    )
    parser.commands = {}
    groups = {"": commands}
    for name, command in COMMANDS.items():
        group, _, last = name.rpartition(" ")
        if group not in groups:
            groups[group] = _add_group(commands, group)
        parser.commands[name] = _add_command(groups[group], last, command)
    return parser


def _add_command(commands: argparse._SubParsersAction[CommandParser], name: str, command: Command) -> CommandParser:
    text, arguments = command.text, command.arguments
    summary = text.partition("\n")[0]
    return commands.add_parser(name, help=summary, description=text, example=command.example, arguments=arguments)


def _add_group(
    commands: argparse._SubParsersAction[CommandParser], name: str
) -> argparse._SubParsersAction[CommandParser]:
    """Add a command that has commands of its own."""
    group = _add_command(commands, name, GROUPS[name])
    return group.add_subparsers(
        title="commands", metavar="<command>", required=True, prog=f"{PROG} {name}", parser_class=CommandParser
    )
