"""The cheats of a hub on a client by time, silence and sums; each trial returns what stopped it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

from cheats import DEPOSIT

from faults.cheat_network import DEEPEST, PAYEE, CheatedClient, CheatNetwork, cheated_client
from faults.cheating_parties import DELAY, EXPIRE, LENGTHS, shaped_like_signature, shown_secret
from faults.forgery import odd_transactions
from picopayments_cli.errors import HubUnreachable

# Deadlines ----------------------------------------------------------------------------------------------------------


def respent_at_expiry(town: CheatNetwork) -> str:
    """The hub respends its deposit by each of its coins as early as they expire; its dust came first of all."""
    with cheated_client(town) as it:
        it.connect()
        it.cheater.pay(it.hub.h2c.script.output)
        town.mine()
        it.hub.fund_deposit()
        town.mine_until(lambda: it.status() == "open", "an open connection")
        it.paid()
        it.silence()
        town.mine_to(it.alice.shown(it.handle)["settle_height"])
        town.result.hold(not it.rob(), "the deposit expires before it must be settled")
        it.end("a deposit respent at expiry", it.rob)
    return "closed by the settle margin"


def reorganised_payout(town: CheatNetwork) -> str:
    """As soon as a payout shows the client's secret, six blocks are taken away, and the hub takes the deposit."""
    with cheated_client(town) as it:
        it.open(delay=2)
        it.paid()
        it.silence()
        it.alice.done("close", it.handle)
        town.mine_until(lambda: it.sync() is None and shown_secret(town, it.hub.h2c) is not None, "a payout", 20)
        secret = shown_secret(town, it.hub.h2c)
        town.reorganise(DEEPEST)
        if secret is not None and town.miner.would_mine(it.cheater.change(it.hub.h2c, secret)):
            town.mine()
        it.end("a payout that a reorganisation undoes", it.rob)
    return "the commit lies deeper than that"


def early_payout(town: CheatNetwork) -> str:
    """The hub pays its commit out at once, and a reorganisation takes both away: the client has seen the secret."""
    with cheated_client(town) as it:
        it.open(delay=2)
        it.pay(5000)
        it.fault()
        it.silence()
        commit = it.hub.accepted[-1]
        town.miner.mine_exactly(raw := it.cheater.finished(it.hub.c2h, commit))
        town.mine()
        town.miner.mine_exactly(it.payout(commit))
        it.sync()
        town.result.hold(town.mempool() == [], "a secret was used whose commit is not buried")
        town.reorganise(3)
        it.sync()
        town.result.hold(town.mempool() == [], "a secret was used whose commit is gone")
        town.miner.mine_exactly(raw)
        it.end("a payout before its time", lambda: it.grabs(commit))
    return "the secret is used once the commit is buried"


# Silence and odd answers --------------------------------------------------------------------------------------------


def silence_after_close(town: CheatNetwork) -> str:
    """The hub has received, is asked to close, and never answers."""
    with cheated_client(town) as it:
        it.open()
        it.paid()
        it.hub.refuses = HubUnreachable("")
        it.alice.done("close", it.handle)
        it.end("silence after close", it.rob)
    return "commit, payout, expiry: alone"


def wrong_spend_secrets(town: CheatNetwork) -> str:
    """The hub answers a close with secrets that are none of the deposit's."""
    with cheated_client(town) as it:
        it.open()
        it.fault()
        wrong = [town.rng.randbytes(size) for size in (32, *LENGTHS)]
        wrong += [it.hub.secrets.revoke(0), shaped_like_signature(town.rng)]
        for number, secret in enumerate(wrong):
            it.hub.shape = partial(_wrong, secret)
            it.alice.done("sync" if number else "close", *(() if number else (it.handle,)))
            town.result.hold(it.alice.connection(it.handle).hub_secret is None, "a wrong secret was taken")
        it.silence()
        it.end("wrong spend secrets", it.rob)
    return "BadSecret"


