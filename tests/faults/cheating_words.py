"""Cheats by messages: halves of syncs and closes that are signed, but not for the one thing that they must be for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from channel_support import close_transaction

from faults.cheat_network import Change, Duel, refusal
from faults.cheating_parties import CheatedClient, CheatedHub
from picopayments_cli.channel.drafts import Draft, Output
from picopayments_cli.channel.duplex import Half
from picopayments_cli.channel.halves import Closing, Commit, sign_close, sign_commit, sign_remainder
from picopayments_cli.channel.messages import CloseReply, CloseRequest
from picopayments_cli.channel.signing import ALL, ALL_ANYONECANPAY, sign_leaf
from picopayments_cli.channel.standing import standing
from picopayments_cli.channel.state import known_anchor
from picopayments_cli.channel.transactions import compose_commit, compose_payout, compose_remainder
from picopayments_cli.channel.values import MAX_QUANTITY, Hash, Quantity, Secret, hash_of
from picopayments_cli.channel.wire import Figures
from picopayments_cli.errors import HubUnreachable

# Changes of a half --------------------------------------------------------------------------------------------------


def _commit(**changes: object) -> Change:
    """Another member of the commit, its signatures as they are."""
    return lambda it, half: replace(half, commit=replace(_made(half), **changes))  # type: ignore[arg-type]


def _made(half: Half) -> Commit:
    assert half.commit is not None
    return half.commit


def _resigned(quantity: Callable[[Duel, Commit], int], revoke_hash: Callable[[Duel, Commit], bytes]) -> Change:
    """Another commit, both of its signatures valid."""

    def change(it: Duel, half: Half) -> Half:
        side, made = it.duplex.sending, _made(half)
        wide = replace(side.contract, quantity=Quantity(MAX_QUANTITY))
        named = Quantity(quantity(it, made)), Hash(revoke_hash(it, made))
        if named[0] > 0:
            return replace(half, commit=sign_commit(wide, known_anchor(side), *named, it.secrets.payer))
        return replace(half, commit=replace(made, quantity=named[0], revoke_hash=named[1]))

    return change


def _quantity(quantity: Callable[[Duel], int]) -> Change:
    return _resigned(lambda it, _: quantity(it), lambda _, made: made.revoke_hash)


def _payout(change: Callable[[Draft], Draft], hash_type: int = ALL_ANYONECANPAY, key: str = "payer") -> Change:
    """A payout that the cheat signs, but another one."""

    def changed(it: Duel, half: Half) -> Half:
        side, made = it.duplex.sending, _made(half)
        commit = compose_commit(side.contract, known_anchor(side), made.quantity, made.revoke_hash)
        payout = change(compose_payout(side.contract, commit, made.revoke_hash))
        signature = sign_leaf(payout, getattr(it.secrets, key), hash_type)
        return replace(half, commit=replace(made, payout_signature=signature))

    return changed


def _remainder(change: Callable[[Draft], Draft], hash_type: int = ALL_ANYONECANPAY, key: str = "payee") -> Change:
    """A remainder that the cheat signs, but another one."""

    def changed(it: Duel, half: Half) -> Half:
        side, owed = it.duplex.receiving, half.remainder
        assert owed is not None
        commit = compose_commit(side.contract, known_anchor(side), owed.quantity, owed.revoke_hash)
        signature = sign_leaf(change(compose_remainder(side.contract, commit)), getattr(it.secrets, key), hash_type)
        return replace(half, remainder=replace(owed, signature=signature))

    return changed


def _older_remainder(it: Duel, half: Half) -> Half:
    """The remainder of another commit than the newest."""
    side, older = it.duplex.receiving, it.received[0]
    return replace(half, remainder=sign_remainder(side.contract, known_anchor(side), older, it.secrets.payee))


def _last_byte(value: int) -> Change:
    """Another hash type behind the payout's signature."""
    return lambda it, half: _commit(payout_signature=_made(half).payout_signature[:-1] + bytes((value,)))(it, half)


def _delayed(blocks: int) -> Callable[[Draft], Draft]:
    return lambda draft: replace(draft, inputs=(replace(draft.inputs[0], sequence=draft.inputs[0].sequence + blocks),))


def _paying(value: int = 0, script: bytes | None = None) -> Callable[[Draft], Draft]:
    def changed(draft: Draft) -> Draft:
        first = draft.outputs[0]
        return replace(draft, outputs=(Output(first.value - value, script or first.script), *draft.outputs[1:]))

    return changed


