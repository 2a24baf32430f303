"""A client with more than one connection: each is looked at, and paid for, by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from client_support import EXPIRE, QUANTITY, Hub, Life
from envelope_support import answered, digest_of

from picopayments_cli import api
from picopayments_cli.channel.messages import KeyReply
from picopayments_cli.channel.stages import CLOSED
from picopayments_cli.channel.values import Handle, Outpoint
from picopayments_cli.client import lost
from picopayments_cli.client.connection import Connection
from picopayments_cli.errors import HubUnreachable, PicopaymentsError, StoreDamaged, SyncIncomplete

SECOND = Handle(b"\x02" * 32)


class BothHubs(Hub):
    """One hub, of which each connection is answered by a hand of its own."""

    def __init__(self, *hubs: Hub) -> None:
        self._hubs = {hub.handle.hex(): hub for hub in hubs}
        self.hides: list[Hub] = []  # that it names to nobody

    def call(self, method: str, params: Mapping[str, Any]) -> Any:
        if method != "mph_key":
            return self._hubs[params["handle"]].call(method, params)
        hubs = self._hubs.values()
        key = next(iter(hubs)).key
        asked = digest_of(method, key.pubkey, params)
        found = [item for hub in hubs for item in hub._key(params, asked).connections if hub not in self.hides]
        found.sort(key=lambda item: item.handle)
        return answered(method, key, KeyReply(asked, tuple(found)).as_json())


@pytest.fixture
def two(it: Life) -> tuple[Life, Hub, Hub]:
    """A client with two open connections, and the hub's hands for them."""
    it.open()
    first, second = it.hub, Hub(it.node, it.hub.key)
    second.handle, second.secrets = SECOND, replace(second.secrets, salt=b"the second salt.")
    for script in (it.wallet, first.script):
        it.node.rpc("faucet", address=api_address(it, script), btc=0, asset="XCP", quantity=QUANTITY)
    it.mine()
    it.hub = second
    it.restart()
    it.connect()
    it.mine()
    second.see(connections(it)[SECOND])
    second.fund(it.coins(second.script))
    it.mine()
    it.hub = BothHubs(first, second)
    it.restart()
    return it, first, second


def api_address(it: Life, script: bytes) -> str:
    """A script as an address."""
    return it.session.sight.at(script)


def connections(it: Life) -> dict[Handle, Connection]:
    return it.session.connections()


def test_each_connection_is_paid_what_is_its_own(two: tuple[Life, Hub, Hub]) -> None:
    it, first, second = two
    first.to_pay, second.to_pay = [300], [200]
    api.sync(it.session)
    moved = {handle: item.duplex.guaranteed - QUANTITY for handle, item in connections(it).items()}
    assert moved == {first.handle: 300 - 2, SECOND: 200 - 1}  # less the fees
    shown = api.status(it.session)["connections"]
    assert [item["status"] for item in shown.values()] == ["open", "open"]


def test_what_expires_together_is_paid_for_by_different_coins(two: tuple[Life, Hub, Hub]) -> None:
    it, first, second = two
    first.silent = second.silent = True
    it.node.rpc("feerate", rate=60)  # more than the deposits bring along
    try:
        wallet = {coin.outpoint for coin in it.coins(it.wallet)}
        it.mine(EXPIRE)
        sync(it)
        paying = [wallet & spent(it, txid) for txid in it.mempool()]
        assert len(paying) == 2
        assert all(paying)
        assert not paying[0] & paying[1]
        it.mine()
        sync(it)
    finally:
        it.node.rpc("feerate", rate="none")
    assert it.held() == 2 * QUANTITY
    assert {item.stage for item in connections(it).values()} == {CLOSED}


def sync(it: Life) -> None:
    """One sync by command, with hubs that are silent."""
    it.restart()
    with suppress(HubUnreachable):
        api.sync(it.session)


def spent(it: Life, txid: str) -> set[Outpoint]:
    """The outpoints that a transaction of the mempool spends."""
    found = it.node.bitcoin("getrawtransaction", txid, True)["vin"]
    return {Outpoint(bytes.fromhex(item["txid"])[::-1], item["vout"]) for item in found}


# Files that are lost ------------------------------------------------------------------------------------------------


def path_of(it: Life, handle: Handle, end: str = "json") -> Path:
    return it.session.store.folder / f"{handle.hex()}.{end}"


def gone(it: Life) -> None:
    path_of(it, SECOND).unlink()
    path_of(it, SECOND, "commits.jsonl").unlink()


def no_json(it: Life) -> None:
    path_of(it, SECOND).write_bytes(b"{")


def no_text(it: Life) -> None:
    path_of(it, SECOND).write_bytes(b"\xff" + path_of(it, SECOND).read_bytes()[1:])


def no_member(it: Life) -> None:
    path = path_of(it, SECOND)
    path.write_text(path.read_text().replace('"expiry"', '"axpiry"'))


def no_rows(it: Life) -> None:
    path_of(it, SECOND, "commits.jsonl").unlink()


LOSSES = [gone, no_json, no_text, no_member, no_rows]
Lose = Callable[[Life], None]


