"""The shop of the documents, against payers who pay too little, twice and too late, and one who pays."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent

import pytest
from network_support import WAIT, Client, Network, wait_until

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "shop.rst").read_text(encoding="utf-8")
PRICE = 1337


def blocks() -> list[str]:
    """The shell code of the guide."""
    return [dedent(block) for block in re.findall(r"code:: bash\n\n((?:    .*\n?|\n)+)", GUIDE)]


@contextmanager
def open_shop(
    folder: Path, client: Client, handle: str, seconds: int, *, before_listen: str = ":"
) -> Iterator[queue.Queue[str]]:
    """The shop's script, with ``shop`` as a command; the lines that it prints, and its exit code if it ends.

    ``before_listen``: a command of the shell that is carried out before the shop's ``listen`` begins.
    """
    command = folder / "shop"
    words = " ".join(client.words())
    command.write_text(
        f'#!/bin/sh\n[ "$1" != listen ] || {before_listen}\nexec {sys.executable} -m picopayments_cli {words} "$@"\n'
    )
    command.chmod(0o700)
    script = folder / "shop.sh"
    script.write_text(blocks()[0])
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    argv = ["bash", str(script), handle, str(PRICE), str(seconds)]
    shop = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in shop.stdout or ():
            lines.put(line.strip())
        lines.put(f"exit code {shop.wait()}")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield lines
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shop.pid, signal.SIGKILL)
        shop.wait(WAIT)
        reader.join(WAIT)


@pytest.fixture(scope="module")
def payers(network: Network) -> list[tuple[Client, str]]:
    """Three clients with open connections."""
    clients = [network.client(name) for name in ("short", "honest", "second")]
    return [(client, network.open_connection(client)) for client in clients]


@pytest.fixture(scope="module")
def shop(network: Network) -> tuple[Client, str]:
    client = network.client("shop")
    return client, network.open_connection(client)


def test_it_sells_once_to_who_pays_in_full(
    tmp_path: Path, shop: tuple[Client, str], payers: list[tuple[Client, str]]
) -> None:
    (short, short_handle), (honest, handle), (second, second_handle) = payers
    with open_shop(tmp_path, *shop, 600) as lines:
        request = lines.get(timeout=WAIT)
        told = honest.run("decode", request)
        assert (told["handle"], told["quantity"], told["memo"], told["asset"]) == (shop[1], PRICE, "two coffees", "XCP")
        assert (told["network"], told["expired"]) == ("regtest", False)
        short.run("pay", short_handle, shop[1], str(PRICE - 1), "--token", told["token"])
        refused = lines.get(timeout=WAIT)
        assert refused.startswith("no goods")
        assert '"request": "too_little"' in refused
        paid = honest.run("pay", handle, request)
        assert (paid["state"], paid["amount"], paid["payee_handle"]) == ("sent", PRICE, shop[1])
        assert lines.get(timeout=WAIT) == "two coffees"
        assert honest.run("pay", handle, request)["index"] == paid["index"]  # once
        second.run("pay", second_handle, request.upper())
        twice = lines.get(timeout=WAIT)
        assert twice.startswith("no goods")
        assert '"request": "again"' in twice
        reported = shop[0].basedir / "regtest.reported"
        wait_until(lambda: json.loads(reported.read_text()) == {"upto": 3, "left": []}, "the shop's report")
    for client in (honest, short, second):
        client.run("sync")
    receipts = [client.run("payments", "--state", "sent")[-1].get("receipt") for client in (honest, short, second)]
    assert receipts[1:] == [None, None]
    check = ["bash", "-c", f"receipt={receipts[0]}; {blocks()[1].strip()}"]
    printed = subprocess.run(check, capture_output=True, text=True, check=True).stdout
    assert printed.split()[0] == told["token"]
    received = shop[0].run("payments", "--state", "received")
    assert [(item["amount"], item["request"]) for item in received] == [
        (PRICE - 1, "too_little"),
        (PRICE, "paid"),
        (PRICE, "again"),
    ]
    assert [item.get("receipt") for item in received] == [None, receipts[0], None]
    assert shop[0].run("sync", "--handle", shop[1])[shop[1]]["received_payments"] == []  # the shop has reported them


def test_it_sells_to_who_pays_before_it_listens_and_its_exit_code_says_whether_it_has_sold(
    tmp_path: Path, shop: tuple[Client, str], payers: list[tuple[Client, str]]
) -> None:
    payer, handle = payers[1]
    paid = tmp_path / "paid"
    # one that listens once it is paid has all at once, and need not wait as long as the shop would have it
    wait = f'{{ while [ ! -e {paid} ]; do sleep 0.1; done; set -- "$1" "$2" "$3" "$4" 3; }}'
    for name in ("sells", "empty"):
        (tmp_path / name).mkdir()
    with (
        open_shop(tmp_path / "sells", *shop, 20, before_listen=wait) as lines,
        open_shop(tmp_path / "empty", *shop, 1) as nothing,
    ):
        payer.run("pay", handle, lines.get(timeout=WAIT))
        shop[0].run("sync")  # any command may bring it
        paid.touch()
        assert lines.get(timeout=WAIT) == "two coffees"
        assert lines.get(timeout=2 * WAIT) == "exit code 0"
        nothing.get(timeout=WAIT)
        assert nothing.get(timeout=2 * WAIT) == "exit code 1"  # nobody came


def test_what_comes_too_late_is_given_back_or_sold_nothing(
    tmp_path: Path, shop: tuple[Client, str], payers: list[tuple[Client, str]]
) -> None:
    short, handle = payers[0]
    with open_shop(tmp_path, *shop, 2) as lines:
        request = lines.get(timeout=WAIT)
        token = short.run("decode", request)["token"]
        wait_until(lambda: short.run("decode", request)["expired"], "the request's end")
        assert short.fails("pay", handle, request) == (1, "RequestExpired")
        short.run("pay", handle, shop[1], str(PRICE), "--token", token)
        late = lines.get(timeout=WAIT)
        assert late.startswith("no goods")
        assert '"request": "too_late"' in late


def test_a_request_is_refused_that_is_not_for_here(
    network: Network, shop: tuple[Client, str], payers: list[tuple[Client, str]]
) -> None:
    client, handle = payers[0]
    request = shop[0].run("request", shop[1], "5")
    assert client.fails("pay", handle, request, "5") == (2, "UsageError")
    assert client.fails("pay", handle, shop[1]) == (2, "UsageError")
    assert client.fails("pay", handle, request[:-1]) == (1, "InvalidRequest")
    assert client.fails("decode", "bitcoin:x") == (1, "InvalidRequest")
    assert shop[0].fails("pay", shop[1], request) == (1, "PaymentToSelf")
    assert client.run("payments", "--state", "queued") == []
    done = shop[0].done("request", shop[1], "1.5XCP", "--qr", "--memo", "x" * 200)
    assert done.code == 0
    assert "\u2588" in done.stderr
    assert client.run("decode", done.result)["quantity"] == 150_000_000
    for words in (["0"], ["5", "--expires", "0"], ["5", "--expires", "99999999999"]):
        assert shop[0].done("request", shop[1], *words).code == 2
    refused = shop[0].done("request", shop[1], "5", "--memo", "é" * 101).error  # the payee is told so, who types it
    assert (refused["name"], refused["data"]) == ("InvalidParams", {"memo_bytes": 202, "most": 200})
    assert shop[0].fails("request", shop[1], "5", "--memo", "\udcff\x1b") == (1, "InvalidParams")
    assert "The hub's deposit is" in done.stderr  # which the request is above
    assert "The hub's deposit is" not in shop[0].done("request", shop[1], "5").stderr
