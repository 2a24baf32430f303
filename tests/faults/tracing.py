"""Runs commands of client and hub in processes that record where they go, or kill themselves where they are told.

``python tests/faults/tracing.py FD`` is a server that has everything imported and forks itself for each command: what
it is asked comes with the command's file descriptors through the Unix socket FD.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent.parent
if __name__ == "__main__":
    sys.path[:1] = [str(ROOT / "tests"), str(ROOT)]

from faults.disk import Recorder  # noqa: E402

PACKAGE = str(ROOT / "picopayments_cli") + os.sep
BEFORE, AFTER, LINE, OPCODE = "before", "after", "line", "opcode"
ANY = "any door"
SYNCED_WHEN_COMMITTED = 2  # FULL, of SQLite's synchronous
MAX_REQUEST = 65536
_reply: ContextVar[str] = ContextVar("reply")
_step: ContextVar[str] = ContextVar("step")
_files: dict[Path, int] = {}

Place = tuple[str, int]  # "line" or "opcode", and its number
Side = tuple[str, str]  # a door, and before or after


@dataclass(frozen=True)
class Function:
    """One function of the package."""

    file: str
    name: str
    first: int

    def __str__(self) -> str:
        return f"{self.file}:{self.first} {self.name}"


@dataclass(frozen=True)
class Target:
    """Where a process kills itself: the nth time that it comes to a place of a function, or to a side of a door.

    ``sides``: of doors, at the first of which it dies; it writes at which into the file ``told``.
    """

    function: Function | None = None
    place: Place = (LINE, 0)
    door: str = ""
    side: str = BEFORE
    nth: int = 1
    sides: tuple[Side, ...] = ()
    told: str = ""

    @property
    def met(self) -> Target:
        """Where a process has died that could do so at several doors."""
        if not self.sides:
            return self
        door, side = json.loads(Path(self.told).read_text())
        return Target(door=door, side=side)

    def __str__(self) -> str:
        where = f"{self.side} {self.door}" if self.door else f"{self.function}, {self.place[0]} {self.place[1]}"
        return f"{where} ({self.nth})"


@dataclass(frozen=True)
class Watch:
    """A folder whose changes are to be entered in a log; ``synced``: where copies of the hub's database go."""

    root: Path
    log: Path
    synced: Path | None = None


@dataclass
class Record:
    """Where a process has been: the lines of each function, and the doors."""

    lines: dict[Function, set[int]]
    doors: set[str]

    def as_json(self) -> Any:
        """Return what JSON can hold of it."""
        functions = [[asdict(function), sorted(lines)] for function, lines in self.lines.items()]
        return {"functions": functions, "doors": sorted(self.doors)}

    @classmethod
    def from_json(cls, text: str) -> Record:
        """The reverse of ``as_json``."""
        value = json.loads(text)
        return cls({Function(**item): set(found) for item, found in value["functions"]}, set(value["doors"]))


@functools.cache
def _codes_in(file: str) -> dict[tuple[str, int], CodeType]:
    """The functions of a file of the package by their name and first line, those inside others too."""
    found: dict[tuple[str, int], CodeType] = {}
    left = [compile(Path(PACKAGE, file).read_text(), file, "exec")]
    while left:
        code = left.pop()
        found[code.co_name, code.co_firstlineno] = code
        left += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return found


def opcodes_of(function: Function, line: int) -> list[int]:
    """The offsets of the instructions of a line of a function."""
    instructions = dis.get_instructions(_codes_in(function.file)[function.name, function.first])
    return [item.offset for item in instructions if item.positions is not None and item.positions.lineno == line]


# In the process that is traced --------------------------------------------------------------------------------------


