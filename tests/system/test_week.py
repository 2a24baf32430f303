"""A week in minutes: ``serve`` leads a wallet through all that one can bring, and a shop hears of it by a webhook."""

from __future__ import annotations

import signal
import time
from dataclasses import replace

from cheats import DEPOSIT, Town
from network_support import FEE, Client, wait_until
from serve_support import Served
from webhook_support import Receiver, receiving

from picopayments_cli.channel.networks import NETWORKS
from picopayments_cli.channel.values import Handle, Quantity, Token
from picopayments_cli.channel.wire import Payment
from picopayments_cli.client.session import Session
from picopayments_cli.config import load_settings

PAYMENTS, PARTS, AMOUNT = 1000, 4, 3


def queue(client: Client, source: str, payee: str, part: int) -> None:
    """Queue a part of the payments in one change."""
    session = Session(load_settings(NETWORKS["regtest"], client.basedir, {"hub_url": client.hub_url}, {}))
    connection = session.connection(Handle(bytes.fromhex(source)))
    to = Handle(bytes.fromhex(payee))
    many = tuple(Payment(to, Quantity(AMOUNT), Token(b"%d of %d" % (n, part))) for n in range(PAYMENTS // PARTS))
    session.save(replace(connection, queue=many), "payment queued")
    session.close()


def pay_all(town: Town, bob: Client, b: str, alice: Client, a: str, hook: Receiver) -> None:
    """Bob makes all payments, many with each sync; Alice has them all, for few fees."""
    for part in range(PARTS):
        queue(bob, b, a, part)
        bob.run("sync")
        hook.wait("payment_received", PAYMENTS // PARTS * (part + 1))
    got = hook.named("payment_received")
    assert len({event["token"] for event in got}) == len(got) == PAYMENTS
    assert [event["index"] for event in got] == list(range(1, PAYMENTS + 1))
    assert {(event["amount"], event["handle"], event["payer_handle"]) for event in got} == {(AMOUNT, a, b)}
    assert sent(alice, a) <= 2 * PARTS * FEE


def sent(client: Client, handle: str) -> int:
    return int(client.shown(handle)["sent"])


def closes_at_its_deadline(town: Town, server: Served, alice: Client, hook: Receiver) -> None:
    """A connection of which nobody thinks any more is settled in time."""
    short = server.result("connect", ["XCP", DEPOSIT, 24])["handle"]
    town.mine(2)
    hook.wait("connection_opened", 2)
    town.mine_to(alice.shown(short)["settle_height"])
    assert hook.wait("connection_closing")[-1]["handle"] == short
    mine_until(town, hook, 1)
    assert hook.named("connection_closed")[-1]["handle"] == short


def mine_until(town: Town, hook: Receiver, closed: int) -> None:
    """Mine as slowly as the watcher looks, until so many connections are closed."""
    for _ in range(40):
        if len(hook.named("connection_closed")) >= closed:
            return
        town.mine()
        time.sleep(0.4)
    raise TimeoutError(f"not closed: {hook.events()[-5:]}")


def test_a_week_in_minutes(town: Town) -> None:
    alice, bob = town.client("alice"), town.client("bob")
    held = alice.balances()["XCP"]
    b = town.open(bob, expire=400, quantity=2 * DEPOSIT)

    def start() -> Served:
        return Served(alice.basedir, town.hub_url, "--port", "0", "--every", "0.3", "--webhook", hook.url)

    with receiving(lambda: (alice.basedir / "regtest.webhook.secret").read_bytes().strip()) as hook:
        server = start()
        try:
            # The beginning
            a = server.result("connect", ["XCP", DEPOSIT, 300])["handle"]
            town.mine(2)
            assert hook.wait("connection_opened")[0]["handle"] == a
            pay_all(town, bob, b, alice, a, hook)
            closes_at_its_deadline(town, server, alice, hook)
            # A hub that is away for a while, and a machine that loses power meanwhile
            town.stop_hub()
            assert hook.wait("error")[0]["name"] == "HubUnreachable"
            before = len(hook.events())
            server.end(signal.SIGKILL)
            server = start()
            server.result("queuepayment", [a, b, 100])
            server.result("queuepayment", [a, b, 5000])
            town.start_hub()
            hook.wait("payment_sent", 2)
            assert hook.events()[before:][0]["number"] > hook.events()[:before][-1]["number"]
            # A hub that cheats
            bob.run("sync")
            copy = town.copy_books()
            bob.run("queuepayment", b, a, "5002")
            bob.run("sync")
            hook.wait("payment_received", PAYMENTS + 1)
            guaranteed = alice.shown(a)["balance"]
            sending = alice.connection(a).duplex.sending
            town.cheat(copy)
            wait_until(lambda: town.spender(sending), "the hub's revoked commit")
            assert hook.wait("punished")[0]["handle"] == a
            mine_until(town, hook, 2)
            assert server.end(signal.SIGHUP) == (0, "")
        finally:
            server.end(signal.SIGKILL)
        assert [event["number"] for event in hook.events()] == list(range(1, len(hook.events()) + 1))
        assert alice.balances()["XCP"] >= held - DEPOSIT + guaranteed
