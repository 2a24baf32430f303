"""The operator's commands as data: help, example and arguments of each, and the call of the hub that each comes to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from picopayments_cli.commands import LEAST_DIGITS, Command, argument, backup_file, positive, quantity

ALL = "all"
STAGES = ("requested", "agreed", "open", "closing", "closed")
MOST_LISTED = 1000  # connections in one answer, as in operator.py
CONNECTION = argument(
    "connection", f"the connection's handle, or at least its first {LEAST_DIGITS} digits", metavar="HANDLE"
)


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
        argument("--after", "only those after this handle: the `next` of the page before", metavar="HANDLE"),
        argument(
            "--most",
            f"how many connections, at most {MOST_LISTED} (default: %(default)s)",
            metavar="NUMBER",
            type=_most,
            default=100,
        ),
    ),
    "connection": Command("Show one connection, all but its secrets.", "--testnet4 connection 0123abcd", CONNECTION),
    "close": Command(
        "Close a connection: in agreement if its client comes, else alone.\n\n"
        "If payments wait for the client, the client has 144 blocks to fetch them first.",
        "--testnet4 close 0123abcd",
        CONNECTION,
    ),
    "terms": Command(
        "Show the hub's terms, or change them.\n\n"
        "get prints the terms in use. set takes those of FILE into the hub's terms file\n"
        "and into use. reload reads the terms file again. Terms that can't be used are\n"
        "refused, and change nothing.",
        "--testnet4 terms set new.json",
        argument("action", "%(choices)s (default: get)", nargs="?", choices=("get", "set", "reload"), default="get"),
        argument("file", "with set: a JSON file of terms, - for standard input", nargs="?", metavar="FILE"),
    ),
    "withdraw": Command(
        "Send free funds of the hub's wallet to an address.\n\n"
        "It never sends the reserve, nor what the hub has promised to clients.",
        "--testnet4 withdraw tb1q... 1000000 --dry-run",
        argument("address", "the address that gets it"),
        argument(
            "quantity",
            "satoshis, a number with its unit (0.1BTC), or all that is free",
            metavar="QUANTITY|all",
            type=_quantity,
        ),
        argument("--asset", "the asset to send (default: %(default)s)", default="BTC"),
        argument("--dry-run", "publish nothing: print what would be sent, and its fee", action="store_true"),
    ),
    "backup": Command(
        "Write database and terms into a new encrypted file, or read one through.\n\n"
        "Only the hub's key opens the file, and the key is not in it: keep a copy of the\n"
        "key elsewhere. `backup verify FILE` needs the key in the basedir, but no hub\n"
        "that runs.",
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
        "The hub's key must be in the basedir. Next, start the hub once with --restored:\n"
        "it closes all connections, since later payments are not in the backup.",
        "--testnet4 --basedir /srv/hub/data restore /srv/hub/1.backup",
        argument("file", "the backup", metavar="FILE"),
    ),
    "drain": Command(
        "Take no new connections, close those that are open, then end the hub.\n\n"
        "It ends once all of its money is back in its wallet.",
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
