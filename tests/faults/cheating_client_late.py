"""The cheats of a client on the hub by time, odd things and sums; each trial returns what stopped it."""

from __future__ import annotations

import shutil

from cheats import DEPOSIT
from network_support import wait_until

from faults.cheat_network import DEEPEST, DEPTH, PAYEE, CheatedHub, CheatNetwork
from faults.cheating_parties import (
    DELAY,
    EXPIRE,
    LENGTHS,
    Cheater,
    commit_script,
    refusal,
    shaped_like_signature,
    shown_secret,
)
from faults.forgery import odd_transactions
from picopayments_cli.channel.values import Handle, Secret
from picopayments_cli.channel2.deadlines import settle_height
from picopayments_cli.channel2.scripts import DepositScript

# Deadlines and blocks -----------------------------------------------------------------------------------------------


def respent_at_expiry(town: CheatNetwork) -> str:
    """The client respends its deposit by each of its coins as early as they expire; its dust came first of all."""
    it = CheatedHub(town)
    mallory = it.mallory
    raw = mallory.agree()
    early = Cheater(town, town.rng)
    early.fund()
    early.pay(mallory.duplex.sending.script.output)
    town.mine()
    town.broadcast(raw)
    mallory.wait_open()
    mallory.sync(5001, mallory.payment(5000, None))
    it.fault()
    town.stop_hub()
    town.mine_to(settle_height(mallory.duplex.sending, mallory.agreed))
    town.result.hold(not mallory.rob(), "the deposit expires before it must be settled")
    it.wake()
    wait_until(town.mempool, "the hub's commit")
    it.end("a deposit respent at expiry", mallory.rob)
    return "closed by the settle margin"


def reorganised_payout(town: CheatNetwork) -> str:
    """As soon as a payout shows the hub's secret, six blocks are taken away, and the client takes the deposit."""
    it = CheatedHub(town)
    it.open(delay=2)
    mallory = it.mallory
    mallory.sync(5001, mallory.payment(5000, None))
    it.fault()
    mallory.close()
    channel = mallory.duplex.sending
    town.mine_until(lambda: shown_secret(town, channel) is not None, "a payout", 20)
    secret = shown_secret(town, channel)
    town.reorganise(DEEPEST)
    if secret is not None:
        town.miner.would_mine(mallory.change(channel, secret))
    it.end("a payout that a reorganisation undoes", mallory.rob)
    return "the commit lies deeper than that"


def wrong_spend_secrets(town: CheatNetwork) -> str:
    """The client closes with secrets that are none of the deposit's."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    mallory.sync(5001, mallory.payment(5000, None))
    it.fault()
    wrong = [town.rng.randbytes(size) for size in (32, *LENGTHS)]
    wrong += [mallory.secrets.revoke(0), shaped_like_signature(town.rng)]
    for secret in wrong:
        name = refusal(lambda secret=secret: mallory.close(Secret(secret)))  # type: ignore[misc]
        town.result.hold(name in ("BadSecret", "SecretLikeSignature"), f"a wrong spend secret: {name}")
    town.result.hold(it.stages() == {"open"}, "closed by a wrong secret")
    it.end("wrong spend secrets", mallory.rob)
    return "BadSecret, SecretLikeSignature"


def commit_published_while_it_is_given_back(town: CheatNetwork) -> str:
    """The client publishes the commit that it gives back in the next moment."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    mallory.sync(5001, mallory.payment(5000, mallory.handle))
    stolen = mallory.received[-1]
    it.fault()
    mallory.publish(stolen)
    name = refusal(lambda: mallory.sync(5000, mallory.payment(4999, None)))
    if name is None:
        it.fault()
    it.end("a commit published while it is given back", lambda: mallory.grabs(stolen))
    return f"{name or 'credited, and punished'}"