def _moving(draft: Draft) -> Draft:
    """All but the last byte of the message."""
    data = draft.outputs[1].script
    return replace(draft, outputs=(draft.outputs[0], Output(0, data[:-1] + bytes((data[-1] ^ 1,)))))


def _as_is(draft: Draft) -> Draft:
    return draft


def _revokes(change: Callable[[Duel, tuple[Secret, ...]], tuple[bytes, ...]]) -> Change:
    return lambda it, half: replace(half, revokes=tuple(map(Secret, change(it, half.revokes))))


SOMEBODY = b"\x00\x14" + bytes(20)
STRANGE = bytes(64)

COMMITS: dict[str, Change] = {
    "a commit signed by nobody": _commit(signature=STRANGE),
    "a payout signed by nobody": _commit(payout_signature=STRANGE + b"\x81"),
    "a signature with a hash type": lambda it, half: _commit(signature=_made(half).signature + b"\x01")(it, half),
    "the payout's signature as the commit's": lambda it, half: replace(
        half, commit=replace(_made(half), signature=_made(half).payout_signature[:64])
    ),
    "another quantity under the signatures": lambda it, half: _commit(quantity=_made(half).quantity + 1)(it, half),
    "another hash under the signatures": _commit(revoke_hash=Hash(bytes(20))),
    "a payout of one block more": _payout(_delayed(1)),
    "a payout of one block less": _payout(_delayed(-1)),
    "a payout to somebody": _payout(_paying(script=SOMEBODY)),
    "a payout of fewer satoshis": _payout(_paying(1)),
    "a payout of another quantity": _payout(_moving),
    "a payout that counts for all inputs": _payout(_as_is, ALL),
    "a payout without a hash type": _payout(_as_is, 0),
    "a payout by another key": _payout(_as_is, key="payee"),
    **{f"a payout of hash type {value:x}": _last_byte(value) for value in (0x01, 0x02, 0x03, 0x82, 0x83)},
    "a payout of version 2": _payout(lambda draft: replace(draft, version=2)),
    "a payout with a lock time": _payout(lambda draft: replace(draft, locktime=1)),
    "nothing": _quantity(lambda it: 0),
    "less than nothing": _quantity(lambda it: -1),
    "as much as before": _quantity(lambda it: it.honests.receiving.moved),
    "one more than the deposit": _quantity(lambda it: it.stake + 1),
    "the greatest quantity": _quantity(lambda it: MAX_QUANTITY),
    "a hash that nobody gave": _resigned(lambda _, made: made.quantity, lambda *_: hash_of(Secret(bytes(32)))),
    "a hash of its own": _resigned(lambda _, made: made.quantity, lambda it, _: it.secrets.revoke_hash(0)),
    "a hash that had its commit": _resigned(lambda _, made: made.quantity, lambda it, _: it.used_hash),
}
REMAINDERS: dict[str, Change] = {
    "no remainder": lambda it, half: replace(half, remainder=None),
    "a remainder signed by nobody": lambda it, half: replace(
        half, remainder=half.remainder and replace(half.remainder, signature=STRANGE + b"\x81")
    ),
    "an older remainder": _older_remainder,
    "a remainder of one block more": _remainder(_delayed(1)),
    "a remainder to somebody": _remainder(_paying(script=SOMEBODY)),
    "a remainder of another quantity": _remainder(_moving),
    "a remainder that counts for all inputs": _remainder(_as_is, ALL),
    "a remainder by another key": _remainder(_as_is, key="payer"),
}
REVOKES: dict[str, Change] = {
    "a wrong secret": _revokes(lambda it, revokes: (bytes(32), *revokes[1:])),
    "a short secret": _revokes(lambda it, revokes: (revokes[0][:31], *revokes[1:])),
    "a long secret": _revokes(lambda it, revokes: (revokes[0] + b"\0", *revokes[1:])),
    "a secret twice": _revokes(lambda it, revokes: (*revokes, revokes[0])),
    "a lower commit's secret": _revokes(lambda it, revokes: (it.secrets.revoke(10**6), *revokes)),
}


