"""Faults that the fuzzers found stay mended."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from regtest_support import NodeProcess, running_node

from picopayments_cli.channel.counterparty import compact_longname, expand_longname
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.client.legacy import read_history
from picopayments_cli.errors import StoreDamaged
from picopayments_cli.hub.marks import Marks
from picopayments_cli.regtest.journal import Journal


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with running_node(tmp_path_factory.mktemp("node")) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("generate", ["1"]),
        ("faucet", [{}]),
        ("faucet", [[], 0, "XCP", 5]),
        ("setfeerate", [True]),
        ("setfeerate", [2**64]),
        ("reorganise", [1, "yes"]),
    ],
)
def test_the_node_names_arguments_that_it_can_not_use(method: str, params: object, node: NodeProcess) -> None:
    error = node.post("regtest/", {"jsonrpc": "2.0", "id": 1, "method": method, "params": params})["error"]
    assert error["data"]["type"] in ("InvalidParams", "TypeError")


@pytest.mark.parametrize("params", [2**63, 0.1, "x", True])
def test_bitcoins_interface_takes_params_that_are_none(params: object, node: NodeProcess) -> None:
    answer = requests.post(
        node.url + "bitcoin/", data=json.dumps({"method": "getblockcount", "params": params, "id": 1}), timeout=20
    )
    assert answer.json()["error"]["code"] == -32600


def test_a_longname_has_one_form() -> None:
    assert expand_longname((68).to_bytes(1, "big")) is None
    assert expand_longname(compact_longname("PARENT.child")) == "PARENT.child"


def test_the_originals_history_is_read_up_to_where_it_is_none(tmp_path: Path) -> None:
    row = f"1490000000.25,{'ab' * 32},sync,1,0XCP,5XCP,x"
    head = "timestamp,handle,action,id,fee,quantity,destination"
    huge = "9" * (csv.field_size_limit() + 1)
    for end, count in ((f"\r{row}", 2), (f"\n{huge}\n{row}", 1)):
        (tmp_path / "regtest.history.csv").write_text(f"{head}\n{row}{end}", newline="")
        assert len(read_history(tmp_path, NETWORKS["regtest"])) == count


def test_a_journal_of_other_things_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path).close()
    with sqlite3.connect(path) as database:
        database.execute("insert into blocks (hash, raw) values (5, 'text')")
        database.execute("insert into mempool (raw) values (7.5)")
        database.execute("insert into named values ('tip', 9)")
    journal = Journal(path)
    for read in (lambda: list(journal.blocks()), journal.mempool, lambda: journal.get("tip")):
        with pytest.raises(StoreDamaged):
            read()
    journal.close()


@pytest.mark.parametrize("data", [b"\xff\xfe\n", b"ab\x00\n", b"not hex\n"])
def test_marks_that_are_none_are_named(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "marks"
    path.touch(0o600)
    path.write_bytes(data)
    with pytest.raises(StoreDamaged):
        Marks(path)
