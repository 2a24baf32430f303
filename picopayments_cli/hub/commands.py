"""The operator's commands as data: help, example and arguments of each, and the call of the hub that each comes to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from picopayments_cli.commands import Command, argument, backup_file, positive, quantity

ALL = "all"
STAGES = ("requested", "agreed", "open", "closing", "closed")
MOST_LISTED = 1000
CONNECTION = argument("connection", "its handle, or the first 8 digits of it or more", metavar="HANDLE")


def _most(text: str) -> int:
    """How many connections an answer lists. Raises argparse.ArgumentTypeError."""
    from argparse import ArgumentTypeError

    count = positive(text)
    if count > MOST_LISTED:
        raise ArgumentTypeError(f"an answer has at most {MOST_LISTED} connections: go on with --after")
    return count


def _quantity(text: str) -> int | str:
    """A quantity, of which the hub judges the unit, or ``all``. Raises argparse.ArgumentTypeError."""
    return text if text == ALL else quantity(text)


COMMANDS = {
    "status": Command("Show how the running hub stands: chain, connections, liquidity, coins.", "--testnet4 status"),
    "connections": Command(
        "List connections by their handles, a page at a time.",
        "--testnet4 connections --stage open --asset XCP",
        argument("--stage", "only those in this stage: %(choices)s", choices=STAGES, metavar="STAGE"),
        argument("--asset", "only those in this asset"),
        argument("--after", "only those behind this handle: `next` of the page before", metavar="HANDLE"),
        argument("--most", "how many, 1000 at most (default: 100)", metavar="NUMBER", type=_most, default=100),
    ),
    "connection": Command(
        "Show all of one connection that is no secret.", "--testnet4 connection 0123abcd", CONNECTION
    ),
    "close": Command(
        "Close a connection: in agreement where its client comes, else alone.\n\n"
        "Where payments wait for its client, it has 144 blocks to fetch them first.",
        "--testnet4 close 0123abcd",
        CONNECTION,
    ),
    "terms": Command(
        "Show the terms in use, put others into the file and into use, or read the file anew.\n\n"
        "Terms that can't be used are refused, and change nothing.",
        "--testnet4 terms set new.json",
        argument("action", "%(choices)s (default: get)", nargs="?", choices=("get", "set", "reload"), default="get"),
        argument("file", "with set: a JSON file of terms, - for standard input", nargs="?", metavar="FILE"),
    ),
    "withdraw": Command(
        "Send what is free of the hub's wallet: never the reserve, nor what is promised to clients.",
        "--testnet4 withdraw tb1q... 1000000 --dry-run",
        argument("address", "where to"),
        argument(
            "quantity",
            "satoshis, a number with its unit (0.1BTC), or all that is free",
            metavar="QUANTITY|all",
            type=_quantity,
        ),
        argument("--asset", "what (default: %(default)s)", default="BTC"),
        argument("--dry-run", "publish nothing: print what would be sent, and its fee", action="store_true"),
    ),
    "backup": Command(
        "Write database and terms into a new encrypted file, or read one through.\n\n"
        "The hub's key opens it, and is not in it: keep a copy of the key elsewhere.\n"
        "`backup verify FILE` needs no hub that runs, only the key in the basedir.",
        "--testnet4 backup /srv/hub/1.backup",
        argument(
            "action",
            "read the file through, and print what is in it",
            metavar="verify",
            nargs="?",
            choices=("verify",),
        ),
        argument("file", "the backup; a new one must not be there yet", metavar="FILE", type=backup_file),
    ),
    "restore": Command(
        "Put a backup into an empty basedir or --database, while no hub runs there.\n\n"
        "The hub's key must be in the basedir. The hub is then started with --restored,\n"
        "once: it closes all connections, as what was paid since is not in the backup.",
        "--testnet4 --basedir /srv/hub/data restore /srv/hub/1.backup",
        argument("file", "the backup", metavar="FILE"),
    ),
    "drain": Command(
        "Take no new connections, close those that are open, and end the hub once it has all its own back.",
        "--testnet4 drain",
    ),
}


def call_of(command: str, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The method of the hub that a command calls, and its params. Raises UsageError, InvalidSetting."""
    if command == "terms":
        return _terms_call(given["action"], given["file"])
    names = ("stage", "asset", "after", "most", "address", "dry_run")
    params: dict[str, Any] = {name: given[name] for name in names if name in given}
    if "connection" in given:
        params["handle"] = given["connection"]
    if command == "withdraw":
        params["quantity"] = None if given["quantity"] == ALL else given["quantity"]
    if command == "backup":
        params["file"] = str(Path(given["file"]).absolute())
    return command, params


def _terms_call(action: str, file: str | None) -> tuple[str, dict[str, Any]]:
    from picopayments_cli.errors import InvalidSetting, UsageError
    from picopayments_cli.jsontext import parse_json

    if (action == "set") != (file is not None):
        raise UsageError("`terms set` takes one FILE, `terms get` and `terms reload` take none.")
    if file is None:
        return f"terms_{action}", {}
    try:
        content = parse_json(sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidSetting(f"The terms in {file} can't be read: {error}. Nothing was changed.") from error
    if not isinstance(content, dict):
        raise InvalidSetting(f"The terms in {file} must be a JSON object of assets and their terms.")
    return "terms_set", {"terms": content}
