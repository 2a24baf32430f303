"""One one-way channel: requested, active and revoked commits, and what they have moved from payer to payee.

Both parties keep the same state, each from its own side. A commit names the cumulative quantity; the highest active
one counts, and lower ones stay active so that the payee can fall back on them when it gives something back.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from picopayments_cli.channel.values import Hash, Quantity, Secret, check_secret, hash_of
from picopayments_cli.channel2.keys import Key
from picopayments_cli.channel2.scripts import CommitScript, DepositScript
from picopayments_cli.channel2.transactions import (
    HASH_TYPE,
    Anchor,
    Budget,
    Draft,
    commit_quantity,
    compose_commit,
    finish_commit,
    payer_signature,
)
from picopayments_cli.errors import (
    BadCommitQuantity,
    BadCommitScript,
    BadSecret,
    ConnectionNotOpen,
    NotTransferable,
    RepeatedHash,
    UnknownRevokeHash,
)

# Hashes handed out and not used yet that are kept: a payer uses the newest that it has, one answer behind at most.
KEPT_REQUESTS = 8


@dataclass(frozen=True)
class Commit:
    """A commit: the cumulative quantity, the revoke hash, and the payer's signature (DER and hash type)."""

    quantity: Quantity
    revoke_hash: Hash
    signature: bytes


@dataclass(frozen=True)
class Revoked:
    """A commit that the payer can punish, since its payee revealed the revoke secret."""

    quantity: Quantity
    revoke_hash: Hash
    secret: Secret = field(repr=False)

    @staticmethod
    def by(quantity: Quantity, secret: Secret) -> Revoked:
        """Return the revoked commit of that quantity which the secret opens."""
        return Revoked(quantity, hash_of(secret), secret)


@dataclass(frozen=True)
class Offer:
    """A half-signed commit on its way to the payee: raw transaction and script."""

    raw: bytes
    script: bytes


@dataclass(frozen=True)
class Channel:
    """A one-way channel. ``delay`` in blocks; ``fee_rate`` of its commits in sat/vB; ``active`` by quantity, ascending.

    ``requested``: hashes that the payee handed out and no commit has used. ``revoked`` is kept by the payer, who may
    have to punish; the payee derives its secrets and keeps none.
    """

    asset_id: int
    script: DepositScript
    quantity: Quantity
    delay: int
    fee_rate: int
    anchor: Anchor | None = None
    requested: tuple[Hash, ...] = ()
    active: tuple[Commit, ...] = ()
    revoked: tuple[Revoked, ...] = ()

    @property
    def moved(self) -> int:
        """Return what has moved from payer to payee: the highest active commit's quantity."""
        return self.active[-1].quantity if self.active else 0

    @property
    def room(self) -> int:
        """Return what can still be moved by a new commit: nothing without a hash for it."""
        return self.quantity - self.moved if self.requested else 0

    @property
    def budget(self) -> Budget:
        """Return the bitcoins of its transactions."""
        return Budget(self.fee_rate)

    def commit_script(self, revoke_hash: Hash) -> CommitScript:
        """Return the script of a commit on that hash."""
        deposit = self.script
        return CommitScript(deposit.payer, deposit.payee, deposit.spend_hash, revoke_hash, self.delay)

    def draft(self, quantity: int, revoke_hash: Hash) -> Draft:
        """Return the one transaction that a commit of that quantity on that hash can be. Raises ConnectionNotOpen."""
        if self.anchor is None:
            raise ConnectionNotOpen("The deposit has not been seen on the chain yet: wait until it is confirmed.")
        script = self.commit_script(revoke_hash)
        return compose_commit(self.anchor, self.script, script, self.asset_id, quantity, self.budget)


# The payee hands out hashes -----------------------------------------------------------------------------------------


def request_commit(channel: Channel, revoke_hash: Hash) -> Channel:
    """Return the channel with one more hash for a later commit. Raises RepeatedHash.

    A hash that was seen before could be one whose secret is known.
    """
    if is_known(channel, revoke_hash):
        raise RepeatedHash("The hash for the next commit was used before in this connection.", hash=revoke_hash.hex())
    requested = (*channel.requested, revoke_hash)[-KEPT_REQUESTS:]
    return replace(channel, requested=requested)


def is_known(channel: Channel, revoke_hash: Hash) -> bool:
    """Tell whether a hash is the channel's spend hash, waits for a commit, or is that of a commit kept here.

    A payee forgets what it gave back: those hashes are its own, and it derives each once.
    """
    return (
        revoke_hash == channel.script.spend_hash
        or revoke_hash in channel.requested
        or any(item.revoke_hash == revoke_hash for item in channel.active)
        or any(item.revoke_hash == revoke_hash for item in channel.revoked)
    )


def _with_commit(channel: Channel, made: Commit) -> Channel:
    """Return the channel with a new highest commit; hashes handed out before its hash will never be used."""
    left = channel.requested[channel.requested.index(made.revoke_hash) + 1 :]
    return replace(channel, active=channel.active + (made,), requested=left)  # noqa: RUF005 (twice as fast)


# The payer commits --------------------------------------------------------------------------------------------------


