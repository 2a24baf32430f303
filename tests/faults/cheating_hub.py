"""The cheats of a hub on an honest client; each trial returns what stopped it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from faults.cheat_network import PAYEE, CheatedClient, CheatNetwork, cheated_client
from faults.cheating_parties import COMMIT_ERRORS, DELAY, DUSTS, FLOOD, LENGTHS, shaped_like_signature, shown_secret
from faults.forgery import bad_commits, with_high_s
from picopayments_cli.channel2.deadlines import WATCHED_REVOKED

HIGH_S = "a high S"

# Revoked commits ----------------------------------------------------------------------------------------------------


def revoked_at_once(town: CheatNetwork) -> str:
    """A revoked commit goes to the network."""
    with cheated_client(town) as it:
        it.open()
        before, after = it.give_back()
        town.result.hold(after < 5000 < before, "nothing was given back")
        it.fault()
        it.silence()
        stolen = it.hub.commit_named(before)
        it.publish(stolen)
        it.end("a revoked commit at once", lambda: it.grabs(stolen))
    return "punished in the mempool"


def revoked_at_last_block(town: CheatNetwork) -> str:
    """A revoked commit goes to a miner, and the client looks at the last block at which it can be punished."""
    with cheated_client(town) as it:
        it.open()
        before, _ = it.give_back()
        it.fault()
        it.silence()
        stolen = it.hub.commit_named(before)
        town.miner.mine_exactly(it.cheater.finished(it.hub.c2h, stolen))
        payout = it.payout(stolen)
        for _ in range(DELAY - 2):
            town.result.hold(not town.miner.would_mine(payout), "paid out before the delay is over")
            town.mine()
        it.sync()
        town.mine()
        town.result.hold(not town.miner.would_mine(payout), "paid out what was punished")
        it.end("a revoked commit at the last block", lambda: it.grabs(stolen))
    return f"punished {DELAY - 1} blocks deep"


def old_books(town: CheatNetwork) -> str:
    """The hub goes on from an older state, then publishes what it has revoked since."""
    with cheated_client(town) as it:
        it.open()
        it.pay(100)
        it.pay(5000)
        older = it.hub.duplex, dict(it.hub._drawn), it.hub._due
        it.receive(5002)
        it.fault()
        it.hub.duplex, it.hub._drawn, it.hub._due = older
        name = it.sync()
        it.fault()
        stolen = it.hub.c2h.active[-1]
        it.publish(stolen)
        it.end("a hub with old books", lambda: it.grabs(stolen))
    return f"{name}, punished"


# Dust ---------------------------------------------------------------------------------------------------------------


def dust_before_signing(town: CheatNetwork) -> str:
    """Dust grows old on the address of a commit that the client has not signed yet."""
    return _dust_before_signing(town, hidden=False)


def dust_behind_a_payout(town: CheatNetwork) -> str:
    """So it does, and no list of coins shows it: a payout of it waits in the mempool."""
    return _dust_before_signing(town, hidden=True)


def _dust_before_signing(town: CheatNetwork, *, hidden: bool) -> str:
    with cheated_client(town) as it:
        it.open()
        it.pay(100)
        channel = it.alice.connection(it.handle).duplex.sending
        it.cheater.pay(channel.commit_script(channel.requested[-1]).output)
        town.mine(DELAY)
        if hidden:
            town.broadcast(it.cheater.payout(channel, channel.requested[-1], it.hub.secrets.spend))
        it.fault()
        it.alice.run("queuepayment", it.handle, PAYEE, "5000")
        it.sync()
        after = it.alice.connection(it.handle)
        town.result.hold(after.duplex.sending.moved == channel.moved, "signed for a dirty address")
        town.result.hold(after.stage == "closing", "the connection goes on")
        it.end("dust before signing")
    return "DirtyCommitAddress: not signed, closed"


def dust_before_revoking(town: CheatNetwork) -> str:
    """Dust grows old on the address of a commit to the hub, which then revokes it."""
    with cheated_client(town) as it:
        it.open()
        it.pay(100)
        it.pay(5000)
        stolen = it.hub.accepted[-1]
        dust = it.cheater.pay(it.hub.c2h.commit_script(stolen.revoke_hash).output)
        town.mine(DELAY)
        moved = it.alice.connection(it.handle).duplex.sending.moved
        it.hub.to_pay.append(5002)
        name = it.sync()
        town.result.hold(it.alice.connection(it.handle).duplex.sending.moved >= moved, "credited for a dirty address")
        it.fault()
        it.publish(stolen)
        spend = it.hub.secrets.spend
        taken = it.cheater.tries(lambda: it.cheater.payout(it.hub.c2h, stolen.revoke_hash, spend, [dust]))
        town.result.hold(taken, "the aged dust does not get round the delay: the trial is none")
        it.end("dust before revoking")
    return f"{name}: not credited"


def dust_after_revoking(town: CheatNetwork) -> str:
    """Dust comes to a revoked commit's address, and the client looks at the last block before it is old enough."""
    with cheated_client(town) as it:
        it.open()
        before, _ = it.give_back()
        it.fault()
        stolen = it.hub.commit_named(before)
        dust = it.cheater.pay(it.hub.c2h.commit_script(stolen.revoke_hash).output)
        town.mine(DELAY - 1)
        it.sync()
        it.fault()
        town.mine()
        it.publish(stolen)
        spend = it.hub.secrets.spend
        taken = it.cheater.tries(lambda: it.cheater.payout(it.hub.c2h, stolen.revoke_hash, spend, [dust]))
        town.result.hold(not taken, "the dust was not taken away")
        it.end("dust after revoking", lambda: it.grabs(stolen))
    return "swept, punished"


