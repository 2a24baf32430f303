"""Show results to people: as tables, and as bars while they wait. rich is loaded by what needs it, and only then."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod, RenderableType
    from rich.table import Table

from picopayments_cli.channel.values import HANDLE_SIZE, HEX_DIGITS, LEAST_DIGITS
from picopayments_cli.quantities import QUANTITIES

WIDE = 250  # columns where no terminal bounds them
LEAST_MORE = 20  # columns for what not all rows of a table have
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))
_NO_AMOUNTS = ("index", "number", "height", "expires", "port")  # names of numbers that count nothing, or their ends
_EMPTY = {
    "payments": "No payments.",
    "history": "Nothing was done yet.",
    "sync": "Nothing to report.",
    "balances": "No funds.",
    "listutxos": "No coins.",
    "searchrawtxs": "No transactions.",
    "cull": "Nothing is over.",
}


class Step(Protocol):
    """A thing that is waited for, from a block on until another one, at that of the tip."""

    handle: str
    begun: int
    until: int | None
    height: int


def text_of(command: str, result: Any) -> str:
    """Write a command's result for people, in colours where stdout is a terminal that takes them."""
    from rich.console import Console

    terminal = sys.stdout is not None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else WIDE
    styled = terminal and not os.environ.get("NO_COLOR")
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # by it rich knows which lines it may draw
    file = TextIOWrapper(BytesIO(), encoding, errors="backslashreplace", newline="")
    console = Console(file=file, width=width, force_terminal=styled, markup=False, highlight=False, emoji=False)
    if result in ([], {}):
        return _EMPTY.get(command, "Nothing.")
    for block in _status(result) if command == "status" else _blocks("", result):
        for part in _fitting(block, console) if isinstance(block, Rows) else (block,):
            console.print(part)
    file.seek(0)
    return "\n".join(line.rstrip() for line in file.read().rstrip().splitlines())


def about(seconds: int | None) -> str:
    """Write a time in the largest unit that it has more than one of."""
    if seconds is None:
        return ""
    for name, size in _UNITS:
        if seconds >= 2 * size:
            return f"about {round(seconds / size)} {name}s"
    return "about a minute"


# Tables -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Objects of one kind: a table, where it fits."""

    rows: Sequence[Mapping[str, Any]]


def _plain(value: Any, name: str = "") -> str:
    """Write a value in a line, or a list in lines, without what a terminal would take for a command.

    ``name``: under which it stands. Of what is counted every three digits are set apart.
    """
    if value is None or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "\n".join(map(_plain, value))
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_plain(item, name)}" for name, item in value.items())
    if isinstance(value, int) and name and not name.endswith(_NO_AMOUNTS):
        return f"{value:,}"
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def _short(value: Any, name: str = "") -> str:
    """Write a value as it stands in a table: of a handle or a txid the beginning, of a time no fractions."""
    text = _plain(value, name)
    if len(text) >= 2 * HANDLE_SIZE and HEX_DIGITS.issuperset(text):
        return text[:LEAST_DIGITS]
    return text[:19].replace("T", " ") if len(text) == 24 and text[10:11] == "T" and text.endswith("Z") else text


def _fitting(block: Rows, console: Console) -> Iterator[RenderableType]:
    """A table with a column for each member; where that is too wide, what not all rows have stands in one column."""
    common = [name for name in block.rows[0] if all(name in row for row in block.rows)]
    rest = [(", ".join(f"{name.replace('_', ' ')} {_short(row[name], name)}" for name in row if name not in common))
            for row in block.rows]  # fmt: skip
    narrow = [{name: row[name] for name in common} | {"more": more} for row, more in zip(block.rows, rest, strict=True)]
    least = [row | {"more": row["more"][:LEAST_MORE]} for row in narrow]  # the rest of it goes into further lines
    for rows, bounded in ((block.rows, block.rows), (narrow, least)):
        wide = console.measure(_table(bounded), options=console.options.update(max_width=10 * WIDE)).maximum
        if wide <= console.width:
            yield _table(rows)
            return
    for row in block.rows:
        yield _pairs(row)
        yield ""


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table

    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        numbers = all(isinstance(row.get(name, 0), int) for row in rows)
        justify: JustifyMethod = "right" if numbers else "left"
        table.add_column(_title(name, numbers=numbers), justify=justify, no_wrap=name != "more", overflow="fold")
    for row in rows:
        table.add_row(*(_short(row[name], name) if name in row else "" for name in columns))
    return table


def _title(name: str, *, numbers: bool) -> str:
    """Write the name of a member, with the unit where it is a quantity in whole numbers."""
    if name == "time":
        return "time (UTC)"
    return name.replace("_", " ") + (" (satoshis)" if numbers and name in QUANTITIES else "")


