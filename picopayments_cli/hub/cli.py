"""The hub's command line: serve, or have the hub that runs carry out a command; JSON on stdout, logs on stderr."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from picopayments_cli.cli import (
    CommandParser,
    OutputLost,
    Parser,
    add_network,
    add_version,
    announce,
    complete,
    dashed,
    interrupted,
    keep_streams,
    refuse,
    write_out,
)
from picopayments_cli.commands import port
from picopayments_cli.extras import check_extra
from picopayments_cli.hub.commands import COMMANDS, call_of
from picopayments_cli.interrupts import told_alike

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from picopayments_cli.channel.networks import Network
    from picopayments_cli.hub.folder import Folder
    from picopayments_cli.hub.hub import Urls


MOST_WORKERS = 64


def main(argv: list[str] | None = None) -> int:
    """Run a hub until SIGINT or SIGTERM, or a command of its operator; the exit code.

    Raises SystemExit for a usage error and ``--help``.
    """
    keep_streams()
    words = sys.argv[1:] if argv is None else argv
    parser = _parser()
    Parser.program, Parser.human, Parser.typed = parser.prog, False, ()
    complete(parser)
    args = argparse.Namespace(debug=False, command=None)
    try:
        args = argparse.Namespace(**parser.read(words))
        Parser.typed = parser.before_command(dashed(words))
        if args.command is not None:
            with told_alike():
                _operate(args, os.environ)
            return 0
        _check(parser, args, os.environ)
        check_extra("hub", "picopayments-hub")
        _run(args, os.environ)
    except KeyboardInterrupt:
        if args.command is not None:
            return interrupted("The hub may carry the command out all the same: see `picopayments-hub status`.")
        return 0  # before it served: nothing was promised to anybody
    except Exception as error:
        return _refuse(error) if args.command is None else refuse(error, debug=args.debug)
    return 0


def _operate(args: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Have the hub of a network and basedir carry a command out, and print its result."""
    from picopayments_cli import config
    from picopayments_cli.hub.folder import Folder
    from picopayments_cli.hub.operator_socket import ANSWER_SECONDS, ask

    network = config.choose_network(args.network, environ)
    folder = Folder(config.choose_basedir(args.basedir, environ), network)
    if args.command == "restore" or vars(args).get("action") == "verify":
        write_out(json.dumps(_alone(args, folder), indent=2, sort_keys=True))
        return
    method, params = call_of(args.command, vars(args))
    result = ask(folder.socket_path, method, params, None if method == "backup" else ANSWER_SECONDS)
    if method == "backup":
        _check_written(params["file"])
    write_out(json.dumps(result, indent=2, sort_keys=True))


def _check_written(file: str) -> None:
    """Refuse a backup that the hub has written where nobody else sees it. Raises StoreUnusable."""
    from picopayments_cli.errors import StoreUnusable

    try:
        os.stat(file)
    except FileNotFoundError:
        raise StoreUnusable(
            f"The hub has written {file}, but there is no such file here: its service has a /tmp of its own, or it "
            "runs in a container. Name a folder that both see, such as one of ReadWritePaths in the service's unit.",
            path=file,
        ) from None
    except OSError:
        pass  # only the hub's user may look there


def _alone(args: argparse.Namespace, folder: Folder) -> dict[str, Any]:
    """Carry out what needs no hub that runs: read a backup through, or restore it."""
    check_extra("hub", f"picopayments-hub {args.command}")
    from pathlib import Path

    from picopayments_cli.hub.database import default_url
    from picopayments_cli.hub.restoring import restore, verify

    path = Path(args.file).absolute()
    if args.command == "backup":
        return verify(folder, path)
    return restore(folder, args.database or default_url(folder.basedir, folder.network.name), path)


def _refuse(error: Exception) -> int:
    """Print an error's JSON line; of a fault the log has the traceback."""
    from picopayments_cli.errors import PicopaymentsError

    if not isinstance(error, (PicopaymentsError, OutputLost)):
        logging.getLogger(__name__).error("the hub failed", exc_info=error)
    return refuse(error, debug=False)