def odd_things_everywhere(town: CheatNetwork) -> str:
    """Scripts, witnesses and messages that nobody understands come with a revoked commit, in the same block."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    stolen = it.give_back()
    it.fault()
    duplex = mallory.duplex
    deposits = [duplex.sending.script.output, duplex.receiving.script.output]
    watched = [town.hub_script, *deposits, commit_script(duplex.receiving, stolen)]
    raws = odd_transactions(mallory.purse, mallory.key, watched, town.rng)
    town.miner.mine_exactly(*raws, mallory.finished(duplex.receiving, stolen))
    it.end("odd things", lambda: mallory.grabs(stolen))
    return "punished all the same"


# Keys and amounts ---------------------------------------------------------------------------------------------------


def same_secrets_twice(town: CheatNetwork) -> str:
    """Two connections of one key, with the same spend secret and the same revoke secrets: the same addresses."""
    it = CheatedHub(town, clients=2)
    one, two = it.clients
    two.key, two.script, two.secrets = one.key, one.script, one.secrets
    two.draw = two.secrets.revoke
    one.open()
    one.sync(5001, one.payment(5000, one.handle))
    stolen = one.received[-1]
    one.sync(5000, one.payment(4999, None))
    it.guaranteed = one.guaranteed_to_hub() + DEPOSIT  # nothing has moved on the other
    town.broadcast(two.agree())
    town.mine(2 * DEPTH)
    stage = town.stages()[two.handle.hex()]
    town.result.hold(stage != "open", "open by another connection's deposit")
    one.publish(stolen)
    it.end("the same secrets twice", lambda: (one.grabs(stolen), one.rob(), two.rob()))
    return f"the second is {stage}"


def amounts_that_differ(town: CheatNetwork) -> str:
    """Payments beyond what moves, a surplus, payments to a connection that closes: sums stay what they are."""
    it = CheatedHub(town, clients=2)
    it.open()
    mallory, other = it.clients
    before = it.fault()
    request = mallory.request(1000, mallory.payment(1000, None))
    name = refusal(lambda: mallory.call("mph_sync", request))
    town.result.hold(name == "AmountExceedsSpendable", f"more is paid than moves: {name}")
    town.result.hold(it.fault() == before, "what was refused moved something")
    mallory.say({**request, "sends": []})
    town.result.hold(it.fault() == before + 1, "a surplus does not come back")
    other.close()
    late = refusal(lambda: mallory.sync(701, mallory.payment(700, other.handle)))
    town.result.hold(late == "ConnectionNotOpen", f"paid to a connection that closes: {late}")
    it.guaranteed = before + 1
    it.end("amounts that differ", lambda: (mallory.rob(), other.rob()))
    return f"{name}, {late}"


def restored_files(town: CheatNetwork) -> str:
    """A client goes back to an older copy of its folder, in which a commit that it has given back is its own."""
    it = CheatedHub(town)
    it.open()
    alice = town.honest_client(town.hub_url)
    had = town.held(alice.wallet_script)
    handle = alice.run("connect", "XCP", str(DEPOSIT), "--expire_time", str(EXPIRE))["handle"]
    town.mine_until(lambda: alice.shown(handle)["status"] == "open", "an open connection")
    it.mallory.sync(3001, it.mallory.payment(3000, Handle(bytes.fromhex(handle))))
    alice.run("sync")
    kept = alice.basedir.with_name(f"{alice.basedir.name}.kept")
    shutil.copytree(alice.basedir, kept)
    alice.run("queuepayment", handle, PAYEE, "2998")
    alice.run("queuepayment", handle, it.mallory.handle.hex(), "2998")
    alice.run("sync")
    guaranteed = alice.connection(handle).duplex.guaranteed
    it.others.append(handle)
    it.fault()
    shutil.rmtree(alice.basedir)
    kept.rename(alice.basedir)
    for _ in range(3):
        done = alice.done("sync")
        town.result.hold(done.code != 0, "a sync of an older copy is taken")
        town.mine()
        town.result.hold(alice.shown(handle)["status"] == "open", "an older copy closes by itself")
    alice.done("close", handle)
    it.end("restored files", lambda: alice.done("sync"))
    has = town.held(alice.wallet_script) - had + DEPOSIT
    town.result.keep(guaranteed - 1, has, "who restored an older copy")  # less what pays for a sync that is refused
    return f"{done.error['name']}; the hub shows what is newer"


# Before it opens, and after it closes -------------------------------------------------------------------------------


def used_address(town: CheatNetwork) -> str:
    """The deposit's address has a coin before the hub agrees: one that is older than the hub would think."""
    it = CheatedHub(town)

    def dust(script: DepositScript) -> None:
        it.mallory.pay(script.output)
        town.mine()

    name = refusal(lambda: it.mallory.agree(meanwhile=dust))
    town.result.hold(name == "AddressUsed", f"a deposit on a used address: {name}")
    town.result.keep(it.had, it.hub_holds(), "a used address")
    return str(name)