def dust_while_nothing_is_at_risk(town: CheatNetwork) -> str:
    """Dust grows old on a revoked commit's address while an active one moves more; then that is given back."""
    with cheated_client(town) as it:
        it.open()
        before, _ = it.give_back()
        stolen = it.hub.commit_named(before)
        it.pay(6000)
        dust = it.cheater.pay(it.hub.c2h.commit_script(stolen.revoke_hash).output)
        town.mine(DELAY - 1)
        it.alice.run("sync")
        town.mine(DELAY)
        it.hub.to_pay.append(6010)
        name = it.sync()
        it.fault()
        payout = partial(it.cheater.payout, it.hub.c2h, stolen.revoke_hash, it.hub.secrets.spend, [dust])
        it.publish(stolen)
        it.cheater.tries(payout)
        it.end("dust while nothing is at risk", lambda: it.grabs(stolen))
    return f"{name}"


def more_than_can_be_watched(town: CheatNetwork) -> str:
    """The hub gives back more commits at once than the client can watch, and pays dust to the least of them."""
    with cheated_client(town) as it:
        it.open()
        it.pay(100)
        it.pay(3000)
        stolen = it.hub.accepted[-1]
        for _ in range(WATCHED_REVOKED):
            it.alice.run("sync")
        it.hub.to_pay.append(it.hub.c2h.moved - 50)  # all above the first 101
        name = it.sync()
        it.fault()
        dust = it.cheater.pay(it.hub.c2h.commit_script(stolen.revoke_hash).output)
        town.mine(DELAY - 1)
        it.sync()
        it.fault()
        town.mine()
        payout = partial(it.cheater.payout, it.hub.c2h, stolen.revoke_hash, it.hub.secrets.spend, [dust])
        it.publish(stolen)
        it.cheater.tries(payout)
        it.end("more than can be watched", lambda: it.grabs(stolen))
    return f"{name}"


def dust_on_what_is_given_back(town: CheatNetwork) -> str:
    """The hub pays dust to the address of a commit that the client is about to give back, so as not to credit it."""
    with cheated_client(town) as it:
        it.open()
        it.paid()
        received = it.hub.h2c.active[-1]
        it.cheater.pay(it.hub.h2c.commit_script(received.revoke_hash).output)
        town.mine()
        it.pay(3000)
        channel = it.alice.connection(it.handle).duplex.receiving
        town.result.hold(received in channel.active, "given back although its address is dirty")
        it.fault()
        it.silence()
        it.end("dust on what is given back", it.rob)
    return "paid by a commit instead"


def dust_lures_payout(town: CheatNetwork) -> str:
    """Dust on the address of the client's active commit: a payout of it would show the spend secret."""
    with cheated_client(town) as it:
        it.open()
        it.paid()
        it.cheater.pay(it.hub.h2c.commit_script(it.hub.h2c.active[-1].revoke_hash).output, 6000)
        for _ in range(3):
            town.mine(DELAY)
            it.sync()
            town.result.hold(shown_secret(town, it.hub.h2c) is None, "the dust was paid out")
        it.fault()
        it.silence()
        it.alice.done("close", it.handle)
        it.end("dust on an active commit", it.rob)
    return "no payout but of a buried commit"


def dust_without_end(town: CheatNetwork) -> str:
    """More dust on both deposits, and on a revoked commit's address, than a page of a node's history holds."""
    with cheated_client(town) as it:
        it.open()
        before, _ = it.give_back()
        stolen = it.hub.commit_named(before)
        it.fault()
        scripts = [it.hub.c2h.script.output, it.hub.h2c.script.output]
        for number in range(DUSTS):
            for script in scripts:
                it.cheater.pay(script)
            if number % 2:
                town.mine()
        it.sync()
        it.fault()
        it.silence()
        it.publish(stolen)
        it.end("dust without end", lambda: (it.grabs(stolen), it.rob()))
    return "punished all the same"