def _run(args: argparse.Namespace, environ: Mapping[str, str]) -> None:
    from contextlib import ExitStack

    from picopayments_cli import config
    from picopayments_cli.hub.database import sqlite_path
    from picopayments_cli.hub.descriptors import raise_limit
    from picopayments_cli.hub.embedded import EmbeddedNode
    from picopayments_cli.hub.folder import Folder
    from picopayments_cli.hub.hub import Urls
    from picopayments_cli.jsonlog import log_to_stderr

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends the start as well as the service
    log_to_stderr(logging.DEBUG if args.debug else logging.INFO)
    raise_limit()
    network = config.choose_network(args.network, environ)
    folder = Folder(config.choose_basedir(args.basedir, environ), network)
    several = _has_several(args, folder)
    with ExitStack() as stack:
        stack.enter_context(folder.locked())
        folder.check_restored(sqlite_path(_database(args, folder)))
        chain_url = _chain_url(args, environ)
        if chain_url is None and network.name == "regtest":
            port = network.node_port if args.node_port is None else args.node_port
            node = EmbeddedNode(folder.basedir / "node", port, args.block_time)
            stack.callback(node.stop)
            chain_url = node.chain_url
        chain_url = chain_url or f"http://127.0.0.1:{network.node_port}/"
        bitcoin_url = args.bitcoin_url or environ.get("PICOPAYMENTS_BITCOIN_URL") or _bitcoin_url(network, chain_url)
        (_supervise if several else _serve)(args, folder, Urls(chain_url, bitcoin_url))


def _bitcoin_url(network: Network, chain_url: str) -> str:
    from picopayments_cli.errors import InvalidSetting

    if network.name == "regtest":
        return chain_url.rstrip("/") + "/bitcoin/"
    raise InvalidSetting(
        "The hub needs Bitcoin Core's JSON-RPC: name it in PICOPAYMENTS_BITCOIN_URL (its password stays out of the "
        f"list of processes) or with --bitcoin-url, as in http://USER:PASSWORD@127.0.0.1:{network.bitcoin_port}/."
    )


def _serve(args: argparse.Namespace, folder: Folder, urls: Urls) -> None:
    from contextlib import closing

    from picopayments_cli.hub.database import Database, sqlite_path
    from picopayments_cli.hub.hub import Hub
    from picopayments_cli.hub.operator import Operator
    from picopayments_cli.hub.operator_socket import served
    from picopayments_cli.hub.rounds import Rounds
    from picopayments_cli.hub.serving import serving
    from picopayments_cli.hub.stale_database import Witness, see_age

    offer = folder.offer()
    key = folder.key()
    url = _database(args, folder)
    path = sqlite_path(url)
    if path is not None and not args.restored:
        folder.check_database(path)
    with closing(Database(url)) as database:
        hub = Hub(folder.network, key, offer, database, urls, folder.marks_path)
        hub.draining = args.drain
        witness = Witness(folder.witness_path, database, hub.book)
        see_age(hub, witness, restored=args.restored)
        rounds = Rounds(hub, witness.note)
        try:
            rounds.prepare()
            certificate = {"ssl_cert": args.ssl_cert, "ssl_key": args.ssl_key}
            made = serving(rounds, folder, host=args.host, port=_port(args, folder), **certificate)
            rounds.timed = made.metrics.rounds.time
            rounds.when_drained = made.server.stop
            rounds.reloads = {
                "terms": lambda: rounds.take_offer(folder.offer()),
                "certificate": made.server.reload_certificate,
            }
            signal.signal(signal.SIGHUP, lambda *_: rounds.ask_reload())
            operator = Operator(rounds, folder, made.overviews, witness.outdate_copies)
            with made.metrics.counting_events(), served(folder.socket_path, operator.table()):
                made.server.run(lambda url: _announce(url, hub.network, hub.chain_url))
        finally:
            rounds.stop()


def _supervise(args: argparse.Namespace, folder: Folder, urls: Urls) -> None:
    """Serve by several processes; this one looks after them."""
    from contextlib import ExitStack

    from picopayments_cli.hub.joining import join, member_name
    from picopayments_cli.hub.supervisor import Supervisor
    from picopayments_cli.hub.worker import Orders
    from picopayments_cli.listening import bind

    member, url = member_name(), _database(args, folder)
    folder.token()  # before there are several who would make it
    with ExitStack() as stack:
        bound = [stack.enter_context(one) for one in bind(args.host, _port(args, folder))]
        shown = join(folder, url, member, urls, drain=args.drain, restored=args.restored)
        orders = Orders(
            network=folder.network.name,
            basedir=str(folder.basedir),
            chain_url=urls.chain,
            bitcoin_url=urls.bitcoin,
            database=str(url),
            member=member,
            host=args.host,
            ssl_cert=args.ssl_cert,
            ssl_key=args.ssl_key,
            debug=args.debug,
        )
        Supervisor(orders, bound, args.workers).run(lambda at: _announce(at, folder.network, shown))


def _has_several(args: argparse.Namespace, folder: Folder) -> bool:
    """Whether the hub is of several processes. Raises InvalidSetting where its database is of one."""
    from picopayments_cli.errors import InvalidSetting
    from picopayments_cli.hub.database import sqlite_path

    if args.workers is None or sqlite_path(_database(args, folder)) is None:
        return args.workers is not None
    if args.workers > 1:
        raise InvalidSetting(
            "SQLite is written by one process: leave --workers out, or name a PostgreSQL database in --database.",
            workers=args.workers,
        )
    return False


