"""The cheats of a client on the honest hub; each trial returns what stopped it."""

from __future__ import annotations

from network_support import wait_until

from faults.cheat_network import CheatedHub, CheatNetwork
from faults.cheating_parties import (
    COMMIT_ERRORS,
    DUSTS,
    FLOOD,
    LENGTHS,
    commit_script,
    refusal,
    shaped_like_signature,
    shown_secret,
)
from faults.forgery import bad_commits, with_high_s
from picopayments_cli.channel.values import hash_of

# Revoked commits ----------------------------------------------------------------------------------------------------


def revoked_at_once(town: CheatNetwork) -> str:
    """A revoked commit goes to the network."""
    it = CheatedHub(town)
    it.open()
    stolen = it.give_back()
    it.fault()
    it.mallory.publish(stolen)
    it.end("a revoked commit at once", lambda: it.mallory.grabs(stolen))
    return "punished in the mempool"


def revoked_at_last_block(town: CheatNetwork) -> str:
    """A revoked commit goes to a miner, and the hub wakes at the last block at which it can be punished."""
    it = CheatedHub(town)
    it.open()
    stolen = it.give_back()
    it.fault()
    town.stop_hub()
    channel = it.mallory.duplex.receiving
    town.miner.mine_exactly(it.mallory.finished(channel, stolen))
    payout = it.mallory.paying_out(stolen)
    for _ in range(channel.delay - 2):
        town.result.hold(not town.miner.would_mine(payout), "paid out before the delay is over")
        town.mine()
    it.wake()
    wait_until(lambda: not town.coins(commit_script(channel, stolen)), "a punishment")
    town.mine()
    town.result.hold(not town.miner.would_mine(payout), "paid out what was punished")
    it.end("a revoked commit at the last block", lambda: it.mallory.grabs(stolen))
    return f"punished {channel.delay - 1} blocks deep"


def old_books(town: CheatNetwork) -> str:
    """The client goes on from an older state, then publishes what it has revoked since."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    mallory.sync(5001, mallory.payment(5000, mallory.handle))
    older, stolen = mallory.duplex, mallory.received[-1]
    mallory.sync(5000, mallory.payment(4999, None))
    it.fault()
    name = refusal(lambda: mallory.say(mallory.request(5000, mallory.payment(4999, None), duplex=older)))
    town.result.hold(name == "BadSecret", f"the same is given back twice: {name}")
    town.result.hold(it.guaranteed == it.fault(), "a sync that was refused moved something")
    mallory.publish(stolen)
    it.end("a client with old books", lambda: mallory.grabs(stolen))
    return f"{name}, punished"


# Dust ---------------------------------------------------------------------------------------------------------------


def dust_before_signing(town: CheatNetwork) -> str:
    """Dust grows old on the address of a commit whose hash the hub has not been told yet."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    ahead = hash_of(mallory.secrets.revoke(mallory.drawn_hashes))
    mallory.pay(mallory.duplex.receiving.commit_script(ahead).output)
    town.mine(mallory.duplex.receiving.delay)
    before = it.fault()
    mallory.sync(1)
    name = refusal(lambda: mallory.sync(5001, mallory.payment(5000, mallory.handle)))
    town.result.hold(all(item.revoke_hash != ahead for item in mallory.received), "signed for a dirty address")
    town.mine()
    town.result.hold(it.stages() == {"closing"}, "the hub goes on with a dirty address")
    it.guaranteed = before + (1 if name else 2)
    it.end("dust before signing", mallory.rob)
    return "the hub closes"


def dust_behind_a_payout(town: CheatNetwork) -> str:
    """Dust is old on the next commit's address, but no list of coins shows it: a payout of it waits in the mempool."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    channel, spend = mallory.duplex.receiving, mallory.secrets.spend
    ahead = hash_of(mallory.secrets.revoke(mallory.drawn_hashes))
    dust = mallory.pay(channel.commit_script(ahead).output)
    town.mine(channel.delay)
    hiding = mallory.payout(channel, ahead, spend)
    town.broadcast(hiding)
    mallory.sync(5001, mallory.payment(5000, mallory.handle))  # by the first hash, so that only this one is left
    it.guaranteed = it.fault() + 1
    name = refusal(lambda: mallory.sync(5001, mallory.payment(5000, mallory.handle)))
    stolen = next((item for item in mallory.received if item.revoke_hash == ahead), None)
    town.result.hold(stolen is None, "signed for a dirty address")
    town.broadcast(mallory.replacing(hiding))
    if stolen is not None and refusal(lambda: mallory.sync(5000, mallory.payment(4999, None))) is None:
        it.fault()
        payout = mallory.payout(channel, ahead, spend, [dust])
        town.miner.mine_exactly(mallory.finished(channel, stolen), payout)
    wait_until(lambda: it.stages() == {"closing"}, "a hub that closes")
    it.end("dust behind a payout", mallory.rob)
    return f"the hub closes: {name}"


def dust_after_the_check(town: CheatNetwork) -> str:
    """Dust comes to the next commit's address when the hub has looked at it, and before it signs."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    mallory.sync(1)
    town.mine()
    channel = mallory.duplex.receiving
    dusts = [mallory.pay(channel.commit_script(item).output) for item in channel.requested]
    town.mine(channel.delay)
    mallory.sync(5001, mallory.payment(5000, mallory.handle))
    stolen = mallory.received[-1]
    before = it.fault()
    name = refusal(lambda: mallory.sync(5000, mallory.payment(4999, None)))
    town.result.hold(name == "DirtyCommitAddress", f"credited for a dirty address: {name}")
    town.result.hold(it.fault() == before, "a revocation that was refused moved something")
    mallory.publish(stolen)
    taken = mallory.tries(lambda: mallory.payout(channel, stolen.revoke_hash, mallory.secrets.spend, dusts))
    town.result.hold(taken, "the aged dust does not get round the delay: the trial is none")
    it.end("dust after the check", mallory.rob)
    return "signed, and never taken back"


