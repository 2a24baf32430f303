"""What a cheating client does to the honest hub, by time, odd things and sums; each trial returns what stopped it."""

from __future__ import annotations

from network_support import wait_until

from faults.forgery import odd_transactions
from faults.stage import DEEPEST, Raid, Stage
from faults.thieves import LENGTHS, Thief, commit_script, refusal, shaped_like_signature, shown_secret
from picopayments_cli.channel.recovery import settle_height
from picopayments_cli.channel.values import Secret

# Deadlines and blocks -----------------------------------------------------------------------------------------------


def respent_at_expiry(town: Stage) -> str:
    """The client respends its deposit by each of its coins as early as they expire; its dust came first of all."""
    it = Raid(town)
    mallory = it.mallory
    raw = mallory.agree()
    early = Thief(town, town.rng)
    early.fund()
    early.pay(mallory.duplex.sending.script.output)
    town.mine()
    town.broadcast(raw)
    mallory.wait_open()
    mallory.sync(5001, mallory.payment(5000, None))
    it.fault()
    town.stop_hub()
    town.mine_to(settle_height(mallory.duplex.sending, mallory.agreed))
    it.wake()
    wait_until(town.mempool, "the hub's commit")
    it.end("a deposit respent at expiry", mallory.rob)
    return "closed by the settle margin"


def reorganised_payout(town: Stage) -> str:
    """As soon as a payout shows the hub's secret, six blocks are taken away, and the client takes the deposit."""
    it = Raid(town)
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


def wrong_spend_secrets(town: Stage) -> str:
    """The client closes with secrets that are none of the deposit's."""
    it = Raid(town)
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


def commit_published_while_it_is_given_back(town: Stage) -> str:
    """The client publishes the commit that it gives back in the next moment."""
    it = Raid(town)
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


def odd_things_everywhere(town: Stage) -> str:
    """Scripts, witnesses and messages that nobody understands come with a revoked commit, in the same block."""
    it = Raid(town)
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


def same_secrets_twice(town: Stage) -> str:
    """Two connections of one key, with the same spend secret and the same revoke secrets: the same addresses."""
    it = Raid(town, clients=2)
    one, two = it.clients
    two.key, two.script, two.secrets = one.key, one.script, one.secrets
    two.draw = two.secrets.revoke
    it.open()
    for client in it.clients:
        client.sync(5001, client.payment(5000, client.handle))
    stolen = one.received[-1]
    name = refusal(lambda: one.sync(5000, one.payment(4999, None)))
    it.fault()
    one.publish(stolen)
    two.publish(two.received[-1])
    it.end("the same secrets twice", lambda: (one.grabs(stolen), one.rob(), two.rob()))
    return f"{name or 'taken'}: no loss to the hub"


def amounts_that_differ(town: Stage) -> str:
    """Payments beyond what moves, a surplus, payments to a connection that closes: sums stay what they are."""
    it = Raid(town, clients=2)
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


TRIALS = (
    respent_at_expiry,
    reorganised_payout,
    wrong_spend_secrets,
    commit_published_while_it_is_given_back,
    odd_things_everywhere,
    same_secrets_twice,
    amounts_that_differ,
)