def _database(args: argparse.Namespace, folder: Folder) -> URL | str:
    from picopayments_cli.hub.database import default_url

    named: str | None = args.database
    return named or default_url(folder.basedir, folder.network.name)


def _port(args: argparse.Namespace, folder: Folder) -> int:
    return folder.network.hub_port if args.port is None else args.port


def _announce(url: str, network: Network, chain_url: str) -> None:
    announce({"hub_url": f"{url}/api/", "network": network.name, "chain_url": chain_url})


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds")
    return int(text)


def _workers(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes from 1 to {MOST_WORKERS}")
    return int(text)


def _parser() -> Parser:
    parser = Parser(
        prog="picopayments-hub",
        description="Serve micropayment channels in Counterparty assets.\n\n"
        "With a command: have the hub that runs on the same network and basedir carry\n"
        "the command out.",
        example="--regtest --basedir /tmp/hub",
        usage="%(prog)s [options] [<command> [command arguments]]",
    )
    add_version(parser)
    add_network(parser)
    parser.add_argument("--basedir", metavar="PATH", help="folder of key, terms and database (PICOPAYMENTS_BASEDIR)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (default: %(default)s)")
    parser.add_argument(
        "--port", type=port, help="the port, 0 for a free one (default: 1000 above that of Counterparty Core's API)"
    )
    parser.add_argument("--counterparty-url", metavar="URL", help="Counterparty Core's API (PICOPAYMENTS_CHAIN_URL)")
    parser.add_argument("--bitcoin-url", metavar="URL", help="Bitcoin Core's JSON-RPC (PICOPAYMENTS_BITCOIN_URL)")
    parser.add_argument(
        "--database", metavar="URL", help="the database, as SQLAlchemy names it (default: SQLite in the basedir)"
    )
    parser.add_argument(
        "--workers",
        metavar="NUMBER",
        type=_workers,
        help="how many processes answer; one more does the rounds; needs PostgreSQL (default: one process for all)",
    )
    parser.add_argument("--ssl-cert", metavar="FILE", help="serve HTTPS with this certificate")
    parser.add_argument("--ssl-key", metavar="FILE", help="the certificate's key")
    parser.add_argument("--node-port", type=port, help="port of the embedded node, 0 for a free one (default: 24000)")
    parser.add_argument(
        "--block-time",
        metavar="SECONDS",
        type=_seconds,
        help="seconds between two blocks of the embedded node; 0: none by itself (default: one for each transaction)",
    )
    parser.add_argument(
        "--drain",
        action="store_true",
        help="take no new connections, close those that are open, and end once all of the hub's money is in its wallet",
    )
    parser.add_argument(
        "--restored",
        action="store_true",
        help="for one start on a database from a backup: close all its connections, at what their clients show",
    )
    parser.add_argument("--debug", action="store_true", help="log more, tracebacks included")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="<command>", prog=parser.prog, parser_class=CommandParser
    )
    parser.commands = {}
    for name, command in COMMANDS.items():
        summary, given = command.text.partition("\n")[0], command.arguments
        parser.commands[name] = commands.add_parser(
            name, help=summary, description=command.text, example=command.example, arguments=given
        )
    return parser


def _chain_url(args: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    """Return the URL of Counterparty Core that a flag or the environment names."""
    return args.counterparty_url or environ.get("PICOPAYMENTS_CHAIN_URL")


def _check(parser: Parser, args: argparse.Namespace, environ: Mapping[str, str]) -> None:
    """Refuse options that do not go together, wherever network and node come from. Raises SystemExit, WrongNetwork."""
    from picopayments_cli.config import choose_network

    if (args.ssl_cert is None) != (args.ssl_key is None):
        parser.error("--ssl-cert and --ssl-key belong together")
    embedded = {"--node-port": args.node_port, "--block-time": args.block_time}
    given = [name for name, value in embedded.items() if value is not None]
    regtest = choose_network(args.network, environ).name == "regtest"
    variable = "PICOPAYMENTS_BITCOIN_URL"
    if (args.bitcoin_url or environ.get(variable)) and regtest and not _chain_url(args, environ):
        parser.error(
            f"{'--bitcoin-url' if args.bitcoin_url else variable} is for a Bitcoin node of your own, and "
            "the embedded network of regtest needs none: leave it out, or name a Counterparty node beside it with "
            "--counterparty-url"
        )
    if given and (not regtest or _chain_url(args, environ)):
        parser.error(
            f"{given[0]} is for the embedded node only: give --regtest, and neither --counterparty-url nor "
            "PICOPAYMENTS_CHAIN_URL"
        )


if __name__ == "__main__":
    sys.exit(main())