def dust_before_revoking(town: CheatNetwork) -> str:
    """Dust grows old on the address of a commit to the client, which then revokes it."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    mallory.sync(5001, mallory.payment(5000, mallory.handle))
    stolen = mallory.received[-1]
    dust = mallory.pay(commit_script(mallory.duplex.receiving, stolen))
    town.mine(mallory.duplex.receiving.delay)
    before = it.fault()
    name = refusal(lambda: mallory.sync(5000, mallory.payment(4999, None)))
    town.result.hold(name == "DirtyCommitAddress", f"credited for a dirty address: {name}")
    town.result.hold(it.fault() == before, "a revocation that was refused moved something")
    mallory.publish(stolen)
    channel, spend = mallory.duplex.receiving, mallory.secrets.spend
    taken = mallory.tries(lambda: mallory.payout(channel, stolen.revoke_hash, spend, [dust]))
    town.result.hold(taken, "the aged dust does not get round the delay: the trial is none")
    it.end("dust before revoking")
    return "DirtyCommitAddress"


def dust_after_revoking(town: CheatNetwork) -> str:
    """Dust comes to a revoked commit's address, and the hub wakes at the last block before it is old enough."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    stolen = it.give_back()
    it.fault()
    channel, spend = mallory.duplex.receiving, mallory.secrets.spend
    town.stop_hub()
    dust = mallory.pay(commit_script(channel, stolen))
    town.mine(channel.delay - 1)
    it.wake()
    wait_until(lambda: not town.coins(commit_script(channel, stolen)), "the dust taken away")
    town.mine()
    mallory.publish(stolen)
    taken = mallory.tries(lambda: mallory.payout(channel, stolen.revoke_hash, spend, [dust]))
    town.result.hold(not taken, "the dust was not taken away")
    it.end("dust after revoking", lambda: mallory.grabs(stolen))
    return "swept, punished"


def dust_while_nothing_is_at_risk(town: CheatNetwork) -> str:
    """Dust grows old on a revoked commit's address while an active one moves more; then that is given back."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    stolen = it.give_back()
    mallory.sync(6001, mallory.payment(6000, mallory.handle))
    it.fault()
    channel, spend = mallory.duplex.receiving, mallory.secrets.spend
    dust = mallory.pay(commit_script(channel, stolen))
    town.mine(channel.delay)
    name = refusal(lambda: mallory.sync(6000, mallory.payment(5999, None)))
    it.fault()
    mallory.publish(stolen)
    mallory.tries(lambda: mallory.payout(channel, stolen.revoke_hash, spend, [dust]))
    it.end("dust while nothing is at risk", lambda: mallory.grabs(stolen))
    return f"{name}"


def dust_on_what_is_given_back(town: CheatNetwork) -> str:
    """The client pays dust to the address of a commit that the hub is about to give back, so as not to credit it."""
    it = CheatedHub(town, clients=2)
    it.open()
    mallory, other = it.clients
    mallory.sync(101, mallory.payment(100, None))
    mallory.sync(5001, mallory.payment(5000, None))
    mallory.pay(commit_script(mallory.duplex.sending, mallory.duplex.sending.active[-1]))
    town.mine()
    before = it.fault()
    other.sync(6001, other.payment(6000, mallory.handle))
    mallory.sync(1)
    town.result.hold(mallory.duplex.sending.revoked, "nothing was given back: the trial is none")
    town.result.hold(it.fault() == before + 2, "what was given back is not what the hub owed")
    it.end("dust on what is given back", lambda: (mallory.rob(), other.rob()))
    return "the hub gives back what it owes"


def dust_lures_payout(town: CheatNetwork) -> str:
    """Dust on the address of the hub's active commit: a payout of it would show the spend secret."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    mallory.sync(5001, mallory.payment(5000, None))
    channel = mallory.duplex.sending
    mallory.pay(commit_script(channel, channel.active[-1]), 6000)
    it.fault()
    for _ in range(3):
        town.mine(channel.delay)
        town.result.hold(shown_secret(town, channel) is None, "the dust was paid out")
    it.end("dust on an active commit", mallory.rob)
    return "no payout but of a buried commit"


