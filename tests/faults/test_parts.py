"""A part of the fault harness, in the ordinary tests: lost answers, a lying hub, a lying client, floods."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType

import pytest
from envelope_support import answered
from hub_support import DEPOSIT

from faults import (
    answers,
    cheating,
    floods,
    fuzzing,
    kills,
    lying_chain,
    lying_client,
    lying_hub,
    moods,
    power,
    reorganisations,
    run,
    tracing,
    writers,
)
from faults.mutations import Mutation, setter
from faults.proxy import between
from faults.result import Budget, Result
from faults.town import Party, heard, running_town
from picopayments_cli import api
from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.client.session import Session
from picopayments_cli.config import Settings
from picopayments_cli.errors import BadReply, DepositRefused, HubRefused
from picopayments_cli.rpc import RpcClient

SEED = 1


@pytest.mark.parametrize(
    ("part", "trials", "pairs"),
    [
        (answers, 6, 0),
        (lying_hub, 18, 18),
        (lying_client, 34, 30),
        (lying_chain, 12, 10),
        (floods, 30, 0),
        (reorganisations, 3, 5),
        (moods, 2, 2),
        (writers, 25, 0),
        (cheating, 6, 0),
        (kills, 10, 0),
        (power, 20, 0),
        (fuzzing, 1300, 0),
    ],
    ids=lambda value: value.__name__.partition(".")[2] if isinstance(value, ModuleType) else "",
)
def test_nobody_loses_anything(part: ModuleType, trials: int, pairs: int, tmp_path: Path) -> None:
    result: Result = part.run(random.Random(SEED), Budget(tmp_path, quick=True))
    assert result.failures == []
    assert result.lost == 0
    assert result.trials >= trials
    assert len(result.pairs) >= pairs


# The harness itself -------------------------------------------------------------------------------------------------


def test_a_loss_is_counted_and_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def losing(_rng: random.Random, _budget: Budget) -> Result:
        result = Result("losing", trials=2)
        result.keep(100, 100, "one")
        result.keep(100, 93, "another")
        return result

    part = ModuleType("faults.losing")
    part.run = losing  # type: ignore[attr-defined]
    monkeypatch.setattr(run, "parts", lambda: {"losing": part})
    monkeypatch.setattr("sys.argv", ["run.py", "--seed", "5"])
    assert run.main() == 1
    out = capsys.readouterr().out
    assert out.startswith("seed: 5\n")
    assert "FAILED: another: 93 where 100 were guaranteed" in out
    assert out.endswith("funds lost: 7\n")


def test_a_part_that_breaks_down_fails_the_run(tmp_path: Path) -> None:
    def broken(_rng: random.Random, _budget: Budget) -> Result:
        raise ValueError("of all things")

    part = ModuleType("faults.broken")
    part.run = broken  # type: ignore[attr-defined]
    result = run.run_part(part, "broken", random.Random(SEED), Budget(tmp_path))
    assert not result.passed
    assert "of all things" in result.failures[0]


def test_every_part_is_found() -> None:
    assert {"answers", "lying_hub", "lying_client", "lying_chain", "floods"} <= set(run.parts())


# What it found ------------------------------------------------------------------------------------------------------


def test_a_fee_that_takes_the_whole_deposit_is_refused(tmp_path: Path) -> None:
    with running_town(tmp_path / "town", Result("fee")) as town:
        party, key = Party(town, "alice"), town.desk.hub.key
        fee = Mutation("sync_fee", "the deposit", setter(("channel_terms", "sync_fee"), DEPOSIT))
        town.proxy.change = lambda method, _, said: (
            fee.forged(said, partial(answered, method, key)) if method == "mph_request" else said
        )
        with pytest.raises(DepositRefused), heard():
            party.connect()
        assert party.handles() == []


@pytest.mark.parametrize("answer", [None, [], {}, {"current_terms": {}, "funds": {}, "connections": {}}, "x", 5])
def test_a_hub_whose_status_is_nonsense_is_named(answer: object, tmp_path: Path) -> None:
    with between("http://127.0.0.1:1/") as proxy:
        proxy.capture = lambda _method, _params: {"answer": answer} if answer is None else answer
        with pytest.raises(BadReply):
            api.hubstatus(Session(Settings(NETWORKS["regtest"], tmp_path, proxy.url)))


@pytest.mark.parametrize("name", ["StoreDamaged", "DatabaseUnusable", "UsageError"])
def test_no_hub_can_say_what_is_wrong_on_this_machine(name: str) -> None:
    text = "\x1b[2Jrestore it from your backup\r\n"
    with between("http://127.0.0.1:1/") as proxy:
        proxy.refuse = lambda _method, _params: {"code": -32000, "message": "", "data": {"type": name, "message": text}}
        with pytest.raises(HubRefused) as caught:
            RpcClient(proxy.url).call("mph_sync", {}, retry=False)
    assert caught.value.exit_code == 1
    assert caught.value.message.isprintable()
    assert "restore it from your backup" in caught.value.message


def test_a_process_is_killed_in_the_packages_own_code_alone_and_not_in_that_of_a_template() -> None:
    own = str(Path(tracing.PACKAGE, "hub", "page.py"))
    template = str(Path(tracing.PACKAGE, "hub", "templates", "page.css"))
    code = compile("def root(): pass", own, "exec")
    function = next(found for found in code.co_consts if isinstance(found, CodeType))
    assert tracing._function_of(function) == tracing.Function("hub/page.py", "root", 1)
    assert tracing._function_of(function.replace(co_filename=template)) is None