class Tracer:
    """Stands at every function and door of the package."""

    def __init__(self, role: str, *, recording: bool) -> None:
        self.role = role
        self.target: Target | None = None
        self.left = 0
        self.record = Record({}, set())
        self.recorder: Recorder | None = None
        self.synced: Path | None = None
        self._functions: dict[CodeType, Function | None] = {}
        self.recording = recording

    def arm(self, target: Target | None) -> None:
        """Die there from now on."""
        self.left = target.nth if target else 0
        self.target = target

    def start(self) -> None:
        """Trace this thread's calls from now on, and those of all threads to come."""
        threading.settrace(self.enter)
        sys.settrace(self.enter)

    def come_to(self) -> None:
        """Die, if it is for the nth time."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def enter(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        """The trace of a function's start."""
        code = frame.f_code
        if code not in self._functions:
            self._functions[code] = _function_of(code)
        function = self._functions[code]
        if function is None:
            return None
        if self.recording:
            return _noting(self.record.lines.setdefault(function, set()))
        if self.target is not None and function == self.target.function:
            frame.f_trace_opcodes = self.target.place[0] == OPCODE
            return self._pass
        return None

    def _pass(self, frame: FrameType, event: str, _arg: Any) -> Any:
        at = frame.f_lineno if event == LINE else frame.f_lasti
        if self.target is not None and (event, at) == self.target.place:
            self.come_to()
        return self._pass

    def at_door(self, label: str, side: str) -> None:
        """A door is about to be passed, or has been."""
        self.record.doors.add(label)
        target = self.target
        if target is not None and (label, side) in target.sides:
            Path(target.told).write_text(json.dumps([label, side]))
            self.come_to()
        elif target is not None and target.door in (label, ANY) and target.side == side:
            self.come_to()
        if self.recorder is not None and " save " not in label:
            self.recorder.step()
            self.recorder.enter(op="leaves", label=label, side=side)

    def at_change(self) -> None:
        """A file is about to be changed: die there where neither function nor door is named."""
        target = self.target
        if target is not None and not target.door and not target.sides and target.function is None:
            self.come_to()

    def watch(self, watch: Watch) -> None:
        """Enter what happens to files."""
        self.recorder = Recorder(watch.root, watch.log, self.at_change)
        self.recorder.stand()
        self.synced = watch.synced


def _noting(lines: set[int]) -> Callable[[FrameType, str, Any], Any]:
    def note(frame: FrameType, event: str, _arg: Any) -> Any:
        if event == LINE:
            lines.add(frame.f_lineno)
        return note

    return note


def _function_of(code: CodeType) -> Function | None:
    file = code.co_filename
    if not (file.startswith(PACKAGE) and file.endswith(".py")) or code.co_name == "<module>":  # templates are code, too
        return None
    return Function(file[len(PACKAGE) :], code.co_name, code.co_firstlineno)


# The doors ----------------------------------------------------------------------------------------------------------


def stand_at_doors(tracer: Tracer) -> None:
    """Put the tracer before and behind each door of this process."""
    from picopayments_cli.chain.bitcoin import BitcoinNode
    from picopayments_cli.client.notes import Notes
    from picopayments_cli.client.session import Session
    from picopayments_cli.client.store import Store
    from picopayments_cli.hub import chores
    from picopayments_cli.hub.database import Database
    from picopayments_cli.hub.marks import Marks
    from picopayments_cli.rpc import RpcClient

    _stand_at(tracer, RpcClient, "call", lambda method, *_, **__: f"{tracer.role} call {method}")
    if tracer.role == "client":
        whole = {"save_wallet": "wallet", "save_settings": "settings", "archive": "archived", "remove": "taken away"}
        small = {"save_hub_key": "hub key", "save_rate": "fee rate", "save_sent": "sent", "save_reported": "reported"}
        for owner, named in ((Store, whole), (Notes, small)):
            for name, what in named.items():
                _stand_at(tracer, owner, name, lambda *_, what=what: f"client save {what}")
        _stand_at(tracer, Store, "save", lambda _handle, _document, label, *_: f"client save {label}")
        _stand_at(tracer, Session, "broadcast", lambda _raw, label: f"client broadcast {label}")
        _stand_at(tracer, Session, "submit", lambda _raws, label: f"client broadcast {label}")
        return
    _stand_at(tracer, Marks, "add", lambda _handle: "hub save mark")
    _stand_at(tracer, BitcoinNode, "submit", lambda _raws: f"hub broadcast {_step.get('deposit')}")
    _name_steps(chores)
    _stand_at_transactions(tracer, Database)
    _stand_at_replies(tracer)