def commit(channel: Channel, quantity: int, payer: Key) -> tuple[Channel, Offer]:
    """Return the channel with a new highest commit, signed, and what goes to the payee.

    Raises NotTransferable where the deposit is too small, UnknownRevokeHash where the payee gave no hash.
    """
    if not channel.moved < quantity <= channel.quantity:
        raise NotTransferable(
            f"The deposit of {channel.quantity} can't cover a commit of {quantity}.",
            quantity=quantity,
            moved=channel.moved,
            deposit=channel.quantity,
        )
    if not channel.requested:
        raise UnknownRevokeHash("The payee has given no hash for another commit. Run sync again, or close.")
    revoke_hash = channel.requested[-1]
    draft = channel.draft(quantity, revoke_hash)
    made = Commit(Quantity(quantity), revoke_hash, payer.sign(draft.digest()) + HASH_TYPE)
    return _with_commit(channel, made), _offer(channel, draft, made)


def offer_of(channel: Channel, made: Commit) -> Offer:
    """Compose the offer of a commit again. Raises ConnectionNotOpen."""
    return _offer(channel, channel.draft(made.quantity, made.revoke_hash), made)


def _offer(channel: Channel, draft: Draft, made: Commit) -> Offer:
    raw = draft.with_signatures([made.signature]).serialize()
    return Offer(raw, channel.commit_script(made.revoke_hash).redeem)


def accept_commit(channel: Channel, offered: Offer) -> Channel:
    """Return the payee's channel with a commit received: rebuilt from its values and compared byte for byte.

    Raises BadCommitScript, UnknownRevokeHash, BadCommit, BadCommitQuantity, BadPayerSignature.
    """
    script = CommitScript.parse(offered.script)
    if script != channel.commit_script(script.revoke_hash):
        raise BadCommitScript("The commit's script has other keys, spend hash or delay.", script=offered.script.hex())
    if script.revoke_hash not in channel.requested:
        raise UnknownRevokeHash("The commit is on a hash that is not open for one.", hash=script.revoke_hash.hex())
    quantity = commit_quantity(offered.raw, channel.asset_id)
    if not channel.moved < quantity <= channel.quantity:
        raise BadCommitQuantity(
            f"A commit of {quantity} does not lie between the {channel.moved} moved and the deposit of "
            f"{channel.quantity}.",
            quantity=quantity,
            moved=channel.moved,
            deposit=channel.quantity,
        )
    draft = channel.draft(quantity, script.revoke_hash)
    signature = payer_signature(offered.raw, draft, channel.script)
    return _with_commit(channel, Commit(Quantity(quantity), script.revoke_hash, signature))


def finished(channel: Channel, chosen: Commit, payee: Key) -> bytes:
    """Return the raw transaction of an active commit, signed by both, ready to publish."""
    draft = channel.draft(chosen.quantity, chosen.revoke_hash)
    return bytes(finish_commit(draft, channel.script, chosen.signature, payee).serialize())


# The payee gives back -----------------------------------------------------------------------------------------------


def to_revoke(channel: Channel, amount: int) -> tuple[Commit, ...]:
    """Return the commits, highest first, whose secrets give back as much of ``amount`` as can be without passing it.

    What stays moved is the lowest active quantity that is at least ``moved - amount``; nothing, where all of it is
    given back.
    """
    if amount >= channel.moved:
        return tuple(reversed(channel.active))
    floor = channel.moved - amount
    kept = len(channel.active)
    while kept > 1 and channel.active[kept - 2].quantity >= floor:
        kept -= 1
    return tuple(reversed(channel.active[kept:]))


def give_back(channel: Channel, commits: Sequence[Commit]) -> Channel:
    """Return the payee's channel without commits whose secrets leave the machine: they are never published."""
    kept, _ = _take_out(channel.active, {item.revoke_hash for item in commits})
    return replace(channel, active=kept)


def _take_out(active: tuple[Commit, ...], hashes: Collection[Hash]) -> tuple[tuple[Commit, ...], dict[Hash, Commit]]:
    """Return the commits left without those on some hashes, and these, by hash; looked for from the highest down."""
    found: dict[Hash, Commit] = {}
    above: list[Commit] = []
    place = len(active)
    while place and len(found) < len(hashes):
        place -= 1
        item = active[place]
        if item.revoke_hash in hashes:
            found[item.revoke_hash] = item
        else:
            above.append(item)
    return active[:place] + tuple(reversed(above)), found


def revoke(channel: Channel, secrets: Sequence[bytes]) -> Channel:
    """Return the payer's channel with the commits revoked whose secrets the payee revealed.

    Raises BadSecret, SecretLikeSignature: then nothing is credited.
    """
    if not secrets:
        return channel
    given = [check_secret(data) for data in secrets]
    hashes = [hash_of(secret) for secret in given]
    kept, found = _take_out(channel.active, set(hashes))
    revoked = []
    for secret, revoke_hash in zip(given, hashes, strict=True):
        taken = found.pop(revoke_hash, None)
        if taken is None:
            raise BadSecret("A secret was revealed that revokes no active commit.", hash=revoke_hash.hex())
        revoked.append(Revoked(taken.quantity, revoke_hash, secret))
    return replace(channel, active=kept, revoked=channel.revoked + tuple(revoked))
