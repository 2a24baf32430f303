"""A token pays once, typed as commands against a real hub: whatever became of the payment, and of its connection."""

from __future__ import annotations

import subprocess
import sys

import pytest
from network_support import DEPOSIT, FEE, WAIT, Client, Network, tokens_of
from original_support import PAYEE, write_original
from original_support import QUEUED as QUEUED_THERE
from original_support import SENT as SENT_THERE

from picopayments_cli.channel.stages import CLOSED, CLOSING

TOKEN, STRANGER = "ab" * 16, "ef" * 32
NOBODY = "http://127.0.0.1:1/"  # where no hub is


@pytest.fixture(scope="module")
def bob(network: Network) -> Client:
    """The payee of every test."""
    return network.client("bob")


@pytest.fixture
def alice(network: Network, request: pytest.FixtureRequest) -> Client:
    return network.client(request.node.name[:60])


@pytest.fixture
def payee(network: Network, bob: Client) -> str:
    """The handle of a new connection of Bob's."""
    return network.open_connection(bob)


def queue(client: Client, source: str, payee: str, amount: int = 70) -> str:
    """Queue the payment; what stderr says."""
    done = client.done("queuepayment", source, payee, str(amount), "--token", TOKEN)
    assert done.result == TOKEN
    return done.stderr


def in_use(client: Client, source: str, payee: str, amount: int = 70) -> bool:
    """Whether the payment is refused as another one of its token; then nothing is written."""
    before = client.files()
    refused = client.fails("queuepayment", source, payee, str(amount), "--token", TOKEN) == (1, "TokenInUse")
    assert client.files() == before
    return refused


def sent(client: Client) -> list[str]:
    """The connections that have sent the payment, as the history tells."""
    return [item["handle"] for item in client.run("history") if (item["action"], item.get("token")) == ("sent", TOKEN)]


# What was sent ------------------------------------------------------------------------------------------------------


def test_a_script_that_is_run_again_pays_once(network: Network, alice: Client, bob: Client, payee: str) -> None:
    source = network.open_connection(alice)
    told = []
    for _ in range(2):
        told += [queue(alice, source, payee), queue(alice, source, payee)]
        alice.run("sync")
    assert tokens_of(bob.run("sync", "--handle", payee), payee) == [TOKEN]
    assert alice.shown(source)["balance"] == DEPOSIT - 70 - 2 * FEE
    assert sent(alice) == [source]
    before = alice.files()
    told.append(queue(alice, source, payee))
    assert alice.files() == before
    assert ["queued already" in text for text in told] == [False, True, False, False, False]
    assert ["sent already" in text for text in told] == [False, False, True, True, True]


def test_no_other_payment_has_the_token_of_one_that_was_sent(network: Network, alice: Client, payee: str) -> None:
    source, second = network.open_connection(alice), network.open_connection(alice)
    queue(alice, source, payee)
    others = ((second, payee, 70), (source, STRANGER, 70), (source, payee, 71))
    assert all(in_use(alice, *other) for other in others)
    alice.run("sync")
    assert all(in_use(alice, *other) for other in others)
    error = alice.done("queuepayment", second, payee, "70", "--token", TOKEN).error
    assert error["data"] == {"token": TOKEN, "quantity": 70, "handle": source, "payee_handle": payee}
    assert sent(alice) == [source]


def test_a_connection_that_was_culled_has_paid_all_the_same(network: Network, alice: Client, payee: str) -> None:
    source, second = network.open_connection(alice), network.open_connection(alice)
    queue(alice, source, payee)
    alice.run("sync")
    alice.run("close", source)
    network.settle(alice, source)
    assert "sent already" in queue(alice, source, payee)
    assert alice.run("cull") == [source]
    done = alice.done("queuepayment", source, payee, "0.0000007XCP", "--token", TOKEN)
    assert done.result == TOKEN
    assert "sent already" in done.stderr
    assert in_use(alice, source, payee, 71)
    assert in_use(alice, second, payee)
    assert alice.fails("queuepayment", source, payee, "70", "--token", "cd") == (1, "UnknownHandle")


# What was sent and not answered -------------------------------------------------------------------------------------


def test_what_a_sync_may_have_sent_is_not_queued_again(
    network: Network, alice: Client, bob: Client, payee: str
) -> None:
    source, second = network.open_connection(alice), network.open_connection(alice)
    queue(alice, source, payee)
    assert alice.killed("sync settled", "sync", "--handle", source)
    assert "no answer yet" in queue(alice, source, payee)
    assert in_use(alice, second, payee)
    alice.run("sync")
    assert "sent already" in queue(alice, source, payee)
    assert tokens_of(bob.run("sync", "--handle", payee), payee) == [TOKEN]
    assert alice.shown(source)["balance"] == DEPOSIT - 70 - FEE


