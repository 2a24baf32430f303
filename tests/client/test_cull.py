"""The history and the archive show whole lives, typed as commands; and `cancelpayment` takes a payment back."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
from forked import completed
from network_support import DEPOSIT, Client, Network

TOKEN, OTHER, STRANGER = "ab" * 16, "cd" * 16, "ef" * 32

# A command that dies: at the numbered opening or renaming of one of its files, or at a save of that label.
DYING = """
import os, signal, sys
from picopayments_cli import cli
from picopayments_cli.client.store import Store
folder, when = sys.argv[1], sys.argv[2]
left = int(when) if when.isdigit() else 10**9
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def count(name, given):
    global left
    if name in ("open", "os.rename") and str(given[0]).startswith(folder):
        left -= 1
        if left < 0:
            die()
save = Store.save
def labelled(self, handle, document, label, *rest):
    if label == when:
        die()
    save(self, handle, document, label, *rest)
Store.save = labelled
sys.addaudithook(count)
sys.exit(cli.main(sys.argv[3:]))
"""


def dying(client: Client, when: str, *words: str) -> int:
    """The exit code of a command that dies."""
    return died(client, when, *words)[0]


def died(client: Client, when: str, *words: str) -> tuple[int, str]:
    """The exit code of a command that dies, and its stdout."""
    return completed(["-c", DYING, str(client.basedir), when, *client.words(*words)], 60)[:2]


def told(client: Client, handle: str) -> list[dict[str, Any]]:
    """A connection's history, without what every event has."""
    events = client.run("history", "--handle", handle)
    assert [event["number"] for event in events] == list(range(len(events)))
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    assert {event["handle"] for event in events} == {handle}
    return [{name: event[name] for name in event if name not in ("handle", "number", "time")} for event in events]


def settled(network: Network, client: Client) -> str:
    """The handle of a connection that received nothing, closed and settled."""
    handle = network.open_connection(client)
    client.run("close", handle)
    network.settle(client, handle)
    return handle


# History ------------------------------------------------------------------------------------------------------------


def test_the_history_of_a_whole_life(network: Network) -> None:
    alice, bob = network.client("alice"), network.client("bob")
    deposit = alice.run("connect", "XCP", str(DEPOSIT))
    one, txid = deposit["handle"], deposit["send_deposit_txid"]
    deposited = {"asset": "XCP", "quantity": DEPOSIT, "txid": txid, "address": alice.wallet.address}
    assert told(alice, one) == [{"action": "connected", **deposited}]
    network.mine(2)
    two = network.open_connection(bob)
    alice.run("queuepayment", one, two, "1337", "--token", TOKEN)
    alice.queue_unseen(one, STRANGER, 5, "--token", OTHER)
    alice.run("sync")
    received = bob.run("sync")[two]["received_payments"]
    assert [item.pop("index") for item in received] == [1]
    paid = {"payee_handle": two, "amount": 1337, "token": TOKEN}
    back = {"payee_handle": STRANGER, "amount": 5, "token": OTHER, "cause": "UnknownHandle"}
    fee = {"action": "fee", "sync_fee": 1}
    assert told(alice, one)[1:] == [{"action": "sent", **paid}, {"action": "refused", **back}, fee]
    assert told(bob, two)[1:] == [fee, *({"action": "received", **item} for item in received)]
    close = bob.run("close", two)["txid"]
    network.settle(bob, two)
    end = told(bob, two)[3:]
    assert end[:3] == [fee, {"action": "closing"}, {"action": "published", "kind": "close", "txid": close}]
    assert {action.get("kind") for action in end[3:-1]} <= {"close", "rest"}
    assert end[-1] == {"action": "closed"}
    everything, payments = bob.run("history"), bob.run("payments")
    assert everything == bob.run("history", "--handle", two)
    assert bob.run("cull") == [two]
    assert bob.run("history") == everything
    assert bob.run("payments") == bob.run("payments", "--handle", two[:8]) == payments
    assert [(item["index"], item["token"], item["fee"]) for item in payments] == [(1, TOKEN, 1)]
    assert bob.fails("history", "--handle", one) == (1, "UnknownHandle")


def test_no_kill_loses_or_doubles_a_payment(network: Network) -> None:
    """Each time one file operation later: the sync that follows brings the payment into the history, once.

    And each is reported by one of the two; by both only where the first died between stdout and its note of that.
    """
    client, payee = network.client("carol"), network.client("dave")
    handle, other = network.open_connection(client), network.open_connection(payee)
    code, tokens = 1, []
    reported: list[dict[str, Any]] = []
    printed: list[dict[str, Any]] = []
    while code != 0:
        tokens.append(client.run("queuepayment", handle, other, "1"))
        code, out = died(client, str(len(tokens)), "sync")
        printed += json.loads(out)[handle]["sent_payments"] if out else []
        assert code in (0, -signal.SIGKILL)
        reported += client.run("sync")[handle]["sent_payments"]
    listed = client.run("payments")
    assert [(item["index"], item["token"]) for item in listed] == list(enumerate(tokens, 1))
    assert {item["token"] for item in (*reported, *printed)} == {*tokens}
    assert all(len({item["token"] for item in told}) == len(told) for told in (reported, printed))
    assert len(reported) + len(printed) - len(tokens) <= 3
    actions = told(client, handle)
    assert [item["token"] for item in actions if item["action"] == "sent"] == tokens
    fees = sum(item["action"] == "fee" for item in actions)
    assert client.shown(handle)["balance"] == DEPOSIT - len(tokens) - fees
    assert len(tokens) > 8


