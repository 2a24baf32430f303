"""``python -m picopayments_cli.regtest``: the regtest network as a process of its own."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.errors import PicopaymentsError
from picopayments_cli.jsonlog import log_to_stderr
from picopayments_cli.processes import follow_parent


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. stdout carries one JSON line, once requests are accepted."""
    parser = argparse.ArgumentParser(prog="python -m picopayments_cli.regtest", description=__doc__, allow_abbrev=False)
    parser.add_argument("--basedir", required=True, type=Path, help="folder of the chain")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=NETWORKS["regtest"].node_port, help="0 takes a free one")
    parser.add_argument(
        "--block-time", type=_seconds, help="mine every so many seconds; left out: at every transaction; 0: never"
    )
    parser.add_argument(
        "--cached", action="store_true", help="answer as stale, and as little of a history, as a real server does"
    )
    parser.add_argument("--with-parent", action="store_true", help="end when standard input ends")
    args = parser.parse_args(argv)
    if args.with_parent:  # whose log is JSON
        log_to_stderr(logging.WARNING)
    else:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if args.with_parent:
        follow_parent()
    try:
        _serve(args)
    except PicopaymentsError as error:
        print(json.dumps({"error": error.as_json()}), file=sys.stderr)
        return error.exit_code
    return 0


def _seconds(text: str) -> int:
    seconds = int(text)
    if seconds < 0:
        raise argparse.ArgumentTypeError("not below zero")
    return seconds


def _serve(args: argparse.Namespace) -> None:
    from picopayments_cli import web
    from picopayments_cli.regtest.node import Node
    from picopayments_cli.regtest.server import create_app

    node = Node(args.basedir, args.block_time)
    try:
        web.run(create_app(node, args.cached), host=args.host, port=args.port, ready=_announce)
    finally:
        node.close()


def _announce(url: str) -> None:
    print(json.dumps({"chain_url": f"{url}/", "network": "regtest"}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
