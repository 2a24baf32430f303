"""The operator's commands on a running hub: over its socket, and what each may and may not do."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_support import DEPOSIT, Client, Desk, open_all, payment, running_desk
from regtest_support import address_of, key_of, script_of_key

from picopayments_cli.chain import Query
from picopayments_cli.channel.fees import FETCH_BLOCKS
from picopayments_cli.channel.messages import ConnectRequest
from picopayments_cli.channel.stages import REQUESTED
from picopayments_cli.errors import (
    AmbiguousHandle,
    BroadcastRefused,
    ConnectionNotOpen,
    InsufficientBitcoin,
    InsufficientFunds,
    InvalidAddress,
    InvalidHex,
    InvalidParams,
    InvalidQuantity,
    InvalidSetting,
    NodeUnreachable,
    PicopaymentsError,
    StoreUnusable,
    UnknownAsset,
    UnknownHandle,
)
from picopayments_cli.hub import cli, commands, operator, operator_socket
from picopayments_cli.hub.account import Queue
from picopayments_cli.hub.operator import Operator
from picopayments_cli.hub.overview import STAGES, Overviews
from picopayments_cli.hub.stale_database import Witness

ELSEWHERE = script_of_key(key_of("the operator's own"))
ADDRESS = address_of(ELSEWHERE)


def operator_of(desk: Desk) -> Operator:
    """The commands on a hub, as the program has them."""
    witness = Witness(desk.folder.witness_path, desk.database, desk.hub.book)
    return Operator(desk.rounds, desk.folder, Overviews(desk.hub), witness.outdate_copies)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Desk]:
    """A hub of the test's own."""
    with running_desk(tmp_path) as running:
        yield running


@contextlib.contextmanager
def answering(desk: Desk) -> Iterator[list[str]]:
    """The hub with its socket; the words that begin a command line to it."""
    with operator_socket.served(desk.folder.socket_path, operator_of(desk).table()):
        yield ["--regtest", "--basedir", str(desk.folder.basedir)]


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """The exit code of a command line, and the one JSON document that it prints."""
    code = cli.main(words)
    told = capsys.readouterr()
    return code, json.loads(told.err.splitlines()[-1])["error"] if code else json.loads(told.out)


# The socket and the command line ------------------------------------------------------------------------------------