def deposit_taken_back(town: CheatNetwork) -> str:
    """The deposit is in a block, which a reorganisation takes away; its coins go elsewhere."""
    it = CheatedHub(town)
    mallory = it.mallory
    raw = mallory.agree()
    town.miner.mine_exactly(raw)
    town.mine(DEEPEST - 1)
    town.reorganise(DEEPEST)
    town.miner.mine_exactly(mallory.spending_again(raw))
    town.mine(DELAY + DEEPEST)
    town.result.hold(it.hub_holds() == it.had, "the hub deposited for a deposit that is not there")
    town.result.hold(it.stages() == {"agreed"}, f"the connection is {it.stages()}")
    it.guaranteed = DEPOSIT  # that it never made
    it.end("a deposit that is taken back")
    return "the hub waits for the deposit to be buried"


def sync_after_the_secret(town: CheatNetwork) -> str:
    """The hub has given its secret, so that commits to it are worth nothing: then the client pays by one."""
    it = CheatedHub(town, clients=2)
    it.open()
    mallory, other = it.clients
    it.fault()
    given = mallory.close()["spend_secret"]
    town.result.hold(given is not None, "the hub, which received nothing, gives no secret")
    name = refusal(lambda: mallory.sync(5001, mallory.payment(5000, other.handle)))
    town.result.hold(name == "ConnectionNotOpen", f"a commit after the secret: {name}")
    mallory.tries(lambda: mallory.change(mallory.duplex.sending, Secret(bytes.fromhex(given))))
    it.end("a sync after the secret", mallory.rob)
    return str(name)


def payout_in_disguise(town: CheatNetwork) -> str:
    """A payout whose scriptSig shows the secret in another place, and by another push."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    mallory.sync(5001, mallory.payment(5000, mallory.handle))
    it.fault()
    commit = mallory.received[-1]
    mallory.publish(commit)
    town.mine(mallory.duplex.receiving.delay)
    raw = mallory.disguised(mallory.paying_out(commit), mallory.secrets.spend)
    town.result.hold(town.miner.would_mine(raw), "no miner takes the disguised payout: the trial is none")
    town.mine(2)
    early = town.height < mallory.agreed + mallory.duplex.receiving.script.expire
    spare = mallory.coins(mallory.duplex.receiving.script.output)
    town.result.hold(early and not spare, "the secret was not found")
    it.end("a payout in disguise", mallory.rob)
    return "found among all pushes"


def commit_never_paid_out(town: CheatNetwork) -> str:
    """The client publishes its commit and never pays it out, so that its secret stays unknown."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    mallory.sync(5001, mallory.payment(5000, mallory.handle))
    it.fault()
    mallory.publish(mallory.received[-1])
    it.end("a commit that is never paid out")
    left = it.hub_holds() - it.had + DEPOSIT
    town.result.hold(left == it.guaranteed, "more came back than was the hub's")
    return "the spare frees the rest at expiry"


TRIALS = (
    respent_at_expiry,
    reorganised_payout,
    wrong_spend_secrets,
    commit_published_while_it_is_given_back,
    odd_things_everywhere,
    same_secrets_twice,
    amounts_that_differ,
    restored_files,
    used_address,
    deposit_taken_back,
    sync_after_the_secret,
    payout_in_disguise,
    commit_never_paid_out,
)
