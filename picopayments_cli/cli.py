"""The client's command line: arguments in, one JSON document on stdout, errors on stderr, exit codes.

Only argparse, json, os and sys are imported up here, and not even typing: ``version`` and ``--help`` start at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TextIO

PROG = "picopayments-cli"
NETWORKS = ("mainnet", "testnet", "testnet4", "signet", "regtest")
CONFIG = ("network", "basedir", "hub_url", "timeout")
MAX_NUMBER = 2**63 - 1
MAX_SECONDS = 3600
MAX_DURATION = 31_536_000  # seconds: a year
ASK_SECONDS = 30  # that a question waits for its answer: less than others wait for the lock
HELP_WIDTH = 80
NOT_SERVED = ("serve", "demo", "listen")
GOES_ON = "Run the command again: it goes on where it stopped."
NEXT = {  # after an interrupt of a command that does another thing when it is run again
    "blocksend": "The payment may have left, and run again the command pays again. See first what has left: "
    "`picopayments-cli searchrawtxs ADDRESS --unconfirmed`, with the wallet's address.",
    "connect": "See first with `picopayments-cli status` whether the connection is there: run again the command opens "
    "another one.",
    "pay": "See first with `picopayments-cli payments` whether the payment is there: run again without its --token the "
    "command pays once more.",
    "queuepayment": "See first with `picopayments-cli status` whether the payment is queued: run again without its "
    "--token the command queues another one.",
    "mine": "Run again the command mines as many blocks once more.",
    "faucet": "Run again the command gives as much once more.",
    "demo": "Run again the command starts anew.",
}


def positive(text: str) -> int:
    """An integer from 1 to 2^63 - 1, in plain decimal digits. Raises argparse.ArgumentTypeError."""
    plain = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_NUMBER))
    number = int(text) if plain else 0
    if not 0 < number <= MAX_NUMBER:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MAX_NUMBER}")
    return number


def number(text: str) -> int:
    """An integer from 0 to 2^63 - 1, in plain decimal digits. Raises argparse.ArgumentTypeError."""
    return 0 if text == "0" else positive(text)


def port(text: str) -> int:
    """A TCP port, 0 for a free one. Raises argparse.ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= len("65535") and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: a whole number from 0 to 65535")
    return int(text)


def quantity(text: str) -> int | str:
    """A quantity: satoshis as ``positive`` takes them, or text such as 1.5XCP, of which the unit is still to be judged.

    Raises argparse.ArgumentTypeError.
    """
    if not any(map(str.isalpha, text)):
        try:
            return positive(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error} (satoshis); with a unit it may have decimals: 1.5XCP") from None
    from picopayments_cli.errors import InvalidQuantity
    from picopayments_cli.quantities import read_quantity

    try:
        return str(read_quantity(text))
    except InvalidQuantity as error:
        raise argparse.ArgumentTypeError(error.message) from error


def quantity_or_zero(text: str) -> int | str:
    """A quantity, or 0. Raises argparse.ArgumentTypeError."""
    return 0 if text == "0" else quantity(text)


def fee_rate(text: str) -> int | str:
    """A whole number of sat/vB, or ``none``. Raises argparse.ArgumentTypeError."""
    return text if text == "none" else positive(text)


def seconds(text: str) -> float:
    """Seconds in plain decimal digits, more than 0 and at most MAX_SECONDS. Raises argparse.ArgumentTypeError."""
    whole, _, rest = text.partition(".")
    plain = text.isascii() and whole.isdecimal() and len(text) <= len("3600.000") and (not rest or rest.isdecimal())
    if not plain or not 0 < float(text) <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, and at most {MAX_SECONDS}")
    return float(text)


def duration(text: str) -> int:
    """Seconds in plain decimal digits, at most MAX_DURATION. Raises argparse.ArgumentTypeError."""
    plain = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_DURATION))
    if not plain or not 0 < int(text) <= MAX_DURATION:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds from 1 to {MAX_DURATION}")
    return int(text)