def test_a_backup_that_only_the_hub_sees_is_refused(
    desk: Desk, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unseen(_self: Operator, file: str) -> dict[str, str]:
        return {"file": file}  # as into a /tmp of its own

    monkeypatch.setattr(Operator, "backup", unseen)
    with answering(desk) as hub:
        code, error = run([*hub, "backup", str(tmp_path / "hub-1")], capsys)
    assert (code, error["name"]) == (4, "StoreUnusable")
    assert "ReadWritePaths" in error["message"]


@pytest.mark.parametrize("option", ["--node-port", "--block-time"])
def test_options_of_the_embedded_node_go_by_the_network_that_is_chosen(
    option: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_run", lambda args, environ: None)
    words = ["--basedir", str(tmp_path), option, "0"]
    with pytest.raises(SystemExit):
        cli.main(words)
    assert f"{option} is for the embedded node only" in capsys.readouterr().err
    monkeypatch.setenv("PICOPAYMENTS_NETWORK", "regtest")
    assert cli.main(words) == 0
    monkeypatch.setenv("PICOPAYMENTS_CHAIN_URL", "http://127.0.0.1:9/")
    with pytest.raises(SystemExit):
        cli.main(words)
    assert f"{option} is for the embedded node only" in capsys.readouterr().err


def test_commands_reach_the_running_hub_alone(desk: Desk, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with answering(desk) as hub:
        path = desk.folder.socket_path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        code, told = run([*hub, "status"], capsys)
        assert (code, told["network"], told["address"]) == (0, "regtest", desk.hub.address)
        assert set(told["connections"]) == set(STAGES) == set(commands.STAGES)
        code, error = run([*hub, "connection", "0123abcd"], capsys)
        assert (code, error["name"], error["data"]) == (1, "UnknownHandle", {"handle": "0123abcd"})
        code, error = run([*hub, "terms", "set", str(tmp_path / "nothing")], capsys)
        assert (code, error["name"]) == (1, "InvalidSetting")
        assert run([*hub, "terms", "reload", "x"], capsys)[0] == 2
        path.chmod(0o666)
        code, error = run([*hub, "status"], capsys)
        assert (code, error["name"]) == (4, "StoreUnusable")
        assert "chmod go=" in error["message"]
        path.chmod(0o600)
    assert not path.exists()
    code, error = run([*hub, "status"], capsys)
    assert (code, error["name"]) == (3, "HubUnreachable")
    assert str(desk.folder.basedir) in error["message"]


def test_a_socket_that_a_killed_hub_left_is_nobodys_and_hinders_nothing(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    left = socket.socket(socket.AF_UNIX)
    with operator_socket._short(desk.folder.socket_path) as name:
        left.bind(name)
    left.close()
    desk.folder.socket_path.chmod(0o600)
    words = ["--regtest", "--basedir", str(desk.folder.basedir), "drain"]
    assert run(words, capsys)[0] == 3
    with answering(desk) as hub:
        assert run([*hub, "terms"], capsys)[1] == desk.hub.offer.members


def test_a_folder_with_a_long_name_has_its_socket_too(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()

    def double(number: int) -> int:
        return 2 * number

    with operator_socket.served(folder / "hub.regtest.sock", {"double": double}):
        assert operator_socket.ask(folder / "hub.regtest.sock", "double", {"number": 4}) == 8


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        ("withdraw", {"dry_run": None}),
        ("withdraw", {"dry_run": 1}),
        ("withdraw", {"quantity": True}),
        ("withdraw", {"quantity": 1000.0}),
        ("withdraw", {"asset": 0}),
        ("withdraw", {"asset": None}),
        ("withdraw", {"address": ["x"]}),
        ("connections", {"most": 1.5}),
        ("connections", {"most": True}),
        ("connections", {"stage": 1}),
        ("connection", {"handle": 12345678}),
        ("close", {"handle": None}),
        ("terms_set", {"terms": []}),
        ("backup", {"file": 1}),
    ],
)
def test_a_value_of_another_type_is_refused_and_nothing_done(own: Desk, method: str, wrong: dict[str, Any]) -> None:
    right = {"address": ADDRESS, "quantity": 1000} if method == "withdraw" else {}
    before = own.mempool()
    with answering(own), pytest.raises(InvalidParams, match=f"{next(iter(wrong))} must be"):
        operator_socket.ask(own.folder.socket_path, method, {**right, **wrong})
    assert own.mempool() == before


def test_what_may_be_left_out_may_be_and_nothing_else(desk: Desk) -> None:
    with answering(desk):
        path = desk.folder.socket_path
        assert set(operator_socket.ask(path, "connections", {"stage": None})) >= {"connections"}
        with pytest.raises(PicopaymentsError, match="address"):
            operator_socket.ask(path, "withdraw", {"quantity": None})


@pytest.mark.parametrize("most", [0, operator.MOST_LISTED + 1])
def test_a_page_has_a_size(desk: Desk, most: int) -> None:
    assert operator.MOST_LISTED == commands.MOST_LISTED
    with pytest.raises(InvalidParams):
        operator_of(desk).connections(most=most)


# Looking ------------------------------------------------------------------------------------------------------------


def test_connections_come_in_pages_and_one_alone_by_its_first_digits(desk: Desk, alice: Client, bob: Client) -> None:
    told = operator_of(desk)
    asked = Client(desk, "asks only")
    asked.request()
    listed: list[dict[str, Any]] = []
    page: dict[str, Any] = {"next": None}
    while "next" in page:
        page = told.connections(after=page["next"], most=2)
        assert len(page["connections"]) <= 2
        listed += page["connections"]
    handles = [row["handle"] for row in listed]
    assert handles == sorted(handles)
    assert {alice.handle.hex(), bob.handle.hex(), asked.handle.hex()} <= set(handles)
    assert [row["handle"] for row in told.connections(stage=REQUESTED)["connections"]] == [asked.handle.hex()]
    with pytest.raises(UnknownAsset, match="none is in it"):
        told.connections(asset="NONESUCH")
    assert len(told.connections(asset="XCP")["connections"]) == len(listed)
    alice.sync(payment(bob.handle, 700))
    row = told.connection(bob.handle.hex()[:8])
    assert (row["handle"], row["stage"], row["waiting"]) == (bob.handle.hex(), "open", {"payments": 1, "quantity": 700})
    assert (row["hub_deposit"], row["anchors"]["h2c"]) == (DEPOSIT, str(bob.anchors.h2c))
    account = desk.account(bob.handle)
    for secret in (account.fixed.salt, account.fixed.client_salt, desk.hub.key.secret):
        assert secret.hex() not in json.dumps([row, listed])


@pytest.mark.parametrize(
    ("handle", "error"),
    [("ab" * 32, UnknownHandle), ("0123abc", InvalidHex), ("0123ABCD", InvalidHex), ("0" * 65, InvalidHex)],
)
def test_a_handle_that_is_none_is_refused(desk: Desk, handle: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        operator_of(desk).connection(handle)


def test_digits_that_begin_several_handles_name_none(desk: Desk, alice: Client) -> None:
    near = alice.handle[:8] + bytes(24)
    with desk.database.transaction("test") as db:
        db.exec_driver_sql(
            "insert into connections (handle, client, stage, due_height, fixed, stale) "
            f"select x'{near.hex()}', client, 'requested', 0, fixed, 0 from connections limit 1"
        )
    try:
        with pytest.raises(AmbiguousHandle):
            operator_of(desk).connection(alice.handle.hex()[:16])
        with pytest.raises(AmbiguousHandle):
            operator_of(desk).close(alice.handle.hex()[:16])
    finally:
        with desk.database.transaction("test") as db:
            db.exec_driver_sql(f"delete from connections where handle = x'{near.hex()}'")


def test_the_overview_adds_up_what_is_held_promised_and_deposited(own: Desk) -> None:
    opened, agreed = Client(own, "opened"), Client(own, "agreed")
    held = own.balance(own.hub.script)
    open_all(own, opened)
    agreed.agree(quantity=3 * DEPOSIT)
    told = operator_of(own).status()
    assert told["liquidity"]["XCP"] == {
        "held": held - DEPOSIT,
        "free": held - 4 * DEPOSIT,
        "promised": 3 * DEPOSIT,
        "deposited": DEPOSIT,
    }
    assert told["connections"] == {"requested": 0, "agreed": 1, "open": 1, "closing": 0, "closed": 0}
    assert (told["fresh"], told["reserve"]["missing"]) == (True, 0)
    found = Overviews(own.hub).latest()
    tip = own.node.bitcoin("getblockcount")
    heights = {
        stage: own.account(client.handle).fixed.agreed.expiry.height
        for stage, client in (("open", opened), ("agreed", agreed))
    }
    assert found.left == {(stage, height - tip): 1 for stage, height in heights.items()}


# Closing ------------------------------------------------------------------------------------------------------------


def test_a_connection_closes_in_agreement_or_alone(own: Desk) -> None:
    comes, stays_away = Client(own, "comes"), Client(own, "stays away")
    open_all(own, comes, stays_away)
    told = operator_of(own)
    for client in (comes, stays_away):
        client.sync(payment(None, 1000))
        assert told.close(client.handle.hex()[:8]) == {"handle": client.handle.hex(), "stage": "closing"}
        assert told.close(client.handle.hex())["stage"] == "closing"  # again: nothing more
    outcome = comes.agree_close()
    assert outcome.c2h
    assert outcome.h2c
    own.until("closed", comes.handle)
    assert own.account(stays_away.handle).stage == "closing"
    own.until("closed", stays_away.handle, most=150)
    asked = Client(own, "asks only")
    asked.request()
    with pytest.raises(ConnectionNotOpen):
        told.close(asked.handle.hex())


def test_a_client_can_fetch_what_waits_before_its_connection_closes(own: Desk) -> None:
    alice, bob, carol = Client(own, "alice"), Client(own, "bob"), Client(own, "carol")
    for hand in (alice, bob, carol):
        hand.agree(time=1000)
    open_all(own, alice, bob, carol)
    alice.sync(payment(bob.handle, 500), payment(carol.handle, 600))
    until = own.node.bitcoin("getblockcount") + FETCH_BLOCKS
    for client in (bob, carol):
        told = operator_of(own).close(client.handle.hex())
        assert told == {"handle": client.handle.hex(), "stage": "open", "closes_by": until}
    own.stop()
    own.start()  # which forgets nothing of it
    own.mine()
    assert [own.account(client.handle).stage for client in (bob, carol)] == ["open", "open"]
    assert operator_of(own).close(bob.handle.hex())["closes_by"] == until  # asked again it is not put off
    assert [item.amount for item in bob.sync().receipts] == [500]
    own.mine()
    assert [own.account(client.handle).stage for client in (bob, carol)] == ["closing", "open"]
    own.node.rpc("generate", blocks=until - own.node.bitcoin("getblockcount"))
    own.rounds.once()
    own.rounds.once()
    assert own.account(carol.handle).stage == "closing"
    assert own.account(alice.handle).waiting == Queue(1, 600)  # it went back
    assert own.account(alice.handle).stage == "open"


def test_draining_is_asked_for_in_the_running_hub(own: Desk) -> None:
    alice = Client(own, "alice")
    open_all(own, alice)
    told = operator_of(own).drain()
    assert (told["draining"], told["closes_by"]) == (True, own.node.bitcoin("getblockcount") + FETCH_BLOCKS)
    own.rounds.once()
    assert own.account(alice.handle).stage == "closing"
    late = Client(own, "late")
    body = late.sealed("mph_request", ConnectRequest("XCP", late.party, late.secrets.salt).as_json())
    assert own.name_of("mph_request", body) == "HubDraining"


# Terms --------------------------------------------------------------------------------------------------------------


def test_terms_are_set_whole_or_not_at_all(own: Desk) -> None:
    told, path = operator_of(own), own.folder.terms_path
    offered = told.terms_get()
    written = path.read_bytes()
    dear = {"XCP": {**offered["XCP"], "sync_fee": 9}}
    wrong: list[dict[str, Any]] = [{}, {"XCP": {**offered["XCP"], "sync_fee": 0}}, {"XCP": {"sync_fee": 1}}]
    for terms in [*wrong, {**dear, "NOBODY.knows": offered["XCP"]}]:
        with pytest.raises(InvalidSetting):
            told.terms_set(terms)
    assert (path.read_bytes(), told.terms_get()) == (written, offered)
    assert told.terms_set(dear) == dear
    assert (json.loads(path.read_bytes()), stat.S_IMODE(path.stat().st_mode)) == (dear, 0o600)
    now = own.hub.terms("XCP")
    assert now is not None
    assert now.sync_fee == 9
    path.write_bytes(b"{")
    with pytest.raises(InvalidSetting):
        told.terms_reload()
    assert told.terms_get() == dear
    path.write_bytes(written)
    assert told.terms_reload() == offered


def test_terms_stay_where_the_file_can_not_be_written(own: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    told = operator_of(own)
    offered = told.terms_get()

    def fails(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(operator, "replace_file", fails)
    with pytest.raises(StoreUnusable):
        told.terms_set({"XCP": {**offered["XCP"], "sync_fee": 9}})
    assert told.terms_get() == offered


# Withdrawals --------------------------------------------------------------------------------------------------------


def values(desk: Desk) -> list[int]:
    """The confirmed coins of the hub's wallet."""
    coins = desk.hub.chain.view(Query(coins=[desk.hub.address])).coins[desk.hub.address]
    return sorted(coin.value for coin in coins if coin.height is not None)


def received(desk: Desk, asset: str) -> int:
    """What the operator's own address holds."""
    return desk.hub.chain.view(Query(balances=[ADDRESS])).balances[ADDRESS].get(asset, 0)


def test_all_that_is_free_leaves_and_nothing_of_the_reserve(own: Desk) -> None:
    told, reserve = operator_of(own), own.hub.reserve
    for wrong, cause in (("1XCP", "withdrawal in BTC"), ("0.123456789BTC", "9 decimals")):
        with pytest.raises(InvalidQuantity, match=cause):
            told.withdraw(ADDRESS, wrong)
    part = told.withdraw(ADDRESS, "0.0001BTC", dry_run=True)
    assert (part["quantity"], part["stays"]) == (10_000, sum(values(own)) - 10_000 - part["fee"])
    plan = told.withdraw(ADDRESS, None, dry_run=True)
    assert own.mempool() == []
    done = told.withdraw(ADDRESS, None)
    assert {name: done[name] for name in plan} == plan
    assert own.mempool() == [done["txid"]]
    own.mine()
    assert received(own, "BTC") == done["quantity"]
    assert own.rows("select * from withdrawals") == []
    with pytest.raises(InsufficientBitcoin):  # a large coin of the reserve is being split
        told.withdraw(ADDRESS, None)
    own.mine()
    left = values(own)
    assert [value for value in left if value >= reserve.each][: reserve.coins] == left[: reserve.coins]
    spare = sum(left[reserve.coins :])
    with pytest.raises(InsufficientBitcoin):
        told.withdraw(ADDRESS, spare)
    again = told.withdraw(ADDRESS, None)
    assert again["quantity"] == spare - again["fee"]


def test_promised_liquidity_stays_and_no_coin_is_spent_twice(own: Desk) -> None:
    told = operator_of(own)
    client = Client(own, "client")
    client.agree()
    held = own.balance(own.hub.script)
    with pytest.raises(InsufficientFunds) as refused:
        told.withdraw(ADDRESS, held - DEPOSIT + 1, "XCP")
    assert refused.value.data["available"] == held - DEPOSIT
    assert told.withdraw(ADDRESS, None, "XCP")["quantity"] == held - DEPOSIT
    with pytest.raises(InsufficientFunds):  # on its way is gone
        told.withdraw(ADDRESS, 1, "XCP")
    late = Client(own, "late")
    late.request()
    assert late.refused("mph_deposit", late.proposal().as_json()) == "InsufficientLiquidity"
    told.withdraw(ADDRESS, None)
    client.endow()
    own.mine()
    client.deposit()
    own.mine(3)
    assert own.account(client.handle).stage == "open"
    assert (received(own, "XCP"), own.balance(own.hub.script)) == (held - DEPOSIT, 0)
    spent = [item for row in own.rows("select coins from sent") for item in str(row[0]).split()]
    assert len(spent) == len(set(spent))


def test_a_withdrawal_that_a_node_has_lost_leaves_again(own: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    told = operator_of(own)
    submit = own.hub.bitcoin.submit

    def silent(raws: list[bytes]) -> None:
        raise NodeUnreachable("no answer")

    monkeypatch.setattr(own.hub.bitcoin, "submit", silent)
    with pytest.raises(NodeUnreachable) as unknown:
        told.withdraw(ADDRESS, 100_000)
    assert "do not ask for another one" in unknown.value.message
    coins = {str(word).split("/")[0] for row in own.rows("select coins from withdrawals") for word in row[0].split()}
    monkeypatch.setattr(own.hub.bitcoin, "submit", submit)
    other = told.withdraw(ADDRESS, 200_000)
    spends = own.node.bitcoin("getrawtransaction", other["txid"], True)["vin"]
    assert not coins & {f"{item['txid']}:{item['vout']}" for item in spends}
    own.stop()
    own.start()
    own.rounds.once()
    assert set(own.mempool()) == {other["txid"], unknown.value.data["txid"]}
    own.mine()
    own.rounds.once()
    assert (received(own, "BTC"), own.rows("select * from withdrawals")) == (300_000, [])


def test_a_withdrawal_that_is_refused_is_none(own: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    told = operator_of(own)
    for address, quantity, asset, error in (
        (ADDRESS, 545, "BTC", InvalidQuantity),
        ("nonsense", 10_000, "BTC", InvalidAddress),
        (own.hub.network.burn_address, 1, "XCP", InvalidAddress),
    ):
        with pytest.raises(error):
            told.withdraw(address, quantity, asset)

    def refuse(raws: list[bytes]) -> None:
        raise BroadcastRefused("The node refused the transaction: no", reason="no")

    monkeypatch.setattr(own.hub.bitcoin, "submit", refuse)
    with pytest.raises(BroadcastRefused):
        told.withdraw(ADDRESS, 10_000)
    assert own.rows("select * from withdrawals") == []
