"""docs/hub.rst against the program: options, variables, files, terms, log lines, errors, ports and satoshis."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from picopayments_cli import errors
from picopayments_cli.channel.deadlines import MIN_MARGIN
from picopayments_cli.channel.drafts import DUST
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.transactions import Budget
from picopayments_cli.client.store import Store
from picopayments_cli.client.wallet import Wallet
from picopayments_cli.config import ENVIRONMENT
from picopayments_cli.hub import cli, postgres
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.terms import read_offer

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "hub.rst").read_text(encoding="utf-8")
PACKAGE = ROOT / "picopayments_cli"
MODULES = [*sorted((PACKAGE / "hub").rglob("*.py")), PACKAGE / "sparing.py", PACKAGE / "jsonlog.py"]
HUB = "\n".join(path.read_text(encoding="utf-8") for path in MODULES)
TESTNET4 = NETWORKS["testnet4"]


def block(title: str) -> str:
    """The first indented block under a heading, without its indent."""
    found = re.search(r"\n\.\. code::(?: bash)?\n\n((?:    .*\n|\n)+)", DOCUMENT.partition(f"\n{title}\n")[2])
    assert found
    return re.sub(r"(?m)^    ", "", found[1])


def test_the_service_starts_the_hub_with_words_that_it_takes() -> None:
    words = DOCUMENT.partition("ExecStart=")[2].partition("\n    Restart=")[0].replace("\\\n", "").split()
    given = cli._parser().parse_args(words[1:])
    assert words[0].endswith("/picopayments-hub")
    assert (given.network, given.restored, given.drain) == ("testnet4", False, False)
    for option in set(re.findall(r"``(--[a-z-]+)``", DOCUMENT)) & {"--restored", "--drain", "--ssl-cert", "--ssl-key"}:
        assert option in cli._parser().format_help()


@pytest.mark.parametrize(("network", "port"), [("mainnet", 8332), ("testnet4", 48332), ("signet", 38332)])
def test_a_hub_without_bitcoin_core_is_told_what_to_name(tmp_path: Path, network: str, port: int) -> None:
    command = [sys.executable, "-m", "picopayments_cli.hub.cli", "--network", network, "--basedir", str(tmp_path)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PICOPAYMENTS_")}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (done.returncode, error["name"]) == (1, "InvalidSetting")
    assert f"http://USER:PASSWORD@127.0.0.1:{port}/" in error["message"]


def test_every_variable_is_one_that_the_program_reads() -> None:
    named = set(re.findall(r"PICOPAYMENTS_\w+", DOCUMENT))
    assert named <= set(ENVIRONMENT.values())
    assert {"PICOPAYMENTS_BITCOIN_URL", "PICOPAYMENTS_CHAIN_URL"} <= named


def test_every_error_exists() -> None:
    named = set(re.findall(r"``([A-Z][a-z]+[A-Z]\w+)``", DOCUMENT))
    assert "DatabaseOutdated" in named
    for name in named:
        assert issubclass(getattr(errors, name), errors.PicopaymentsError), name


def test_the_terms_are_such_as_the_hub_takes(tmp_path: Path) -> None:
    path = tmp_path / "terms.json"
    path.write_text(block("Terms"))
    assert read_offer(path, TESTNET4).assets == ("XCP",)
    explained = re.findall(r"(?m)^``(\w+)``(?:, ``(\w+)``)?\n   ", DOCUMENT.partition("\nTerms\n")[2])
    assert {name for pair in explained for name in pair if name} == set(json.loads(path.read_text())["XCP"])


def test_every_line_of_the_log_is_one_that_the_hub_writes() -> None:
    table = DOCUMENT.partition("\nThe log\n")[2].partition("\nevent ")[2].partition("\nWake")[0]
    events = re.sub(r"(?m) {2,}\S.*$", "", table)  # the first column
    told = {" ".join(event.split()) for event in re.findall(r"``([^`]+)``", events)}
    calls = re.findall(
        r'log(?:ger)?\.(?:log\(level, |\w+\()("[^"%]+")( if over else "[^"]+")?|note\(log, ("[^"]+")', HUB
    )
    written = {name for parts in calls for part in parts for name in re.findall(r'"([^"]+)"', part)}
    assert len(told) > 15
    assert told == written


def test_the_calls_to_bitcoin_core_are_those_of_the_program() -> None:
    code = (ROOT / "picopayments_cli" / "chain" / "bitcoin.py").read_text(encoding="utf-8")
    called = set(re.findall(r'(?:self\._call\(|calls = \[\()"([a-z]+)"', code)) - {"gettxspendingprevout"}  # a client's
    told = DOCUMENT.partition("The hub asks it for blocks")[2].partition("\n\n")[0]
    assert set(re.findall("``([a-z]+)``", told)) == called


def test_the_ports_are_those_of_the_networks() -> None:
    table = DOCUMENT.partition("\nports on ")[2].partition("\n\n")[0]
    rows = re.findall(r"(?m)^(?:Bitcoin RPC|Counterparty|its healthz|this hub)((?: +\d+){4})$", table)
    told = dict(zip(table.split()[:4], zip(*(map(int, row.split()) for row in rows), strict=True), strict=True))
    assert told == {
        network.name: (network.bitcoin_port, network.node_port, network.node_port + 2, network.hub_port)
        for network in NETWORKS.values()
        if network.name != "regtest"
    }


def test_the_satoshis_are_those_of_the_channel() -> None:
    rows = dict(re.findall(r"(?m)^(lies in|comes back, \w+).*?((?: +\d+){4})$", DOCUMENT))
    budgets = [Budget(rate) for rate in (1, 5, 15, 100)]
    told = {name: [int(number) for number in numbers.split()] for name, numbers in rows.items()}
    assert told == {
        "lies in": [budget.anchor for budget in budgets],
        "comes back, agreed": [each.anchor - each.close_cost - DUST - each.payout_fee for each in budgets],
        "comes back, close": [each.anchor - each.commit_cost - each.payout_fee for each in budgets],
    }


def test_the_other_numbers_are_those_of_the_program() -> None:
    told = " ".join(DOCUMENT.split())
    within = [NETWORKS[name].deposit_blocks + NETWORKS[name].safe_depth - 1 for name in ("mainnet", "testnet4")]
    assert f"within {within[0]} blocks without the client's deposit, on testnet and testnet4 within {within[1]}" in told
    assert f"{2 * postgres._POOL_SIZE} such connections at most" in told
    assert f'``least_blocks_left{{stage="open"}}`` below {MIN_MARGIN}:' in told


def test_the_files_are_those_of_the_hub_and_its_key_is_a_clients(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "hub", TESTNET4)
    for path in (folder.wif_path, folder.terms_path, folder.witness_path, folder.marks_path):
        assert f"``{path.name}``" in DOCUMENT or f"/{path.name}``" in DOCUMENT
    with folder.locked():
        key = folder.key()
    (tmp_path / "client").mkdir(mode=0o700)
    shutil.copy(folder.wif_path, tmp_path / "client" / "testnet4.wif")
    with Store(tmp_path / "client", TESTNET4) as store:
        assert Wallet.open(store, TESTNET4).key == key


def test_it_is_named_where_a_reader_begins() -> None:
    assert "docs/hub.rst" in (ROOT / "README.rst").read_text(encoding="utf-8")