@pytest.mark.parametrize("label", ["close judged", "close leaves", "close left", "rest leaves", "rest left"])
def test_what_was_published_when_the_process_died(network: Network, label: str) -> None:
    name = label.replace(" ", "-")
    client, payer = network.client(name), network.client(f"{name}-payer")
    handle, source = network.open_connection(client), network.open_connection(payer)
    payer.run("queuepayment", source, handle, "1000")
    payer.run("sync")
    client.run("queuepayment", handle, source, "2000")
    client.run("sync")
    dies_in = "close" if label.startswith("close") else "sync"
    if dies_in == "sync":
        client.run("close", handle)
        network.mine()
    assert dying(client, label, dies_in, *([handle] if dies_in == "close" else [])) == -signal.SIGKILL
    network.settle(client, handle)
    published = [item for item in told(client, handle) if item["action"] == "published"]
    kinds = [item["kind"] for item in published]  # the hub may have published a close first
    assert (kinds.count("rest"), {*kinds} <= {"close", "rest"}) == (1, True)
    assert len({item["txid"] for item in published}) == len(published)
    assert all(network.mined_at(item["txid"]) <= network.height for item in published)


# Culling ------------------------------------------------------------------------------------------------------------


def test_only_what_is_over_is_culled(network: Network) -> None:
    client = network.client("erin")
    over, kept = settled(network, client), network.open_connection(client)
    assert client.fails("cull", "--handle", kept) == (1, "ConnectionNotOver")
    assert client.run("cull", "--handle", over) == [over]
    assert list(client.run("status")["connections"]) == [kept]
    assert client.fails("cull", "--handle", over) == (1, "UnknownHandle")
    archived = json.loads((client.basedir / "regtest.archive" / f"{over}.json").read_bytes())
    assert archived["stage"] == "closed"
    client.run("close", kept)
    files = client.files()
    assert client.run("cull") == []
    assert client.fails("cull", "--handle", kept) == (1, "ConnectionNotOver")
    assert client.files() == files
    network.settle(client, kept)
    assert client.run("cull") == [kept]
    assert client.run("status")["connections"] == {}
    assert client.run("cull") == []


def test_what_a_reorganisation_undid_is_not_culled(network: Network) -> None:
    client = network.client("frank")
    handle = settled(network, client)
    change = told(client, handle)[-2]
    network.hub.call("reorganise", depth=network.height - network.mined_at(change["txid"]) + 1)
    assert client.run("cull") == []
    assert client.fails("cull", "--handle", handle) == (1, "ConnectionNotOver")
    network.mine()
    assert client.run("cull") == [handle]


def test_what_came_later_is_not_culled(network: Network) -> None:
    """Somebody sends an asset to the deposit's address of a connection that was over."""
    client = network.client("grace")
    handle = settled(network, client)
    address = deposit_address(client, handle)
    network.hub.call("faucet", address=address, btc=0, asset="XCP", quantity=5)
    network.mine()
    assert client.run("cull") == []
    assert client.fails("cull", "--handle", handle) == (1, "ConnectionNotOver")


def deposit_address(client: Client, handle: str) -> str:
    from picopayments_cli.channel.networks import NETWORKS, address_of_script

    script = client.connection(handle).duplex.sending.contract.deposit.output
    return str(address_of_script(NETWORKS["regtest"], script))


# Cancelling ---------------------------------------------------------------------------------------------------------


def test_a_queued_payment_is_cancelled(network: Network) -> None:
    client = network.client("heidi")
    handle = network.open_connection(client)
    client.queue_unseen(handle, STRANGER, 5, "--token", TOKEN)
    kept = client.queue_unseen(handle, STRANGER, 6)
    files = client.files()
    assert client.run("cancelpayment", OTHER) is False
    assert client.files() == files
    assert client.run("cancelpayment", TOKEN) is True
    assert [item["token"] for item in client.shown(handle)["payments_queued"]] == [kept]
    assert client.run("cancelpayment", TOKEN) is False
    assert client.fails("cancelpayment", "no hex") == (1, "InvalidHex")


def test_what_a_sync_has_sent_can_not_be_cancelled(network: Network) -> None:
    client, payee = network.client("ivan"), network.client("judy")
    handle, other = network.open_connection(client), network.open_connection(payee)
    client.run("queuepayment", handle, other, "5", "--token", TOKEN)
    assert dying(client, "sync settled", "sync") == -signal.SIGKILL
    done = client.done("cancelpayment", TOKEN)
    assert done.result is False
    assert "can't be cancelled" in done.stderr
    client.run("sync")
    assert payee.run("sync")[other]["received_payments"][0]["token"] == TOKEN
    assert client.run("cancelpayment", TOKEN) is False