@pytest.fixture
def moved(two: tuple[Life, Hub, Hub]) -> tuple[Life, Hub, Hub]:
    """Two connections on which something was received."""
    it, first, second = two
    first.to_pay, second.to_pay = [70], [90]
    sync_all(it)
    return two


def sync_all(it: Life) -> dict[str, Any]:
    it.restart()
    return api.sync(it.session)


@pytest.mark.parametrize("lose", LOSSES)
def test_a_connection_whose_file_alone_is_lost_comes_back_as_it_was(moved: tuple[Life, Hub, Hub], lose: Lose) -> None:
    it, _, second = moved
    before, last = connections(it)[SECOND].duplex.net, it.session.store.payments.last
    lose(it)
    broken = {path.name: path.read_bytes() for path in it.session.store.folder.glob(f"{SECOND.hex()}*")}
    it.restart()
    shown = api.status(it.session)["connections"][SECOND.hex()]
    assert (shown["status"], shown["error"]["name"]) == ("unknown", "StoreDamaged")
    assert "`picopayments-cli sync`" in shown["error"]["message"]
    sync_all(it)
    found = connections(it)[SECOND]
    assert (found.stage, found.duplex.net) == ("agreed", before)
    aside = {
        path.name.removesuffix(".damaged"): path.read_bytes() for path in it.session.store.folder.glob("*.damaged")
    }
    assert aside == ({} if lose is gone else broken)  # nothing is deleted
    second.to_pay = [30]
    sync_all(it)
    assert connections(it)[SECOND].duplex.net == before + 30 - 1
    new = list(it.session.store.payments.after(last))
    assert [entry["amount"] for entry in new][-1] == 30  # under an index that nothing else has had


@pytest.mark.parametrize("lose", LOSSES)
def test_a_lost_file_that_does_not_come_back_is_named_by_each_command(moved: tuple[Life, Hub, Hub], lose: Lose) -> None:
    it, first, second = moved
    lose(it)
    cast("BothHubs", it.hub).hides = [second]
    for _ in range(2):
        first.to_pay = [5]
        with pytest.raises(SyncIncomplete) as failed:
            sync_all(it)
        assert failed.value.data["failed"][SECOND.hex()]["name"] == "StoreDamaged"
        with pytest.raises(StoreDamaged, match="sync"):
            api.close(it.session, SECOND.hex())
        with pytest.raises(StoreDamaged, match="sync"):
            api.status(it.session, SECOND.hex())


def test_what_is_not_proven_does_not_take_the_place_of_a_damaged_file(moved: tuple[Life, Hub, Hub]) -> None:
    it, _, second = moved
    whole = path_of(it, SECOND).read_bytes()
    no_json(it)
    second.lies = lambda reply: replace(reply, count=None)
    with pytest.raises(PicopaymentsError, match="copy that is as new"):
        sync_all(it)
    path_of(it, SECOND).write_bytes(whole)
    sync_all(it)
    assert connections(it)[SECOND].stage == "agreed"
    gone(it)
    sync_all(it)  # nobody has a copy of it: it comes back, and closes
    assert connections(it)[SECOND].unproven


def test_a_hub_can_name_no_other_connection_for_a_lost_one(moved: tuple[Life, Hub, Hub]) -> None:
    it, _, second = moved
    gone(it)
    request, stake = second.agreed or pytest.fail("no deposits")
    second.agreed = replace(request, height=request.height + 1), stake
    it.restart()
    with pytest.raises((SyncIncomplete, StoreDamaged)):
        api.sync(it.session)
    assert it.session.store.missing() == [SECOND]


def test_a_closed_connection_whose_file_is_lost_is_not_missed(moved: tuple[Life, Hub, Hub]) -> None:
    it, _, _ = moved
    for _ in range(12):
        with suppress(HubUnreachable):
            life_close(it)
        it.mine()
        sync_all(it)
        if connections(it)[SECOND].stage == CLOSED:
            break
    gone(it)
    it.restart()
    assert SECOND.hex() not in api.status(it.session)["connections"]
    sync_all(it)


def life_close(it: Life) -> None:
    it.restart()
    api.close(it.session, SECOND.hex())


def test_a_list_that_is_damaged_is_made_anew_and_the_hub_asked(moved: tuple[Life, Hub, Hub]) -> None:
    it, _, _ = moved
    gone(it)
    it.session.store.listed.path.write_bytes(b"{")
    sync_all(it)
    assert connections(it)[SECOND].stage == "agreed"
    gone(it)
    it.restart()
    assert it.session.store.missing() == [SECOND]


def test_a_folder_of_an_older_version_gets_its_list(moved: tuple[Life, Hub, Hub]) -> None:
    it, _, _ = moved
    it.session.store.listed.path.unlink()
    sync_all(it)
    gone(it)
    it.restart()
    assert it.session.store.missing() == [SECOND]


def test_wallet_restore_asks_for_all_that_there_is(moved: tuple[Life, Hub, Hub]) -> None:
    it, _, _ = moved
    gone(it)
    it.session.store.listed.path.unlink()
    it.restart()
    assert lost.take_back(it.session, always=True) is None
    assert connections(it)[SECOND].stage == "agreed"