def _stand_at(tracer: Tracer, owner: Any, name: str, label_of: Callable[..., str]) -> None:
    real = getattr(owner, name)

    @functools.wraps(real)
    def door(self: Any, *args: Any, **kwargs: Any) -> Any:
        label = label_of(*args, **kwargs)
        tracer.at_door(label, BEFORE)
        result = real(self, *args, **kwargs)
        tracer.at_door(label, AFTER)
        return result

    setattr(owner, name, door)


def _name_steps(chores: Any) -> None:
    """Know which step it is that a hub publishes."""
    real = chores.publish

    def publish(hub: Any, step: Any, *args: Any, **kwargs: Any) -> None:
        token = _step.set(step.name.value)
        try:
            real(hub, step, *args, **kwargs)
        finally:
            _step.reset(token)

    chores.publish = publish


def _stand_at_transactions(tracer: Tracer, owner: Any) -> None:
    """Before: with everything written and nothing committed. After: committed."""
    real = owner.transaction

    @contextlib.contextmanager
    def transaction(self: Any, label: str) -> Iterator[Any]:
        with self._turns:  # for the copies: nobody writes meanwhile
            with real(self, label) as connection:
                yield connection
                mode = connection.exec_driver_sql("PRAGMA synchronous").scalar()
                tracer.at_door(f"hub transaction {label}", BEFORE)
            tracer.at_door(f"hub transaction {label}", AFTER)
            if tracer.synced is not None and mode >= SYNCED_WHEN_COMMITTED:
                _copy(Path(self.engine.url.database), tracer.synced)

    owner.transaction = transaction


def _copy(database: Path, folder: Path) -> None:
    """Copy SQLite's files, which it has waited for until they are on disk, in the place of older copies.

    They stay open: closing one would take SQLite's own locks away.
    """
    fresh = folder / f"{time.monotonic_ns()}"
    fresh.mkdir()
    for path in (database, database.with_name(f"{database.name}-wal")):
        if path not in _files:
            _files[path] = os.open(path, os.O_RDONLY)
        (fresh / path.name).write_bytes(os.pread(_files[path], path.stat().st_size, 0))
    (folder / "new").symlink_to(fresh.name)
    (folder / "new").replace(folder / "newest")


def _stand_at_replies(tracer: Tracer) -> None:
    """Before a reply leaves the server, and once all of it is handed to the system."""
    from starlette.responses import Response

    from picopayments_cli.web import JsonRpcEndpoint

    answer_one, respond = JsonRpcEndpoint._call, Response.__call__

    async def answered(self: Any, name: str, params: Any, spend: Any) -> str:
        _reply.set("several" if _reply.get("") else name)
        return await answer_one(self, name, params, spend)

    async def responded(self: Any, scope: Any, receive: Any, send: Any) -> None:
        label = f"hub reply {_reply.get('nothing')}"
        _reply.set("")
        tracer.at_door(label, BEFORE)
        await respond(self, scope, receive, send)
        tracer.at_door(label, AFTER)

    JsonRpcEndpoint._call = answered  # type: ignore[method-assign]
    Response.__call__ = responded  # type: ignore[method-assign]


# The server that forks ----------------------------------------------------------------------------------------------


def serve(requests: socket.socket) -> None:
    """Answer requests until the other end is closed; then end what still runs."""
    _import_all()
    running: set[int] = set()
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST, 3)
        if not data:
            for pid in running:
                os.kill(pid, signal.SIGKILL)
            return
        request = json.loads(data)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            running.discard(pid)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                requests.close()
                _become(request, descriptors)
            running.add(answer)
            for descriptor in descriptors:
                os.close(descriptor)
        requests.sendall(json.dumps(answer).encode())