class Command:
    """One command: its help, an example, and its arguments, which are those of the function of that name in ``api``."""

    def __init__(self, text: str, example: str, *arguments: tuple[str, dict[str, Any]]) -> None:
        self.text = text
        self.example = example
        self.arguments = arguments


def argument(name: str, text: str, **settings: Any) -> tuple[str, dict[str, Any]]:
    """One argument of a command, as argparse takes it: an option where the name begins with ``--``."""
    return name, {"help": text, **settings}


ASSET = argument("--asset", "only this asset")
HANDLE = argument("--handle", "only the connection of this handle")
SEEN = argument("--handle", "only the connection whose handle begins so, with 8 digits or more")
UNCONFIRMED = argument("--unconfirmed", "those of the mempool, too", action="store_true")
YES = argument("--yes", "do not ask, however much it is", action="store_true")
STATES = ("sent", "received", "refused", "queued", "unanswered")
UNITS = "in satoshis, or with its unit such as 1.5XCP"
COMMANDS = {
    "version": Command("Print the version of this program.", "version"),
    "hubstatus": Command(
        "Show the hub's connections, terms, funding addresses and liquidity.", "--testnet hubstatus --asset XCP", ASSET
    ),
    "balances": Command(
        "Show the confirmed funds of the wallet, or of another address, in satoshis.",
        "--testnet balances --asset XCP",
        ASSET,
        argument("--address", "the address to look at instead of the wallet's"),
    ),
    "blocksend": Command(
        "Send an asset, or BTC, by a transaction of its own. Prints its txid.\n\n"
        "Typed again it pays again. An asset comes with 546 satoshis at least. Some\n"
        "bitcoin stays in the wallet for fees that can't wait.",
        "--testnet blocksend XCP DESTINATION 1.5XCP",
        argument("asset", "the asset to send, or BTC", metavar="ASSET"),
        argument("destination", "the address that gets it", metavar="DESTINATION"),
        argument("quantity", f"how much, {UNITS}", metavar="QUANTITY", type=quantity),
        argument(
            "--extra-btc",
            "bitcoin that goes with an asset, in satoshis, instead of the least possible",
            metavar="QUANTITY",
            type=quantity_or_zero,
            default=0,
        ),
        YES,
    ),
    "connect": Command(
        "Open a connection with the hub, by a deposit that payments draw on.",
        "--testnet connect XCP 1000000",
        argument("asset", "the asset to pay and be paid in", metavar="ASSET"),
        argument(
            "quantity",
            f"the deposit, {UNITS}: the most that can be paid from it",
            metavar="QUANTITY",
            type=quantity,
        ),
        argument(
            "--expire-time",
            "after so many blocks the deposit can be taken back (default: %(default)s)",
            metavar="BLOCKS",
            type=positive,
            default=1024,
        ),
        argument(
            "--delay-time",
            "so many blocks the hub waits for its payout (default: 2, on mainnet 144)",
            metavar="BLOCKS",
            type=positive,
        ),
        YES,
    ),
    "queuepayment": Command(
        "Queue a payment, which the next sync makes. Prints its token.",
        "--testnet queuepayment SOURCE DESTINATION 1337",
        argument("source", "handle of the connection that pays", metavar="SOURCE"),
        argument("destination", "handle of the connection that is paid", metavar="DESTINATION"),
        argument("quantity", f"how much, {UNITS}", metavar="QUANTITY", type=quantity),
        argument("--token", "what the payee knows the payment by (default: one is drawn)"),
        YES,
    ),
    "pay": Command(
        "Make a payment now. Prints what became of it; code 0 if the hub took it.\n\n"
        "Run again with the same token it pays once. The sync charges its fee.",
        "--testnet pay SOURCE DESTINATION 1337 --token c0ffee",
        argument("source", "handle of the connection that pays", metavar="SOURCE"),
        argument("destination", "handle of the connection that is paid, or a payment request", metavar="DESTINATION"),
        argument("quantity", f"how much, {UNITS}; a request names it", metavar="QUANTITY", type=quantity, nargs="?"),
        argument("--token", "what the payee knows the payment by (default: one is drawn)"),
        YES,
    ),
    "payments": Command(
        "List payments: sent, received, refused, and those on their way.\n\n"
        "A script goes on with --since and the last index that it has seen.",
        "--testnet payments --since 41 --limit 100",
        SEEN,
        ASSET,
        argument("--state", f"only in this state: {', '.join(STATES)}", metavar="STATE", choices=STATES),
        argument("--since", "only those after this index, the first ones", metavar="INDEX", type=number),
        argument("--limit", "at most so many; without --since the newest", metavar="NUMBER", type=positive),
        argument("--csv", "print CSV, not JSON", action="store_true"),
    ),
    "cancelpayment": Command(
        "Cancel a queued payment. Prints whether it was queued.\n\n"
        "A payment that a sync has sent can't be cancelled, answered or not.",
        "--testnet cancelpayment b3f1c2a0d4e59687",
        argument("token", "the payment's token, as queuepayment printed it", metavar="TOKEN"),
    ),
    "status": Command(
        "Show the connections and the wallet.",
        "--testnet status",
        SEEN,
        argument("--verbose", "show more of each connection", action="store_true"),
    ),
    "sync": Command(
        "Make and receive payments; recover the funds of closed connections.\n\n"
        "What no command has reported yet is reported, whichever brought it.\n"
        "Each open connection is charged the hub's sync_fee.",
        "--testnet sync",
        HANDLE,
    ),
    "request": Command(
        "Make a payment request, which `decode` explains and `pay` pays.\n\n"
        "Prints it as a JSON string. Its token is the SHA-256 of the receipt that the\n"
        "payer gets.",
        "--testnet request HANDLE 1337 --memo coffee --expires 600",
        argument("handle", "the connection that is to be paid", metavar="HANDLE"),
        argument("quantity", f"how much, {UNITS}", metavar="QUANTITY", type=quantity),
        argument("--memo", "what it is for, 200 bytes at most", metavar="TEXT", default=""),
        argument(
            "--expires", "for how long it is good (default: a day)", metavar="SECONDS", type=duration, default=86_400
        ),
        argument("--qr", "draw it on stderr as a QR code, too", action="store_true"),
    ),
    "decode": Command(
        "Explain a payment request. Needs neither a hub nor files.",
        "decode REQUEST",
        argument("request", "the payment request", metavar="REQUEST"),
    ),
    "listen": Command(
        "Wait for payments, and print each as it arrives: one JSON object a line.\n\n"
        "It syncs when the hub says that something waits, which costs nothing to ask,\n"
        "and is more than the sync_fee. Exit code 6: none arrived before the time-out.",
        "--testnet listen --after 17 --timeout 600",
        argument("--after", "those behind this index first (default: only from now on)", metavar="INDEX", type=number),
        argument(
            "--timeout",
            "listen for so long (default: until Ctrl-C)",
            metavar="SECONDS",
            type=duration,
            dest="seconds",
        ),
    ),
    "close": Command(
        "Close a connection and settle it on the blockchain.\n\n"
        "Tells the hub, and syncs once more, which charges the hub's sync_fee.",
        "--testnet close HANDLE",
        argument("handle", "the connection's handle", metavar="HANDLE"),
    ),
    "history": Command(
        "List what was done: deposits, payments, fees, transactions.",
        "--testnet history",
        SEEN,
    ),
    "cull": Command(
        "Put connections that are over into the archive. Prints their handles.\n\n"
        "Over is a connection that is closed and of which nothing is left, finally.",
        "--testnet cull",
        HANDLE,
    ),
    "listutxos": Command(
        "List the unspent outputs of an address.",
        "--testnet listutxos ADDRESS --unconfirmed",
        argument("address", "the address", metavar="ADDRESS"),
        UNCONFIRMED,
    ),
    "searchrawtxs": Command(
        "List the transactions of an address, oldest first.",
        "--testnet searchrawtxs ADDRESS --unconfirmed",
        argument("address", "the address", metavar="ADDRESS"),
        UNCONFIRMED,
    ),
    "getrawtx": Command(
        "Print a transaction in hex, or null where it is unknown.",
        "--testnet getrawtx TXID --verbose",
        argument("txid", "the transaction's id", metavar="TXID"),
        argument("--verbose", "print its parts: an object", action="store_true"),
    ),
    "config": Command(
        "Show the settings and where they come from, or set one in the settings file.\n\n"
        "Passwords are not shown. An empty VALUE takes a setting out of the file.",
        "--testnet config timeout 20",
        argument("key", "only this setting", metavar="KEY", nargs="?"),
        argument("value", "the value to set", metavar="VALUE", nargs="?"),
    ),
    "serve": Command(
        "Serve the commands over JSON-RPC, and watch over the wallet.\n\n"
        "It looks at the chain, settles in time, punishes, and syncs what is queued or\n"
        "waits at the hub. Once it accepts requests it prints its URL and the paths of\n"
        "two cookie files, whose content is user:password for HTTP Basic authentication:\n"
        "one for all methods, one for programs that only are paid. Methods are named\n"
        "like commands, their parameters like arguments. Ctrl-C stops it.",
        "--testnet serve --port 0 --webhook http://127.0.0.1:8000/paid",
        argument("--host", "the loopback address to serve at (default: %(default)s)", default="127.0.0.1"),
        argument(
            "--port",
            "the port, 0 for a free one (default: 1000 above that of the network's hub, such as 6000 on mainnet)",
            type=port,
        ),
        argument(
            "--every",
            "look at the chain so often, or sooner (default: %(default)g)",
            metavar="SECONDS",
            type=seconds,
            default=60.0,
        ),
        argument("--events", "add each event to a file, one JSON object a line; - for stdout", metavar="FILE"),
        argument("--exec", "start a program for each event, which gets it on stdin", metavar="PROGRAM", dest="program"),
        argument("--webhook", "post each event to a URL, signed with a secret", metavar="URL"),
    ),
    "mine": Command(
        "Mine blocks (regtest only). Prints their hashes.",
        "--regtest mine 6",
        argument("blocks", "how many (default: %(default)s)", metavar="BLOCKS", nargs="?", type=positive, default=1),
    ),
    "faucet": Command(
        "Give an address bitcoins and assets (regtest only).\n\n"
        "Without arguments it gives the wallet 1 BTC and 100 XCP.",
        "--regtest faucet --asset XCP --quantity 5000000000",
        argument("address", "who gets them (default: the wallet)", metavar="ADDRESS", nargs="?"),
        argument("--btc", "how many bitcoins, in satoshis or such as 0.1BTC", metavar="QUANTITY", type=quantity),
        argument("--asset", "which asset"),
        argument("--quantity", f"how much of the asset, {UNITS}", type=quantity),
    ),
    "feerate": Command(
        "Set the fee rate that the node estimates, and its minimum (regtest only).\n\n"
        "Blocks leave out what pays less than the estimate. Without one they take all.\n"
        "The mempool throws out what pays less than its minimum. Prints both.",
        "--regtest feerate 20 --minimum 5",
        argument("rate", "the estimate in sat/vB, or none", metavar="RATE", nargs="?", type=fee_rate),
        argument("--minimum", "what the mempool asks for at least, in sat/vB", metavar="RATE", type=positive),
    ),
    "demo": Command(
        "Show whole payments on this machine (regtest only).\n\n"
        "A node, a hub and four clients: pay both ways, cheat, close, settle, add up.",
        "--regtest demo",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code. ``argv`` leaves out the program's name and is by default the process's own.

    Raises SystemExit with code 2 for a usage error and 0 for ``--help``, as argparse does.
    """
    keep_stderr()
    arguments = vars(_parser().parse_args(dashed(sys.argv[1:] if argv is None else argv)))
    debug = arguments.pop("debug")
    try:
        if arguments["command"] == "serve":
            return _serve(debug, **arguments)
        if arguments["command"] == "listen":
            _run(debug, tell=lambda _: None, show=_show_line, **arguments)
            return 0
        _run(debug, ask=_asker(), tell=write_out if arguments.get("csv") else _write_json, **arguments)
    except KeyboardInterrupt:
        return _fail(130, "Interrupted", f"Interrupted. {NEXT.get(arguments['command'], GOES_ON)}")
    except Exception as error:
        return refuse(error, debug)
    return 0


def _run(
    debug: bool,
    *,
    command: str,
    tell: Callable[[Any], None],
    ask: Callable[[str], bool] | None = None,
    **arguments: Any,
) -> None:
    """Run a command, and ``tell`` its result, ready for JSON; ``ask`` has the user answer. Raises what they raise."""
    if command == "version":
        from picopayments_cli import __version__

        tell(__version__)
        return
    _log_to_stderr(debug)
    from picopayments_cli import api

    config = {name: arguments.pop(name) for name in CONFIG}
    with api.open_session(**config, environ=os.environ, ask=ask) as session:
        api.carry_out(session, getattr(api, command), arguments, tell)


def _serve(debug: bool, *, command: str, **given: Any) -> int:
    """Serve the other commands, with the same config arguments, until a signal comes; the exit code."""
    config = {name: given[name] for name in CONFIG}

    def offered(name: str) -> Any:
        def run(*values: Any, **members: Any) -> Any:
            told: list[Any] = []
            _run(debug, command=name, tell=told.append, **config, **_from_json(name, values, members))
            return told[0]

        return run

    commands = {name: offered(name) for name in COMMANDS if name not in NOT_SERVED}
    own: dict[str, Any] = {"commands": commands, "ready": announce, "show": _show_event}
    _run(debug, command=command, tell=lambda _: None, **own, **given)
    return 0


def _log_to_stderr(debug: bool) -> None:
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s" if debug else "%(message)s"))
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


# Output -------------------------------------------------------------------------------------------------------------


class OutputLost(Exception):
    """stdout does not take what was to be written."""


def write_out(document: str, told: str = "The command was carried out, but its result could not be written") -> None:
    """Write a document on stdout. Raises OutputLost, which tells what is lost."""
    if sys.stdout is None:
        raise OutputLost(f"{told}: stdout is closed.")
    try:
        print(document, flush=True)
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


def _write_json(result: Any) -> None:
    """Write a command's result on stdout. Raises OutputLost."""
    write_out(json.dumps(result, indent=2, sort_keys=True))


def announce(where: dict[str, Any]) -> None:
    """Write on stdout where a server accepts requests. Raises OutputLost."""
    write_out(json.dumps(where, sort_keys=True), "The server was stopped, as its line could not be written")


def keep_stderr() -> None:
    """Send to nowhere what goes to a stderr that is closed: Python would print it on stdout."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def _drop(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # else the flush at exit would fail once more


def refuse(error: Exception, debug: bool) -> int:
    """Print an error's JSON line on stderr, with ``debug`` its traceback too; the exit code."""
    if debug:
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
    from picopayments_cli.errors import PicopaymentsError

    if isinstance(error, OutputLost):
        return _fail(1, "OutputLost", str(error))
    if isinstance(error, PicopaymentsError):
        return _fail(error.exit_code, error.name, error.message, error.data)
    advice = "report it together with what stands above" if debug else "run the command again with --debug"
    return _fail(1, "InternalError", f"A fault of this program: please {advice}. {type(error).__name__}: {error}")


def _fail(code: int, name: str, message: str, data: dict[str, Any] | None = None) -> int:
    error = {"name": name, "message": message, "data": data or {}}
    try:
        print(json.dumps({"error": error}, sort_keys=True, default=str), file=sys.stderr, flush=True)
    except OSError:
        _drop(sys.stderr)  # the exit code is all that is left to tell
    return code


# Input --------------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse's parser, where a usage error ends in the JSON line that every failure ends in."""

    def __init__(self, *, example: str, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=Help, **settings)
        self.epilog = f"example:\n  {self.prog.partition(' ')[0]} {example}"

    def error(self, message: str) -> NoReturn:
        """Print usage, message and JSON on stderr; exit with code 2."""
        self._print_message(f"{self.format_usage()}{self.prog}: error: {message}\n", sys.stderr)
        sys.exit(_fail(2, "UsageError", f"{message} (`{self.prog} --help` shows the usage)"))


class Help(argparse.RawDescriptionHelpFormatter):
    """Help of a fixed width: asking the terminal for its own imports modules that are slow to load."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=HELP_WIDTH)


def dashed(argv: list[str]) -> list[str]:
    """The arguments, with ``-`` for every ``_`` in the names of options."""
    words: list[str] = []
    for position, word in enumerate(argv):
        if word == "--":
            return words + argv[position:]
        name, equals, value = word.partition("=")
        words.append(name.replace("_", "-") + equals + value if word.startswith("--") else word)
    return words


class Checker(argparse.ArgumentParser):
    """argparse's parser for what comes as JSON. Raises UsageError."""

    def error(self, message: str) -> NoReturn:
        """Refuse the call."""
        _off(self.prog, message)


def _off(command: str, message: str) -> NoReturn:
    from picopayments_cli.errors import UsageError

    raise UsageError(f"{command}: {message}.", command=command)


def _from_json(command: str, values: tuple[Any, ...], members: dict[str, Any]) -> dict[str, Any]:
    """A command's arguments, checked as if they had been typed; null is not given. Raises UsageError.

    ``values``: by place, in the order in which the command declares them, options included; or ``members``: by name.
    """
    declared = {_plain(name): (name, settings) for name, settings in COMMANDS[command].arguments}
    if len(values) > len(declared):
        _off(command, f"it takes {len(declared)} arguments, not {len(values)}")
    given = dict(zip(declared, values)) if values else {_plain(name): members[name] for name in members}  # noqa: B905
    unknown = sorted(set(given).difference(declared))
    if unknown:
        _off(command, f"it has no argument {unknown[0]!r}; it has: {', '.join(declared) or 'none'}")
    if len(given) < len(members):
        _off(command, "an argument is named twice")
    parser = Checker(prog=command, add_help=False, allow_abbrev=False)
    options: list[str] = []
    places: list[str] = []
    left_out = ""
    for plain, (name, settings) in declared.items():
        parser.add_argument(name, **settings)
        words = _words(command, name, settings, given.get(plain))
        if name.startswith("--"):
            options += words
        elif words and left_out:
            _off(command, f"{plain} needs {left_out}, too")
        else:
            places += words
            left_out = left_out or ("" if words else plain)
    return vars(parser.parse_args([*options, *(["--", *places] if places else [])]))


def _plain(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")


def _words(command: str, name: str, settings: dict[str, Any], value: Any) -> list[str]:
    """A JSON value as words of a command line."""
    if value is None:
        return []
    if settings.get("action") == "store_true":
        if not isinstance(value, bool):
            _off(command, f"{_plain(name)} must be true or false")
        return [name] if value else []
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "--":
        _off(command, f"{_plain(name)} must be text or a whole number")
    try:
        text = str(value)
    except ValueError:
        _off(command, f"{_plain(name)} has too many digits")
    return [f"{name}={text}" if name.startswith("--") else text]


def add_network(parser: argparse._ActionsContainer) -> None:
    """Add ``--network``, and its short forms."""
    network = parser.add_mutually_exclusive_group()
    network.add_argument(
        "--network", choices=NETWORKS, metavar="NAME", help=f"{', '.join(NETWORKS)} (default: mainnet)"
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
    config = parser.add_argument_group("config arguments")
    add_network(config)
    config.add_argument("--basedir", metavar="PATH", help="folder of keys and connections (PICOPAYMENTS_BASEDIR)")
    config.add_argument("--hub-url", metavar="URL", help="the hub's address (PICOPAYMENTS_HUB_URL)")
    config.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        help="how long an answer may take (PICOPAYMENTS_TIMEOUT; default: 60)",
    )
    config.add_argument("--debug", action="store_true", help="tell more on stderr, tracebacks included")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="<command>", required=True, prog=PROG)
    for name, command in COMMANDS.items():
        summary = command.text.splitlines()[0]
        sub = commands.add_parser(name, help=summary, description=command.text, example=command.example)
        for flag, settings in command.arguments:
            sub.add_argument(flag, **settings)
    return parser
