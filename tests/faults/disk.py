"""The changes that a process makes to its files, in order, and the states that a power cut may leave of them.

What was written to a file counts as kept once that file was synced; that a name was given, changed or taken away, once
its folder was. Until then any part of it may be missing, and a write may be torn at any byte.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import pathlib
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECTOR = 512
Op = dict[str, Any]

# In the process that writes -----------------------------------------------------------------------------------------


class Recorder:
    """Enters everything that happens under a folder in a log, a line each, and calls ``step`` before each."""

    def __init__(self, root: Path, log: Path, step: Callable[[], None]) -> None:
        self._root = str(root)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._paths: dict[int, str] = {}  # of open files
        self.step = step

    def enter(self, **op: Any) -> None:
        """One line; it stays if the process is killed."""
        os.write(self._log, json.dumps(op).encode() + b"\n")

    def stand(self) -> None:
        """Take the place of the calls by which Python changes files."""
        real_open, real_fsync = os.open, os.fsync

        def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            creates = bool(flags & os.O_CREAT) and self._here(path) and not os.path.lexists(path)
            if creates:
                self.step()
            descriptor = real_open(path, flags, *args, **kwargs)
            self._paths[descriptor] = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
            if creates:
                self.enter(op="create", path=os.fspath(path), mode=os.fstat(descriptor).st_mode & 0o777)
            return descriptor

        def synced(descriptor: int) -> None:
            self.step()
            real_fsync(descriptor)
            self.enter(op="sync", path=self._paths.get(descriptor, ""))

        def opened_file(descriptor: int, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            path = self._paths.get(descriptor, "")
            if not self._here(path) or mode == "r" or mode == "rb":
                return real_fdopen(descriptor, mode, *args, **kwargs)
            raw = _File(self, path, descriptor, mode.replace("b", "").replace("t", ""))
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered)

        real_fdopen = os.fdopen
        os.open, os.fsync, os.fdopen = opened, synced, opened_file  # type: ignore[assignment]
        for name, log in (("replace", "rename"), ("rename", "rename"), ("unlink", "unlink"), ("mkdir", "mkdir")):
            self._stand_at(name, log)

    def _here(self, path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self._root)

    def _stand_at(self, name: str, kind: str) -> None:
        real = getattr(os, name)

        def changed(path: Any, *args: Any, **kwargs: Any) -> None:
            if not self._here(path):
                real(path, *args, **kwargs)
                return
            self.step()
            real(path, *args, **kwargs)
            to = os.fspath(args[0]) if kind == "rename" else None
            self.enter(op=kind, path=os.fspath(path), to=to)

        setattr(os, name, changed)
        accessor = getattr(pathlib, "_NormalAccessor", None)  # of Python 3.10, which keeps the functions
        if accessor is not None:
            setattr(accessor, name, staticmethod(changed))


class _File(io.FileIO):
    """A file whose writes are entered."""

    def __init__(self, recorder: Recorder, path: str, descriptor: int, mode: str) -> None:
        super().__init__(descriptor, mode)
        self._recorder = recorder
        self._path = path

    def write(self, data: Any) -> int:
        self._recorder.step()
        at = self.tell()
        written = super().write(data)
        self._recorder.enter(op="write", path=self._path, at=at, data=bytes(data)[:written].hex())
        return written

    def truncate(self, size: int | None = None) -> int:
        self._recorder.step()
        size = super().truncate(size)
        self._recorder.enter(op="truncate", path=self._path, size=size)
        return size


# What is left -------------------------------------------------------------------------------------------------------


@dataclass
class _Inode:
    """A file: what is kept of it for certain, and what was done to it since."""

    mode: int
    kept: bytes = b""
    done: list[Op] = field(default_factory=list)

    def content(self, rng: random.Random) -> bytes:
        """Return what is there after a power cut: any of what was done is missing, and one write is torn."""
        data = self.kept
        for op in self.done:
            fate = rng.random()
            if fate < 0.4:
                continue
            end = len(op.get("data", b"")) if fate > 0.6 else rng.randrange(len(op.get("data", b"")) + 1)
            data = _done(data, op, end)
        return data


def _done(data: bytes, op: Op, end: int) -> bytes:
    if op["op"] == "truncate":
        size: int = op["size"]
        return data[:size].ljust(size, b"\0")
    at: int = op["at"]
    piece: bytes = op["data"][:end]
    return data[:at].ljust(at, b"\0") + piece + data[at + len(piece) :]


class Disk:
    """The files under a folder: as they were, and what was done to them."""

    def __init__(self, root: Path, but: str = "\0") -> None:
        """``but``: what the names begin with of files that are left out."""
        self._root = root
        self._but = str(root / but)
        self._inodes: list[_Inode] = []
        self._names: dict[str, int] = {}  # as the process sees them
        self._kept: dict[str, int] = {}  # for certain
        self._changes: dict[str, list[Op]] = {}  # of names, by folder, that may yet be undone
        self._folders = {str(root)} | {str(path) for path in root.rglob("*") if path.is_dir()}
        for path in sorted(root.rglob("*")):
            if path.is_file() and not str(path).startswith(self._but):
                inode = self._new(path.stat().st_mode & 0o777, path.read_bytes())
                self._names[str(path)] = self._kept[str(path)] = inode

    def _new(self, mode: int, kept: bytes = b"") -> int:
        self._inodes.append(_Inode(mode, kept))
        return len(self._inodes) - 1

    def follow(self, ops: Iterable[Op]) -> None:
        """Do what a process did."""
        for op in ops:
            if op.get("path", "").startswith(self._but):
                continue
            getattr(self, f"_{op['op']}")(op, op.get("path", ""))

    def _create(self, op: Op, path: str) -> None:
        self._names[path] = self._new(op["mode"])
        self._change(path, {"name": path, "inode": self._names[path]})

    def _write(self, op: Op, path: str) -> None:
        self._inodes[self._names[path]].done.append({**op, "data": bytes.fromhex(op["data"])})

    def _truncate(self, op: Op, path: str) -> None:
        inode = self._inodes[self._names[path]]
        if op["size"] != len(_all_done(inode)):
            inode.done.append(op)

    def _rename(self, op: Op, path: str) -> None:
        self._names[op["to"]] = self._names.pop(path)
        self._change(path, {"name": op["to"], "inode": self._names[op["to"]], "from": path})

    def _unlink(self, _op: Op, path: str) -> None:
        if self._names.pop(path, None) is not None:
            self._change(path, {"name": path, "inode": None})

    def _mkdir(self, _op: Op, path: str) -> None:
        self._change(path, {"folder": path})

    def _leaves(self, _op: Op, _path: str) -> None:
        """Nothing happens to files when something leaves the machine."""

    def _sync(self, _op: Op, path: str) -> None:
        if path in self._names:
            inode = self._inodes[self._names[path]]
            inode.kept, inode.done = _all_done(inode), []
        for change in self._changes.pop(path, ()):
            self._apply(self._kept, self._folders, change)

    def _change(self, path: str, change: Op) -> None:
        self._changes.setdefault(str(Path(path).parent), []).append(change)

    @staticmethod
    def _apply(names: dict[str, int], folders: set[str], change: Op) -> None:
        if "folder" in change:
            folders.add(change["folder"])
            return
        if "from" in change:
            names.pop(change["from"], None)
        if change["inode"] is None:
            names.pop(change["name"], None)
        else:
            names[change["name"]] = change["inode"]

    def is_as_seen(self) -> bool:
        """Whether the files are what their recorded changes have made of them: nothing went past the recorder."""
        there = {str(path): path.read_bytes() for path in self._root.rglob("*") if path.is_file()}
        return there == {name: _all_done(self._inodes[number]) for name, number in self._names.items()}

    def cut(self, rng: random.Random) -> bool:
        """Put on disk what a power cut may have left; whether anything was undone that the process had done."""
        names, folders = dict(self._kept), set(self._folders)
        keeps = rng.choice((0.0, 0.5, 0.5, 1.0))
        undone = False
        for change in itertools.chain.from_iterable(self._changes.values()):
            if rng.random() < keeps:
                self._apply(names, folders, change)
            else:
                undone = True
        shutil.rmtree(self._root)
        for folder in sorted(folders):
            Path(folder).mkdir(mode=0o700)
        for name, number in names.items():
            inode = self._inodes[number]
            undone |= bool(inode.done)
            if str(Path(name).parent) in folders:
                Path(name).write_bytes(inode.content(rng))
                Path(name).chmod(inode.mode)
        return undone


def _all_done(inode: _Inode) -> bytes:
    data = inode.kept
    for op in inode.done:
        data = _done(data, op, len(op.get("data", b"")))
    return data


def read_log(path: Path) -> list[Op]:
    """The lines that a recorder has written."""
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


# SQLite's files -----------------------------------------------------------------------------------------------------


def tear(kept: bytes, written: bytes, rng: random.Random) -> bytes:
    """Return what a power cut may leave of a ``kept`` file that was written to: sectors of either, and one torn."""
    if kept == written:
        return kept
    style = rng.randrange(3)
    if style == 0:  # cut off, or torn at a byte
        end = rng.randrange(_same(kept, written), len(written) + 1)
        return written[:end] + kept[end:]
    keeps = rng.random()
    size = max(len(kept), len(written))
    pieces = []
    for at in range(0, size, SECTOR):
        old, new = kept[at : at + SECTOR], written[at : at + SECTOR]
        pieces.append(new if rng.random() < keeps else old.ljust(len(new), b"\0"))
    return b"".join(pieces)


def _same(one: bytes, other: bytes) -> int:
    """How many bytes at the beginning are the same."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