def _wrong(secret: bytes, method: str, body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "spend_secret": secret.hex()} if method == "mph_close" else body


def commit_of_an_unanswered_sync(town: CheatNetwork) -> str:
    """The hub keeps the commit of a sync that it does not answer, and publishes it while the client asks again."""
    with cheated_client(town) as it:
        it.open()
        it.pay(100)
        it.receive(3000)
        it.hub.shape = lambda _method, _body: {}
        it.alice.run("queuepayment", it.handle, PAYEE, "4000")
        it.sync()
        it.fault()
        town.result.hold(it.alice.connection(it.handle).pending is not None, "the sync was answered")
        commit = it.hub.accepted[-1]
        it.publish(commit)
        it.sync()
        town.mine()
        it.sync()
        given = [body["spend_secret"] for method, body in it.hub.asked if method == "mph_close"]
        town.result.hold(not any(given), "the secret was given while a sync is unanswered")
        it.silence()
        it.end("a commit of an unanswered sync", lambda: (it.grabs(commit), it.rob()))
    return "what left counts"


def odd_things_everywhere(town: CheatNetwork) -> str:
    """Scripts, witnesses and messages that nobody understands come with a revoked commit, in the same blocks."""
    with cheated_client(town) as it:
        it.open()
        before, _ = it.give_back()
        it.fault()
        it.silence()
        stolen = it.hub.commit_named(before)
        commit_script = it.hub.c2h.commit_script(stolen.revoke_hash).output
        watched = [it.alice.wallet_script, it.hub.c2h.script.output, it.hub.h2c.script.output, commit_script]
        raws = odd_transactions(it.cheater.purse, it.hub.key, watched, town.rng)
        town.miner.mine_exactly(*raws, it.cheater.finished(it.hub.c2h, stolen))
        it.end("odd things", lambda: it.grabs(stolen))
    return "punished all the same"


# Wallets, files, amounts --------------------------------------------------------------------------------------------


def two_wallets_on_one_key(town: CheatNetwork) -> str:
    """Two folders of one key connect to hubs that tell each other everything."""
    with cheated_client(town) as one, cheated_client(town) as two:
        for name in ("regtest.wif",):
            shutil.copy(one.alice.basedir / name, two.alice.basedir / name)
        had = town.held(one.alice.wallet_script)
        one.open()
        two.open()
        for it in (one, two, one, two):
            it.pay(100)
            it.pay(5000)
            it.receive(5002)
        handed_out = [*_hashes(one), *_hashes(two)]
        town.result.hold(len(handed_out) == len(set(handed_out)), "a hash was handed out twice")
        guaranteed = one.fault() + two.fault()
        for it in (one, two):
            it.silence()
            it.had = had - DEPOSIT  # less the other's deposit, which comes back to the same wallet
        for it in (one, two):
            it.publish(max(it.hub.accepted, key=lambda item: item.quantity))
        for it in (one, two):
            it.sync()
        one.guaranteed = two.guaranteed = 0
        one.end("two wallets on one key, the first")
        two.end("two wallets on one key, the second")
        has = town.held(one.alice.wallet_script) - had + 2 * DEPOSIT
        town.result.keep(guaranteed, has, "two wallets on one key")
    return "each connection has a salt of its own"


def _hashes(it: CheatedClient) -> list[str]:
    names = ("spend_secret_hash", "next_revoke_secret_hash")
    bodies = {str(sorted(body.items())): body for _, body in it.hub.asked}.values()
    return [str(body[name]) for body in bodies for name in names if name in body]


