"""A connection as the client knows it: one immutable value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from picopayments_cli.channel.stages import AGREED, CLOSED, CLOSING, PROPOSED
from picopayments_cli.channel.values import (
    Handle,
    Hash,
    Pubkey,
    Secret,
)
from picopayments_cli.channel2.duplex import Duplex
from picopayments_cli.channel2.keys import Key, Secrets
from picopayments_cli.channel2.messages import Payment
from picopayments_cli.channel2.terms import Terms

STAGES = (PROPOSED, AGREED, CLOSING, CLOSED)


@dataclass(frozen=True)
class Pending:
    """A sync that was sent, or is about to be, and has no answer yet.

    ``bodies``: its signed versions, newest last. They differ in the payments only: commit, revocations and hash are the
    same, because what left the machine counts.
    """

    bodies: tuple[Mapping[str, Any], ...] = field(repr=False)
    payments: tuple[Payment, ...]


@dataclass(frozen=True)
class Connection:
    """A connection: this party sends on c2h and receives on h2c.

    ``numbers``: of the own revoke hashes that are requested or active. ``proposal``: the signed mph_deposit.
    ``owed``: refused payments that have not come back yet. ``hub_secret``: the spend secret of c2h, that the hub gave
    at the close; ``revealed``: whether the own one has left; ``told``: whether the hub has answered the close.
    ``final``: closed, and too deep in the chain to be looked at again.
    ``publishing``: name and txid (hex) of the transaction that is about to leave; ``published``: txids of those that
    left. ``longname``: that of a subasset, whose ``asset`` is a number; for showing.
    """

    handle: Handle
    hub_url: str
    hub_key: Pubkey
    asset: str
    terms: Terms
    salt: bytes = field(repr=False)
    duplex: Duplex
    stage: str
    proposal: Mapping[str, Any]
    deposit_raw: bytes
    agreed_height: int = 0
    next_number: int = 0
    numbers: Mapping[Hash, int] = field(default_factory=dict)
    queue: tuple[Payment, ...] = ()
    pending: Pending | None = None
    owed: int = 0
    hub_secret: Secret | None = field(default=None, repr=False)
    revealed: bool = False
    told: bool = False
    commit_raw: bytes | None = None
    final: bool = False
    publishing: tuple[str, str] | None = None
    published: tuple[str, ...] = ()
    longname: str | None = None

    @property
    def own_hashes(self) -> set[Hash]:
        """The own revoke hashes that are requested or active; of no other is a commit taken."""
        receiving = self.duplex.receiving
        return {*receiving.requested, *(commit.revoke_hash for commit in receiving.active)}

    def secrets(self, key: Key) -> Secrets:
        """Derive this party's secrets of the connection."""
        return Secrets(key, self.salt)