def dust_without_end(town: CheatNetwork) -> str:
    """More dust on both deposits, and on a revoked commit's address, than a page of a node's history holds."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    stolen = it.give_back()
    it.fault()
    for number in range(DUSTS):
        for script in (mallory.duplex.sending.script.output, mallory.duplex.receiving.script.output):
            mallory.pay(script)
        if number % 2:
            town.mine()
    mallory.publish(stolen)
    it.end("dust without end", lambda: (mallory.grabs(stolen), mallory.rob()))
    return "punished all the same"


def dust_against_the_punishment(town: CheatNetwork) -> str:
    """So much dust with a revoked commit that no transaction can spend all of it."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    stolen = it.give_back()
    it.fault()
    mallory.flood(commit_script(mallory.duplex.receiving, stolen), FLOOD)
    mallory.publish(stolen)
    it.end("dust against the punishment", lambda: mallory.grabs(stolen))
    return "punished first"


# Secrets and commits ------------------------------------------------------------------------------------------------


def secret_like_a_signature(town: CheatNetwork) -> str:
    """A commit is revoked by a secret that Counterparty takes for a signature, and published."""
    it = CheatedHub(town)
    mallory = it.mallory
    mallory.draw = lambda _number: shaped_like_signature(town.rng)
    it.open()
    mallory.sync(5001, mallory.payment(5000, mallory.handle))
    stolen = mallory.received[-1]
    before = it.fault()
    name = refusal(lambda: mallory.sync(5000, mallory.payment(4999, None)))
    town.result.hold(name == "SecretLikeSignature", f"the secret is not refused by its name, but {name}")
    town.result.hold(it.fault() == before, "a revocation that was refused moved something")
    mallory.publish(stolen)
    it.end("a secret like a signature", lambda: mallory.grabs(stolen))
    return str(name)


def secrets_of_other_lengths(town: CheatNetwork) -> str:
    """Commits are revoked by preimages of other lengths than a secret's; those over 520 bytes can't be pushed."""
    it = CheatedHub(town)
    mallory = it.mallory
    mallory.draw = lambda number: town.rng.randbytes(LENGTHS[number % len(LENGTHS)])
    it.open()
    for amount in (4000, 3000, 2000, 1000):  # so that nothing is given back yet
        mallory.sync(amount + 1, mallory.payment(amount, mallory.handle))
    before = it.fault()
    request = mallory.request(mallory.duplex.receiving.moved, mallory.payment(4999, None))
    town.result.hold(len(request["revokes"]) == len(LENGTHS), "not every length is revealed")
    for secret in request["revokes"]:
        name = refusal(lambda secret=secret: mallory.call("mph_sync", {**request, "revokes": [secret]}))  # type: ignore[misc]
        town.result.hold(name == "BadSecret", f"a secret of {len(secret) // 2} bytes: {name}")
    town.result.hold(it.fault() == before, "a revocation that was refused moved something")
    stolen = mallory.received[-1]
    mallory.publish(stolen)
    it.end("secrets of other lengths", lambda: mallory.grabs(stolen))
    return "BadSecret"


def malformed_commits(town: CheatNetwork) -> str:
    """Commits that the client has signed, but that no miner, or no ledger, would take for the agreed one."""
    it = CheatedHub(town)
    it.open()
    mallory = it.mallory
    mallory.sync(101, mallory.payment(100, None))
    before = it.fault()
    request = mallory.request(5001, mallory.payment(5000, None))
    raw, channel = bytes.fromhex(request["commit"]["rawtx"]), mallory.duplex.sending
    names = {}
    for what, bad in bad_commits(channel, raw, mallory.key, mallory.purse.coins[0].outpoint).items():
        commit = {**request["commit"], "rawtx": bad.hex()}
        names[what] = refusal(lambda commit=commit: mallory.call("mph_sync", {**request, "commit": commit}))  # type: ignore[misc]
        town.result.hold(names[what] in COMMIT_ERRORS, f"a commit with {what}: {names[what]}")
    town.result.hold(it.fault() == before, "a bad commit was credited")
    commit = {**request["commit"], "rawtx": with_high_s(raw, channel, mallory.key).hex()}
    mallory.say({**request, "commit": commit})
    town.result.hold(it.fault() == before + 5001, "the commit with a high S was not taken")
    it.end("malformed commits", mallory.rob)
    return f"{len(names)} commits: {', '.join(sorted(set(map(str, names.values()))))}"


TRIALS = (
    revoked_at_once,
    revoked_at_last_block,
    old_books,
    dust_before_signing,
    dust_behind_a_payout,
    dust_after_the_check,
    dust_before_revoking,
    dust_after_revoking,
    dust_while_nothing_is_at_risk,
    dust_on_what_is_given_back,
    dust_lures_payout,
    dust_without_end,
    dust_against_the_punishment,
    secret_like_a_signature,
    secrets_of_other_lengths,
    malformed_commits,
)
