"""Paying as scripts do: exit codes, a stdout that is closed, and an index that goes on."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from typing import Any

import pytest
from network_support import FEE, WAIT, Client, Network


def in_shell(client: Client, redirections: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A command as a shell runs it."""
    command = [sys.executable, "-m", "picopayments_cli", *client.words(*words)]
    line = ["/bin/sh", "-c", f'"$@" {redirections}', "sh", *command]
    return subprocess.run(line, capture_output=True, text=True, timeout=WAIT, check=False)


def listed(client: Client, *words: str) -> list[Any]:
    """The payments' indexes."""
    return [item["index"] for item in client.run("payments", *words)]


@pytest.fixture(scope="module")
def traders(network: Network) -> tuple[Client, str, Client, str]:
    """Two clients, each with an open connection."""
    alice, bob = network.client("payments-alice"), network.client("payments-bob")
    return alice, network.open_connection(alice), bob, network.open_connection(bob)


@pytest.mark.parametrize("redirections", [">&-", "> /dev/full"])
def test_a_receipt_that_stdout_did_not_take_is_reported_by_the_next(
    traders: tuple[Client, str, Client, str], redirections: str
) -> None:
    alice, a, bob, b = traders
    token = alice.run("pay", a, b, "10")["token"]
    lost = in_shell(bob, redirections, "sync")
    assert (lost.returncode, json.loads(lost.stderr.splitlines()[-1])["error"]["name"]) == (1, "OutputLost")
    assert [item["token"] for item in bob.run("sync", "--handle", b)[b]["received_payments"]] == [token]
    assert bob.run("sync")[b]["received_payments"] == []
    assert bob.run("payments", "--limit", "1")[0]["token"] == token


def test_a_script_pays_until_the_code_is_0(network: Network, traders: tuple[Client, str, Client, str]) -> None:
    alice, a, bob, b = traders
    small = network.open_connection(network.client("payments-carol"), quantity=1000)
    before = alice.shown(a)["balance"]
    failed = alice.done("pay", a, small, "5000", "--token", "aa")  # more than that connection can take
    assert (failed.code, failed.error["name"], failed.stdout) == (1, "PaymentRefused", "")
    assert failed.error["data"]["cause"] == "PaymentExceedsReceivable"
    done = [alice.typed("pay", a, b, "7", "--token", "bb") for _ in range(2)]
    assert done[0] == done[1]
    assert before - alice.shown(a)["balance"] == 7 + 2 * FEE  # the refused amount came back, its fee did not
    brought = bob.run("sync")[b]["received_payments"]
    assert [(item["token"], item["amount"]) for item in brought] == [("bb", 7)]
    (refused,) = alice.run("sync")[a]["refused_payments"]
    assert refused["token"] == "aa"
    assert alice.fails("pay", a, b, "8", "--token", "bb") == (1, "TokenInUse")


def test_payments_are_listed_by_their_index(traders: tuple[Client, str, Client, str]) -> None:
    alice, a, _, b = traders
    queued = alice.run("queuepayment", a, b, "5")
    everything = alice.run("payments")
    indexes = [item["index"] for item in everything]
    last = indexes[-2]
    assert indexes == [*range(1, last + 1), None]
    assert (everything[-1]["token"], everything[-1]["state"]) == (queued, "queued")
    assert listed(alice, "--since", "0") == indexes[:-1]
    assert listed(alice, "--since", "1", "--limit", "2") == [2, 3][: last - 1]
    assert listed(alice, "--since", str(last)) == []
    assert listed(alice, "--limit", "2") == [last, None]
    assert listed(alice, "--state", "queued") == [None]
    assert {item["state"] for item in alice.run("payments", "--state", "refused")} <= {"refused"}
    assert alice.run("payments", "--handle", a[:8], "--asset", "XCP") == everything
    assert alice.fails("payments", "--asset", "DEMOCOIN") == (1, "UnknownAsset")
    assert alice.fails("payments", "--handle", b) == (1, "UnknownHandle")
    rows = list(csv.DictReader(io.StringIO(alice.done("payments", "--csv").stdout)))
    shown = [{name: "" if value is None else str(value) for name, value in item.items()} for item in everything]
    assert [{name: row[name] for name in item} for row, item in zip(rows, shown, strict=True)] == shown
    sums = sum(item["fee"] for item in everything[:-1])
    fees = [event["sync_fee"] for event in alice.run("history") if event["action"] == "fee"]
    assert sums <= sum(fees)
    assert alice.run("cancelpayment", queued) is True
