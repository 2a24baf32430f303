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
    from typing import Any, NoReturn

PROG = "picopayments-cli"
NETWORKS = ("mainnet", "testnet", "testnet4", "signet", "regtest")
MAX_NUMBER = 2**63 - 1
HELP_WIDTH = 80


def positive(text: str) -> int:
    """An integer from 1 to 2^63 - 1, in plain decimal digits. Raises argparse.ArgumentTypeError."""
    plain = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_NUMBER))
    number = int(text) if plain else 0
    if not 0 < number <= MAX_NUMBER:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MAX_NUMBER}")
    return number


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
    "connect": Command(
        "Open a connection with the hub, by a deposit that payments draw on.",
        "--testnet connect XCP 1000000",
        argument("asset", "the asset to pay and be paid in", metavar="ASSET"),
        argument(
            "quantity", "the deposit in satoshis: the most that can be paid from it", metavar="QUANTITY", type=positive
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
            "so many blocks the hub waits for its payout (default: %(default)s)",
            metavar="BLOCKS",
            type=positive,
            default=2,
        ),
    ),
    "queuepayment": Command(
        "Queue a payment, which the next sync makes. Prints its token.",
        "--testnet queuepayment SOURCE DESTINATION 1337",
        argument("source", "handle of the connection that pays", metavar="SOURCE"),
        argument("destination", "handle of the connection that is paid", metavar="DESTINATION"),
        argument("quantity", "how much, in satoshis of the asset", metavar="QUANTITY", type=positive),
        argument("--token", "what the payee knows the payment by (default: one is drawn)"),
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
        HANDLE,
        argument("--verbose", "show more of each connection", action="store_true"),
    ),
    "sync": Command(
        "Make and receive payments; recover the funds of closed connections.\n\n"
        "Each open connection is charged the hub's sync_fee.",
        "--testnet sync",
        HANDLE,
    ),
    "close": Command(
        "Close a connection and settle it on the blockchain.",
        "--testnet close HANDLE",
        argument("handle", "the connection's handle", metavar="HANDLE"),
    ),
    "history": Command(
        "List what was done: deposits, payments, fees, transactions.",
        "--testnet history",
        HANDLE,
    ),
    "cull": Command(
        "Put connections that are over into the archive. Prints their handles.\n\n"
        "Over is a connection that is closed and of which nothing is left, finally.",
        "--testnet cull",
        HANDLE,
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
        argument("--btc", "how many bitcoins, in satoshis", metavar="QUANTITY", type=positive),
        argument("--asset", "which asset"),
        argument("--quantity", "how much of the asset, in satoshis", type=positive),
    ),
    "demo": Command(
        "Show whole payments on this machine (regtest only).\n\n"
        "A node, a hub and two clients: connect, pay both ways, close, settle, add up.",
        "--regtest demo",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code. ``argv`` leaves out the program's name and is by default the process's own.

    Raises SystemExit with code 2 for a usage error and 0 for ``--help``, as argparse does.
    """
    arguments = vars(_parser().parse_args(_dashed(sys.argv[1:] if argv is None else argv)))
    debug = arguments.pop("debug")
    try:
        document = json.dumps(_run(debug, **arguments), indent=2, sort_keys=True)
    except KeyboardInterrupt:
        return _fail(130, "Interrupted", "Interrupted. Run the command again: it goes on where it stopped.")
    except Exception as error:
        return _refuse(error, debug)
    return _print(document)


def _run(
    debug: bool, *, command: str, network: str | None, basedir: str | None, hub_url: str | None, **arguments: Any
) -> Any:
    """The result of a command, ready for JSON. Raises whatever the command raises."""
    if command == "version":
        from picopayments_cli import __version__

        return __version__
    _log_to_stderr(debug)
    from picopayments_cli import api

    with api.open_session(network, basedir, hub_url, os.environ) as session:
        return getattr(api, command)(session, **arguments)


def _log_to_stderr(debug: bool) -> None:
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s" if debug else "%(message)s"))
    logger = logging.getLogger("picopayments_cli")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)


# What goes out ------------------------------------------------------------------------------------------------------


def _print(document: str) -> int:
    try:
        print(document, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the flush at exit would fail once more
        return _fail(1, "OutputLost", f"The command was carried out, but its result could not be written: {error}.")
    return 0


def _refuse(error: Exception, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)
    from picopayments_cli.channel.errors import PicopaymentsError

    if isinstance(error, PicopaymentsError):
        return _fail(error.exit_code, error.name, error.message, error.data)
    advice = "report it together with what stands above" if debug else "run the command again with --debug"
    return _fail(1, "InternalError", f"A fault of this program: please {advice}. {type(error).__name__}: {error}")


def _fail(code: int, name: str, message: str, data: dict[str, Any] | None = None) -> int:
    error = {"name": name, "message": message, "data": data or {}}
    print(json.dumps({"error": error}, sort_keys=True, default=str), file=sys.stderr, flush=True)
    return code


# What comes in ------------------------------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """argparse's parser, where a usage error ends in the JSON line that every failure ends in."""

    def __init__(self, *, example: str, **settings: Any) -> None:
        epilog = f"example:\n  {PROG} {example}"
        super().__init__(allow_abbrev=False, formatter_class=Help, epilog=epilog, **settings)

    def error(self, message: str) -> NoReturn:
        """Print usage, message and JSON on stderr; exit with code 2."""
        self.print_usage(sys.stderr)
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        sys.exit(_fail(2, "UsageError", f"{message} (`{self.prog} --help` shows the usage)"))


class Help(argparse.RawDescriptionHelpFormatter):
    """Help of a fixed width: asking the terminal for its own imports modules that are slow to load."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=HELP_WIDTH)


def _dashed(argv: list[str]) -> list[str]:
    """The same arguments, with ``-`` for every ``_`` in the names of options."""
    words: list[str] = []
    for position, word in enumerate(argv):
        if word == "--":
            return words + argv[position:]
        name, equals, value = word.partition("=")
        words.append(name.replace("_", "-") + equals + value if word.startswith("--") else word)
    return words


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        description="Micropayments in Counterparty assets, through a hub.",
        example="--testnet status",
        usage="%(prog)s [config arguments] <command> [command arguments]",
    )
    config = parser.add_argument_group("config arguments")
    network = config.add_mutually_exclusive_group()
    network.add_argument(
        "--network", choices=NETWORKS, metavar="NAME", help=f"{', '.join(NETWORKS)} (default: mainnet)"
    )
    for name in ("testnet", "regtest"):
        network.add_argument(
            f"--{name}", dest="network", action="store_const", const=name, help=f"same as --network {name}"
        )
    config.add_argument("--basedir", metavar="PATH", help="folder of keys and connections (PICOPAYMENTS_BASEDIR)")
    config.add_argument("--hub-url", metavar="URL", help="the hub's address (PICOPAYMENTS_HUB_URL)")
    config.add_argument("--debug", action="store_true", help="tell more on stderr, tracebacks included")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="<command>", required=True, prog=PROG)
    for name, command in COMMANDS.items():
        summary = command.text.splitlines()[0]
        sub = commands.add_parser(name, help=summary, description=command.text, example=command.example)
        for flag, settings in command.arguments:
            sub.add_argument(flag, **settings)
    return parser