def test_a_culled_connection_without_its_answer_may_have_paid(network: Network, alice: Client, payee: str) -> None:
    """The hub took the payment, and was never heard of again; a node of one's own tells the rest."""
    source, second = network.open_connection(alice, "--expire-time", "30"), network.open_connection(alice)
    queue(alice, source, payee)
    assert alice.killed("sync settled", "sync", "--handle", source)
    path = alice.basedir / "regtest.connections" / f"{source}.json"
    path.write_text(path.read_text().replace(network.hub_url, NOBODY))
    alone = Client(alice.basedir, NOBODY)
    alone.run("config", "chain_url", network.chain_url)
    assert alone.fails("close", source) == (3, "HubUnreachable")
    for _ in range(60):
        if alice.connection(source).stage == CLOSED:
            break
        network.mine()
        alone.done("sync", "--handle", source)
    assert alone.run("cull", "--handle", source) == [source]
    assert sent(alone) == []
    assert "no answer yet" in queue(alone, source, payee)
    assert in_use(alone, second, payee)


# What was never paid ------------------------------------------------------------------------------------------------


def test_what_was_refused_may_be_queued_again(network: Network, alice: Client, bob: Client, payee: str) -> None:
    source, second = network.open_connection(alice), network.open_connection(alice)
    alice.queue_unseen(source, STRANGER, 70, "--token", TOKEN)
    assert "UnknownHandle" in alice.done("sync").stderr
    assert alice.queue_unseen(source, STRANGER, 70, "--token", TOKEN) == TOKEN
    alice.run("sync")
    assert queue(alice, second, payee) == ""
    alice.run("sync")
    assert in_use(alice, source, STRANGER)
    assert tokens_of(bob.run("sync", "--handle", payee), payee) == [TOKEN]
    assert sent(alice) == [second]


def test_what_was_cancelled_may_be_queued_again(network: Network, alice: Client, bob: Client, payee: str) -> None:
    source, second = network.open_connection(alice), network.open_connection(alice)
    queue(alice, source, payee)
    assert alice.run("cancelpayment", TOKEN) is True
    assert queue(alice, second, payee) == ""
    alice.run("sync")
    assert alice.run("cancelpayment", TOKEN) is False
    assert tokens_of(bob.run("sync", "--handle", payee), payee) == [TOKEN]
    assert sent(alice) == [second]


def test_what_a_closing_connection_never_sent_may_be_queued_on_another(
    network: Network, alice: Client, bob: Client, payee: str
) -> None:
    source = network.open_connection(alice, "--expire-time", "30")
    queue(alice, source, payee)
    network.mine(30)
    alice.run("sync")
    assert alice.connection(source).stage == CLOSING
    assert [item["token"] for item in alice.shown(source)["payments_queued"]] == [TOKEN]
    assert alice.fails("queuepayment", source, payee, "70", "--token", TOKEN) == (1, "ConnectionNotOpen")
    second = network.open_connection(alice)
    assert queue(alice, second, payee) == ""
    assert alice.shown(source)["payments_queued"] == []
    alice.run("sync")
    assert alice.run("cancelpayment", TOKEN) is False
    assert tokens_of(bob.run("sync", "--handle", payee), payee) == [TOKEN]
    assert sent(alice) == [second]


# The original client's ----------------------------------------------------------------------------------------------


def test_what_the_original_client_paid_holds_its_token(network: Network, alice: Client) -> None:
    write_original(alice.basedir, "regtest")
    handle = network.open_connection(alice)
    for amount, token in (("400", SENT_THERE), ("7", QUEUED_THERE)):
        assert alice.fails("queuepayment", handle, PAYEE, amount, "--token", token) == (1, "TokenInUse")
        assert alice.run("cancelpayment", token) is False
        assert alice.fails("queuepayment", handle, PAYEE, amount, "--token", token) == (1, "TokenInUse")
    assert alice.queue_unseen(handle, PAYEE, 7, "--token", TOKEN) == TOKEN


# Two at once --------------------------------------------------------------------------------------------------------


def test_two_processes_at_once_queue_it_once(network: Network, alice: Client, payee: str) -> None:
    sources = [network.open_connection(alice) for _ in range(2)]
    command = [sys.executable, "-m", "picopayments_cli"]
    running = [
        subprocess.Popen(
            [*command, *alice.words("queuepayment", source, payee, "70", "--token", TOKEN)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for source in sources
    ]
    errors = [process.communicate(timeout=WAIT)[1] for process in running]
    assert sorted(process.returncode for process in running) == [0, 1]
    assert any(b"TokenInUse" in error for error in errors)
    assert sum(len(alice.shown(source)["payments_queued"]) for source in sources) == 1