def _import_all() -> None:
    import picopayments_cli

    late = (  # by these libraries, and else in each fork
        *("alembic.command", "alembic.config", "mnemonic", "nacl.bindings", "pycoin.symbols.xrt"),
        *("uvicorn.lifespan.on", "uvicorn.loops.asyncio", "uvicorn.protocols.http.httptools_impl"),
    )
    own = [module.name for module in pkgutil.walk_packages(picopayments_cli.__path__, "picopayments_cli.")]
    for name in (*late, *own):
        if not name.endswith("__main__") and "migrations" not in name:
            importlib.import_module(name)
    gc.freeze()


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Be the process that was asked for; never returns."""
    code = 70
    try:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        code = _run(request)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(request: dict[str, Any]) -> int:
    from picopayments_cli import cli
    from picopayments_cli.hub import cli as hub_cli

    tracer = Tracer(request["role"], recording=request["record"] is not None)
    stand_at_doors(tracer)
    tracer.arm(_target_of(request["target"]))
    if request["watch"]:
        tracer.watch(Watch(*(Path(path) if path else None for path in request["watch"])))  # type: ignore[arg-type]
    main: Callable[[list[str]], int] = cli.main if tracer.role == "client" else hub_cli.main
    if request["commanded"]:
        threading.Thread(target=_obey, args=(tracer,), daemon=True).start()
    inside = tracer.recording or (tracer.target is not None and tracer.target.function is not None)
    if inside or (request["commanded"] and not request["watch"]):
        tracer.start()
    try:
        return main(request["argv"])
    finally:
        sys.settrace(None)
        if request["record"]:
            Path(request["record"]).write_text(json.dumps(tracer.record.as_json()))


def _target_of(value: Any) -> Target | None:
    if value is None:
        return None
    function = Function(**value.pop("function")) if value["function"] else None
    sides = tuple((door, side) for door, side in value["sides"])
    return Target(**{**value, "function": function, "place": tuple(value["place"]), "sides": sides})


def _obey(tracer: Tracer) -> None:
    """Take targets from standard input, a line each; ``record``: hand over what was recorded, and forget it."""
    for line in sys.stdin:
        command = json.loads(line)
        if path := command["record"]:
            record, tracer.record = tracer.record, Record({}, set())
            Path(path).write_text(json.dumps(record.as_json()))
        if command["recording"] is not None:
            tracer.recording = command["recording"]
        tracer.arm(_target_of(command["target"]))
        os.write(1, b"done\n")


# On the harness's side ----------------------------------------------------------------------------------------------


class Runner:
    """Starts processes by the server that forks."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair()
        with other:
            command = [sys.executable, __file__, str(other.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[other.fileno()], start_new_session=True)

    def start(
        self,
        role: str,
        argv: list[str],
        files: tuple[IO[Any], IO[Any], IO[Any]],
        *,
        target: Target | None = None,
        record: Path | None = None,
        watch: Watch | None = None,
        commanded: bool = False,
    ) -> Traced:
        """Start a client's command or a hub with standard input, output and error; ``record``: where to put that."""
        request = {
            "role": role,
            "argv": argv,
            "target": asdict(target) if target else None,
            "record": str(record) if record else None,
            "watch": [str(path) if path else None for path in astuple(watch)] if watch else None,
            "commanded": commanded,
        }
        return Traced(self, self.ask(request, [file.fileno() for file in files]))

    def ask(self, request: dict[str, Any], descriptors: list[int]) -> Any:
        """One request to the server."""
        socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
        return json.loads(self._socket.recv(MAX_REQUEST))

    def stop(self) -> None:
        """End the server, and whatever it has started."""
        self._socket.close()
        self._process.wait(20)


@contextlib.contextmanager
def running_server() -> Iterator[Runner]:
    """A runner for the length of a ``with`` block."""
    runner = Runner()
    try:
        yield runner
    finally:
        runner.stop()


class Traced:
    """A process that was started by the runner."""

    def __init__(self, runner: Runner, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._runner = runner

    def poll(self) -> int | None:
        """The exit code, a signal's number negative; None while it runs."""
        if self.returncode is None:
            self.returncode = self._runner.ask({"poll": self.pid}, [])
        return self.returncode

    def wait(self, seconds: float) -> int:
        """The exit code, once it has ended. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} did not end in {seconds:g} s")
            time.sleep(0.002)
        return code


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        serve(asked)
