"""The floors: which module may import which, and what a start-up may load."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bitcoin
import pytest

import picopayments_cli

ROOT = Path(picopayments_cli.__file__).parent
PACKAGE = "picopayments_cli"
WINGS = ("client", "hub", "regtest")
GROUND = ("channel", "errors", "quantities")
FACES = {
    *("__main__", "cli", "api", "commands", "completion", "hub.cli", "hub.commands", "json_arguments", "manpages"),
    "passphrases",
}
PURE = {
    *("__future__", "abc", "base64", "binascii", "bisect", "collections", "dataclasses", "decimal", "enum"),
    *("fractions", "functools", "hashlib", "hmac", "itertools", "json", "math", "operator", "re", "struct", "types"),
    *("typing", "btclib_secp256k1", "cbor2", "pycoin"),
}
BITCOIN = {
    "bitcoin.core",
    "bitcoin.core.contrib.ripemd160",
    "bitcoin.core.script",
    "bitcoin.core.serialize",
}
PARSING = {"__future__", "_locale", "errno", "gettext", "locale", "textwrap"}  # loaded by argparse when it parses
GUESSING = {
    "_heapq",
    "difflib",
    "heapq",
    "picopayments_cli.placing",
    "picopayments_cli.suggestions",
}  # loaded where a word is mistyped


def modules() -> dict[str, Path]:
    """Every module of the package, by its name without the package's own."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
        for path in sorted(ROOT.rglob("*.py"))
    }


def imports_of(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if is_module(whole) else node.module


def is_module(name: str) -> bool:
    """Whether a name of ours or of bitcoinlib is a module's, and not that of something inside one."""
    top, *rest = name.split(".")
    folder = {PACKAGE: ROOT, "bitcoin": Path(bitcoin.__file__).parent}.get(top)
    if folder is None or not rest:
        return False
    return folder.joinpath(*rest).is_dir() or folder.joinpath(*rest).with_suffix(".py").is_file()


def ours(path: Path) -> set[str]:
    """The package's modules that a file imports, without the package's name; the package itself is left out."""
    return {name.removeprefix(f"{PACKAGE}.") for name in imports_of(path) if name.startswith(f"{PACKAGE}.")}


def floor_of(name: str) -> str:
    """face, a wing's name, shared, or channel."""
    top = name.partition(".")[0]
    if name in FACES:
        return "face"
    return top if top in WINGS else "channel" if top in GROUND else "shared"


def may_import(importer: str) -> set[str]:
    floor = floor_of(importer)
    if floor == "face":
        return {"face", *WINGS, "shared", "channel"}
    return {"channel"} if floor == "channel" else {floor, "shared", "channel"}


@pytest.mark.parametrize("name", [name for name in modules() if name])
def test_a_module_imports_only_from_its_floor_and_those_below(name: str) -> None:
    wrong = {other for other in ours(modules()[name]) if floor_of(other) not in may_import(name)}
    assert wrong == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not even inside functions, where it would go unnoticed."""
    left = {name: ours(path) & modules().keys() for name, path in modules().items()}
    while free := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in free}
    assert left == {}


@pytest.mark.parametrize("name", [name for name in modules() if floor_of(name) == "channel"])
def test_the_ground_floor_is_pure(name: str) -> None:
    others = {other for other in imports_of(modules()[name]) if other.partition(".")[0] != PACKAGE}
    impure = {other for other in others - BITCOIN if other.partition(".")[0] not in PURE}
    assert impure == set()


@pytest.mark.parametrize("name", modules())
def test_the_parts_of_bitcoinlib_that_err_are_not_used(name: str) -> None:
    """wallet and key take libssl by ctypes and global parameters; scripteval takes relative locks for no-ops."""
    used = {other for other in imports_of(modules()[name]) if other.partition(".")[0] == "bitcoin"}
    assert used <= BITCOIN


def test_only_the_faces_know_argparse() -> None:
    """And stdin, stdout and exit codes with it."""
    users = {name for name, path in modules().items() if "argparse" in set(imports_of(path))}
    words = {"cli", "commands", "completion", "json_arguments", "manpages", "placing"}
    assert users <= {*words, "hub.cli", "hub.commands", "regtest.__main__"}


def test_the_package_itself_imports_nothing() -> None:
    assert list(imports_of(modules()[""])) == []


def test_the_client_parser_imports_nothing_slow_at_its_top() -> None:
    tree = ast.parse(modules()["cli"].read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert [ast.unparse(node) for node in top] == [
        "from __future__ import annotations",
        *("import argparse", "import atexit", "import json", "import os", "import sys"),
        "from picopayments_cli.commands import COMMANDS, GROUPS, Command, descriptor, seconds",
        "from picopayments_cli.interrupts import exit_code, told_alike",
    ]


@pytest.mark.parametrize("words", [["version"], ["--version"], ["help", "connect"], ["--help"], ["--test", "version"]])
def test_a_start_loads_nothing_but_the_parser(words: list[str]) -> None:
    """Each module more makes `version` slower; typing and pathlib alone nearly double its time."""
    code = (
        "import argparse, atexit, json, os, sys\n"
        "before = set(sys.modules)\n"
        "from picopayments_cli.cli import main\n"
        "try:\n"
        f"    main({words!r})\n"
        "except SystemExit:\n"
        "    pass\n"
        "print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    own = {"signal", *(f"picopayments_cli{name}" for name in ("", ".cli", ".commands", ".interrupts"))}
    seen = loaded - {"contextlib"}  # which some environments load before
    assert seen - PARSING - (GUESSING if "--test" in words else set()) == own