def _pairs(members: Mapping[str, Any]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, value in members.items():
        table.add_row(_title(name, numbers=isinstance(value, int)), _plain(value, name))
    return table


def _is_flat(value: Any) -> bool:
    return not isinstance(value, (Mapping, list)) or not value


def _blocks(title: str, value: Any) -> Iterator[RenderableType | Rows]:
    """Tables of a value of any shape: of a list of objects or an object of objects one, else part by part."""
    items = list(value.values()) if isinstance(value, Mapping) else value
    if _is_flat(value):
        yield f"{title}: {_plain(value, title)}" if title else _plain(value)
        return
    heading: list[RenderableType | Rows] = [f"\n{title}"] if title else []
    if isinstance(value, list) and all(map(_is_flat, value)):
        yield from [*heading, _plain(value)]
    elif all(isinstance(item, Mapping) and all(map(_is_flat, item.values())) for item in items):
        rows = [{"": name, **each} for name, each in value.items()] if isinstance(value, Mapping) else value
        yield from [*heading, Rows(rows)]
    elif isinstance(value, list):
        yield from [*heading, *(part for row in value for part in (_pairs(row), ""))]
    else:
        flat = {name: item for name, item in value.items() if _is_flat(item)}
        yield from [*heading, _pairs(flat)] if flat else []
        for name in value:
            if name not in flat:
                yield from _blocks(f"{title} {_short(name).replace('_', ' ')}".strip(), value[name])


def _status(result: Mapping[str, Any]) -> Iterator[RenderableType | Rows]:
    """The wallet and the connections, with what each waits for; and of when it is, if it is old."""
    wallet, look = result["wallet"], result.get("last_look")
    if result["chain"] is None:
        old = "never looked at" if look is None else f"of block {look['height']}, {look['time']}"
        yield f"From the files, since the chain can't be seen: {old}."
    balances = wallet["balances"] or (wallet.get("last_look") or {}).get("balances") or {}
    yield f"wallet {_plain(wallet['address'])}"
    if balances:
        yield Rows([{"asset": name, "quantity": held} for name, held in balances.items()])
    rows = [_row(handle, item) for handle, item in result["connections"].items()]
    told = {name for row in rows for name, value in row.items() if value not in ("", 0)} | {"balance"}
    yield Rows([{name: row[name] for name in row if name in told} for row in rows]) if rows else "No connections."
    for handle, item in result["connections"].items():
        more = {name: value for name, value in item.items() if name not in _IN_TABLE}
        if "terms" in more:  # with --verbose
            yield f"\n{handle}"
            yield _pairs(more)


_IN_TABLE = ("status", "asset", "asset_longname", "balance", "ttl", "waiting_for", "until_height", "about_seconds")


def _row(handle: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """A connection's line."""
    look = item.get("last_look")
    status = item["status"] if not look else f"{item['status']} ({look['status']} at block {look['height']})"
    waits = "" if "waiting_for" not in item else item["waiting_for"].replace("_", " ")
    until = "" if item.get("until_height") is None else f"block {item['until_height']}"
    times = ", ".join(filter(None, (until, about(item.get("about_seconds")))))
    return {
        "handle": handle[:LEAST_DIGITS],
        "status": status,
        "asset": item.get("asset_longname", item["asset"]),
        "balance": item["balance"],
        "blocks left": "" if item["ttl"] is None else item["ttl"],
        "queued": len(item["payments_queued"]),
        "waits for": waits,
        "until": times,
        "error": (item.get("error") or {}).get("name", ""),
    }


# Bars ---------------------------------------------------------------------------------------------------------------


@contextmanager
def bars() -> Iterator[Callable[[Sequence[Step]], None]]:
    """Bars on stderr, one for each thing that is waited for; what the log says stands above them."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    with Progress(TextColumn("{task.description}", markup=False), BarColumn(), console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def tell(steps: Sequence[Step]) -> None:
            for step in steps:
                if step.handle not in tasks:
                    tasks[step.handle] = progress.add_task(str(step), total=None)
                total = None if step.until is None else max(step.until - step.begun, 1)
                done = min(step.height - step.begun, total or 0)
                progress.update(tasks[step.handle], description=str(step), total=total, completed=done)

        with _log_above():
            yield tell


@contextmanager
def _log_above() -> Iterator[None]:
    """Send the log where sys.stderr is now, which draws the bars anew below each line."""
    handlers = [
        item for item in logging.getLogger("picopayments_cli").handlers if isinstance(item, logging.StreamHandler)
    ]
    before = [handler.setStream(sys.stderr) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)