def wrong_halves(it: Duel) -> str:
    """Halves of a sync with commits, remainders and secrets that are signed for something else, or out of bounds."""
    it.open()
    for _ in range(3):
        it.give(it.part(0.05, 0.15))
    it.take(it.part(0.16, 0.2))
    it.used_hash = it.duplex.sending.active[-1].revoke_hash
    it.give(it.part(0.05, 0.1))
    before = it.fault()
    names = it.say({**COMMITS, **REMAINDERS, **REVOKES})
    for what, name in names.items():
        it.result.hold(name, f"a half with {what} was taken")
    it.result.trials += len(names)
    it.result.refused += sum(name is not None for name in names.values())
    it.result.hold(it.fault() > before, "the right half moved nothing: the trial is none")
    it.settle("wrong halves", it.rob)
    return f"{len(names)} refused: {', '.join(sorted({str(name) for name in names.values()}))}"


# Closes -------------------------------------------------------------------------------------------------------------


def _request(it: CheatedHub, figures: Figures, closing: Closing | None, **changes: object) -> CloseReply:
    """The hub's answer to a close at any figures, with any signatures."""
    said = standing(it.duplex, it.secrets)
    request = CloseRequest(it.client.handle, it.client.anchors, figures, said, closing)
    return CloseReply.parse(it.client.call("mph_close", replace(request, **changes).as_json()))  # type: ignore[arg-type]


def _closing(it: Duel, quantity: int) -> Closing:
    """The cheat's signatures as payee."""
    side = it.duplex.receiving
    return sign_close(side.contract, known_anchor(side), quantity, it.secrets.payee)


def _moved(it: Duel) -> tuple[int, int]:
    """The quantities that are the honest party's to receive and to pay."""
    return it.duplex.sending.moved, it.duplex.receiving.moved


def close_for_more(it: CheatedHub) -> str:
    """The client asks for closes that pay it more, and the hub less; then for one whose rest it has not signed."""
    it.dealt()
    it.give(it.part(0.02, 0.05))
    it.fault()
    due, owed = _moved(it)
    for figures in (Figures(due - 1, owed + 1), Figures(0, it.stake), Figures(due - 1, owed + 100)):
        reply = _request(it, figures, _closing(it, figures.h2c))
        it.result.hold(reply.h2c_signature is None, f"the hub pays {figures.h2c} where {owed} are due")
        it.result.hold(reply.c2h_close is None, f"the hub takes {figures.c2h} where {due} are due")
    for rest in (None, STRANGE + b"\x81"):
        reply = _request(it, Figures(0, owed), replace(_closing(it, owed), rest_signature=rest))
        it.result.hold(reply.h2c_signature is None, "the hub pays before its rest is signed")
    it.settle("closes for more", it.rob)
    return "its own figures are all that the hub signs"


def half_of_the_closes(it: CheatedHub) -> str:
    """Both closes are agreed on; the client publishes its own, keeps the hub's signature and a revoked commit."""
    stolen = it.dealt()
    it.give(it.part(0.02, 0.05))
    it.fault()
    _, _, outcome = it.client.ask_close()
    it.result.hold(outcome.h2c is not None, "the hub agrees on no close: the trial is none")
    if outcome.h2c is not None and it.rng.random() < 0.7:
        it.tries(close_transaction(it.duplex.receiving, outcome.h2c))

    def also() -> None:
        it.tries(it.commit(stolen))
        it.rob()

    it.settle("a close half published", also)
    return "the hub settles its own channel alone"


def sync_behind_the_close(it: CheatedHub) -> str:
    """The client asks for a close, forgets the answer, goes on syncing, closes anew; then publishes what is revoked."""
    stolen = it.dealt()
    it.give(it.part(0.02, 0.05))
    it.fault()
    kept = it.client.duplex
    it.client.ask_close()
    it.client.duplex = kept
    names = [refusal(lambda: it.give(7)), refusal(lambda: it.take(7))]
    it.result.hold(names == ["ConnectionNotOpen"] * 2, f"a sync behind the close: {names}")
    it.client.duplex = kept
    it.client.ask_close()
    it.tries(it.commit(stolen), it.child(it.drafted(stolen), 30))
    it.settle("a sync behind the close", lambda: it.rob(stolen))
    return "ConnectionNotOpen, punished"


def remainder_withheld(it: CheatedHub) -> str:
    """The client never gives the newest commit's remainder: it closes without it, and publishes that commit."""
    it.open()
    it.give(it.part(0.1, 0.4))
    it.fault()
    due, owed = _moved(it)
    _request(it, Figures(due, owed), None, standing=replace(standing(it.duplex, it.secrets), remainder=None))
    it.tries(it.commit(it.received[-1]))
    it.settle("a remainder that is withheld", it.rob)
    return "the rest is back at the expiry"