def amounts_that_differ(town: CheatNetwork) -> str:
    """A reply that moves less than it lists, one that moves more, and payments of more than the deposit."""
    with cheated_client(town) as it:
        it.open()
        it.pay(5000)
        code, name = it.alice.fails("queuepayment", it.handle, PAYEE, str(DEPOSIT))
        town.result.hold((code, name) == (1, "NotTransferable"), f"more than the deposit is queued: {name}")
        before = it.fault()
        it.hub.to_pay.append(3000)
        it.hub.shape = _listing(4000)
        less = it.sync()
        town.result.hold(less == "AmountsDiffer", f"a reply that moves less is taken: {less}")
        it.hub.shape = _listing(2000)
        town.result.hold(it.sync() is None, "a reply that moves more is refused")
        town.result.hold(it.fault() == before + 3000 - 1, "what moved is not what counts")
        it.silence()
        it.alice.done("close", it.handle)
        it.end("amounts that differ", it.rob)
    return "NotTransferable, AmountsDiffer"


def _listing(amount: int) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Replies that list a payment of that amount, whatever they move."""

    def shape(method: str, body: dict[str, Any]) -> dict[str, Any]:
        if method != "mph_sync":
            return body
        return {**body, "receive": [{**item, "amount": amount} for item in body["receive"]]}

    return shape


# Before it opens, and after it closes -------------------------------------------------------------------------------


def used_address(town: CheatNetwork) -> str:
    """The hub's deposit address has a coin before the hub agrees: one that is older than the client would think."""
    with cheated_client(town) as it:

        def dusted(method: str, body: dict[str, Any]) -> dict[str, Any]:
            if method == "mph_deposit":
                it.cheater.pay(it.hub.h2c.script.output)
            return body

        it.hub.shape = dusted
        _, name = it.alice.fails("connect", "XCP", str(DEPOSIT), "--expire_time", str(EXPIRE))
        town.result.hold(name == "AddressUsed", f"a deposit on a used address: {name}")
        town.mine()
        town.result.keep(it.had, town.held(it.alice.wallet_script), "a used address")
    return name


def deposit_taken_back(town: CheatNetwork) -> str:
    """The hub's deposit is in a block, which a reorganisation takes away; its coins go elsewhere."""
    with cheated_client(town) as it:
        it.connect()
        town.mine(DEEPEST)
        raw = it.hub.deposited(it.cheater.purse.coins)
        town.miner.mine_exactly(raw)
        town.mine(DEEPEST - 1)
        town.result.hold(it.status() == "opening", f"{it.status()} by a deposit that six blocks hold")
        town.reorganise(DEEPEST)
        town.miner.mine_exactly(it.cheater.spending_again(raw))
        it.fault()
        it.alice.done("close", it.handle)
        it.silence()
        it.end("a deposit that is taken back")
    return "the client waits for the deposit to be buried"


def payout_in_disguise(town: CheatNetwork) -> str:
    """A payout whose scriptSig shows the secret in another place, and by another push."""
    with cheated_client(town) as it:
        it.open()
        it.pay(5000)
        it.fault()
        it.silence()
        commit = it.hub.accepted[-1]
        it.publish(commit)
        town.mine(DELAY)
        raw = it.cheater.disguised(it.payout(commit), it.hub.secrets.spend)
        town.result.hold(town.miner.would_mine(raw), "no miner takes the disguised payout: the trial is none")
        it.sync()
        town.mine()
        town.result.hold(not town.coins(it.hub.c2h.script.output), "the secret was not found")
        it.end("a payout in disguise")
    return "found among all pushes"


def commit_never_paid_out(town: CheatNetwork) -> str:
    """The hub publishes its commit and never pays it out, so that its secret stays unknown."""
    with cheated_client(town) as it:
        it.open()
        it.pay(5000)
        it.fault()
        it.silence()
        it.publish(it.hub.accepted[-1])
        it.end("a commit that is never paid out", it.rob)
    return "the spare frees the rest at expiry"


TRIALS = (
    respent_at_expiry,
    reorganised_payout,
    early_payout,
    silence_after_close,
    wrong_spend_secrets,
    commit_of_an_unanswered_sync,
    odd_things_everywhere,
    two_wallets_on_one_key,
    amounts_that_differ,
    used_address,
    deposit_taken_back,
    payout_in_disguise,
    commit_never_paid_out,
)