def dust_against_the_punishment(town: CheatNetwork) -> str:
    """So much dust with a revoked commit that no transaction can spend all of it, and the wallet can't pay for it."""
    with cheated_client(town) as it:
        it.open()
        before, _ = it.give_back()
        it.fault()
        it.silence()
        stolen = it.hub.commit_named(before)
        it.cheater.flood(it.hub.c2h.commit_script(stolen.revoke_hash).output, FLOOD)
        it.publish(stolen)
        it.end("dust against the punishment", lambda: it.grabs(stolen))
    return "punished first"


# Secrets and commits ------------------------------------------------------------------------------------------------


def secret_like_a_signature(town: CheatNetwork) -> str:
    """A commit is revoked by a secret that Counterparty takes for a signature, and published."""
    with cheated_client(town) as it:
        it.hub.draw = lambda _number: shaped_like_signature(town.rng)
        it.open()
        it.pay(100)
        it.pay(5000)
        it.hub.to_pay.append(5002)
        name = it.sync()
        town.result.hold(name == "SecretLikeSignature", f"the secret is not refused by its name, but {name}")
        it.fault()
        stolen = it.hub.accepted[-2]
        it.publish(stolen)
        it.end("a secret like a signature", lambda: it.grabs(stolen))
    return str(name)


def secrets_of_other_lengths(town: CheatNetwork) -> str:
    """Commits are revoked by preimages of other lengths than a secret's; those over 520 bytes can't be pushed."""
    with cheated_client(town) as it:
        it.hub.draw = lambda number: town.rng.randbytes(LENGTHS[number % len(LENGTHS)])
        it.open()
        for amount in (100, 200, 300, 5000):
            it.pay(amount)
        it.hub.to_pay.append(5700)
        names = set()
        for size in LENGTHS:
            it.hub.shape = _revealing(size)
            names.add(it.sync())
        town.result.hold(names == {"BadSecret"}, f"secrets of other lengths: {names}")
        it.fault()
        stolen = it.hub.accepted[-2]
        it.publish(stolen)
        it.end("secrets of other lengths", lambda: it.grabs(stolen))
    return "BadSecret"


def _revealing(size: int) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Replies with none but the secrets of that many bytes."""

    def shape(method: str, body: dict[str, Any]) -> dict[str, Any]:
        if method != "mph_sync":
            return body
        return {**body, "revokes": [secret for secret in body["revokes"] if len(secret) == 2 * size]}

    return shape


def malformed_commits(town: CheatNetwork) -> str:
    """Commits that the hub has signed, but that no miner, or no ledger, would take for the agreed one."""
    with cheated_client(town) as it:
        it.open()
        it.pay(100)
        before = it.fault()
        it.hub.to_pay.append(3000)
        found: dict[str, bytes] = {}
        names = {"": _tried(it, "no message", found)}
        names |= {name: _tried(it, name, found) for name in found}
        for name, refusal in names.items():
            town.result.hold(refusal in COMMIT_ERRORS, f"a commit with {name}: {refusal}")
        town.result.hold(it.fault() <= before, "a bad commit was credited")
        town.result.hold(_tried(it, HIGH_S, found) is None, "a high S is not normalised")
        it.fault()
        it.silence()
        it.alice.done("close", it.handle)
        it.end("malformed commits", it.rob)
    return f"{len(names)} commits: {', '.join(sorted(set(map(str, names.values()))))}"


def _tried(it: CheatedClient, name: str, found: dict[str, bytes]) -> str | None:
    """Have the client sync, and get a commit of that name; ``found``: all of them, once there is one."""

    def shape(method: str, body: dict[str, Any]) -> dict[str, Any]:
        if method != "mph_sync":
            return body
        raw = bytes.fromhex(body["commit"]["rawtx"])
        if not found:
            found.update(bad_commits(it.hub.h2c, raw, it.hub.key, it.cheater.purse.coins[0].outpoint))
        chosen = with_high_s(raw, it.hub.h2c, it.hub.key) if name == HIGH_S else found[name]
        return {**body, "commit": {**body["commit"], "rawtx": chosen.hex()}}

    it.hub.shape = shape
    return it.sync()


TRIALS = (
    revoked_at_once,
    revoked_at_last_block,
    old_books,
    dust_before_signing,
    dust_behind_a_payout,
    dust_before_revoking,
    dust_after_revoking,
    dust_while_nothing_is_at_risk,
    more_than_can_be_watched,
    dust_on_what_is_given_back,
    dust_lures_payout,
    dust_without_end,
    dust_against_the_punishment,
    secret_like_a_signature,
    secrets_of_other_lengths,
    malformed_commits,
)