def close_of_an_older_state(it: CheatedHub) -> str:
    """The client names a lower commit than it signed, as if it came from a backup, and claims to have given back."""
    it.open()
    it.give(it.part(0.1, 0.2))
    older = it.client.duplex
    it.give(it.part(0.1, 0.2))
    it.fault()
    said, due = standing(older, it.secrets), it.duplex.sending.moved
    lies = replace(said, revokes=tuple(it.secrets.revoke(number) for number in range(3, 6)))
    for item in (said, lies, replace(said, commit=None)):
        reply = _request(it, Figures(older.sending.moved, older.receiving.moved), None, standing=item)
        it.result.hold(reply.c2h_close is None or reply.figures.c2h >= due, "the hub takes less than it holds")
    it.settle("a close of an older state", it.rob)
    return "doubted: no close is signed"


def close_for_less(it: CheatedClient) -> str:
    """The hub answers with figures of its own, signed; with rests that are not; with the client's quantity lowered."""
    it.dealt()
    it.fault()
    owed, due = it.honests.sending.moved, it.honests.receiving.moved
    lies: list[Callable[[CloseReply], CloseReply]] = [
        lambda reply: replace(reply, figures=Figures(owed + 50, 0), c2h_close=_closing(it, owed + 50)),
        lambda reply: replace(reply, figures=Figures(it.stake, due), c2h_close=_closing(it, it.stake)),
        lambda reply: replace(
            reply, figures=Figures(owed, due), c2h_close=replace(_closing(it, owed), rest_signature=STRANGE + b"\x81")
        ),
        lambda reply: replace(reply, c2h_close=reply.c2h_close and replace(reply.c2h_close, signature=STRANGE)),
        lambda reply: replace(reply, h2c_signature=STRANGE, figures=Figures(owed, max(due - 9, 0))),
    ]
    for lie in it.rng.sample(lies, 3):
        it.hub.change_close = lie
        refusal(it.life.close)
        refusal(it.life.sync)
    for asked in it.hub.asked:
        it.result.hold(asked.h2c_close is None or asked.h2c_close.quantity >= due, "the client takes less than its own")
        it.result.hold(asked.c2h_signature is None or asked.figures.c2h <= owed, "the client pays more than it owes")
    it.settle("closes for less", it.rob)
    return "the client keeps to its limits"


def close_unanswered(it: CheatedClient) -> str:
    """The hub takes the client's signature of a close, does not answer, and publishes a revoked commit in its place."""
    stolen = it.dealt()
    it.fault()

    def keep_silent(reply: CloseReply) -> CloseReply:
        if it.hub.asked[-1].h2c_close is not None:
            raise HubUnreachable("The hub does not answer.")
        return reply

    it.hub.change_close = keep_silent
    it.life.close()
    it.result.hold(any(asked.h2c_close for asked in it.hub.asked), "nothing is signed: the trial is none")
    refusal(it.life.sync)
    it.tries(it.commit(stolen), it.child(it.drafted(stolen), 40))
    it.settle("a close without an answer", lambda: it.rob(stolen))
    return "settled alone, punished"


def close_replaced(it: CheatedClient) -> str:
    """Both closes are agreed on, and in the mempool; the hub takes their place with a revoked commit."""
    stolen = it.dealt()
    it.fault()
    it.life.close()
    it.tries(it.commit(stolen), it.child(it.drafted(stolen), it.rng.choice((3, 40))))
    it.settle("a close half published", lambda: it.rob(stolen))
    return "closed, or punished"


def remainder_never_given(it: CheatedClient) -> str:
    """The hub never gives the newest commit's remainder: not in its last reply, nor in the answer to the close."""
    it.open()
    it.give(it.part(0.1, 0.4))
    it.fault()
    it.hub.change = lambda reply: replace(reply, half=replace(reply.half, remainder=None))
    name = refusal(lambda: it.give(9))
    it.result.hold(name == "RemainderMissing", f"a reply without the remainder: {name}")
    it.fault()
    it.hub.change_close = lambda reply: replace(reply, standing=replace(reply.standing, remainder=None), c2h_close=None)
    it.life.close()
    it.tries(it.commit(it.received[-1]))
    it.settle("a remainder that is withheld", it.rob)
    return "RemainderMissing; the rest is back at the expiry"


BOTH = (wrong_halves,)
BY_CLIENT = (
    close_for_more,
    half_of_the_closes,
    sync_behind_the_close,
    remainder_withheld,
    close_of_an_older_state,
)
BY_HUB = (
    close_for_less,
    close_unanswered,
    close_replaced,
    remainder_never_given,
)
