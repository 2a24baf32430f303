"""A channel on a chain in memory, with commits, and what its parties may take back of it."""

from __future__ import annotations

from collections.abc import Iterable

from channel2_support import (
    ASSET,
    PAYEE,
    PAYER,
    SPEND_SECRET,
    deposit_script,
    hashed,
    secret,
    wallet_coin,
    wallet_script,
)
from memory_support import MemoryChain
from picopayments_cli.channel2 import recovery
from picopayments_cli.channel2.facts import Facts, see_deposit
from picopayments_cli.channel2.keys import Key
from picopayments_cli.channel2.scripts import wallet_unlock
from picopayments_cli.channel2.state import (
    Channel,
    Commit,
    Revoked,
    commit,
    finished,
    give_back,
    request_commit,
    revoke,
)
from picopayments_cli.channel2.transactions import Draft, Purse, compose_deposit

from picopayments_cli.channel.values import Coin, Height, Quantity

XCP, OTHER = 1, 26**3
EXPIRE, SAFE = 144, 6
DEPOSIT = 1000


def purse(owner: Key, coins: Iterable[Coin] = (), *, rate: int = 1, reserve: int = 0) -> Purse:
    return Purse(wallet_unlock(owner.pubkey, wallet_script(owner)), tuple(coins), rate, reserve)


class Scene:
    """A channel from PAYER to PAYEE on a chain, its deposit confirmed at START + 1, with commits of some quantities."""

    def __init__(self, *quantities: int, delay: int = 2, expire: int = EXPIRE) -> None:
        self.chain = MemoryChain()
        self.chain.grant(wallet_script(PAYER), ASSET, DEPOSIT)
        channel = Channel(ASSET, deposit_script(expire), Quantity(DEPOSIT), delay, 5)
        coin = self.wallet_coin(PAYER, 100_000)
        draft = compose_deposit(purse(PAYER, [coin]), channel.script, ASSET, DEPOSIT, channel.budget)
        self.deposit = self.publish(draft, PAYER)
        self.chain.mine()
        held = self.chain.held(channel.script.output, ASSET)
        self.channel = see_deposit(channel, self.chain.facts(channel), held, 1)
        assert self.channel.anchor is not None
        for quantity in quantities:
            self.channel, _ = commit(request_commit(self.channel, hashed(f"c{quantity}")), quantity, PAYER)
        self.commits: dict[int, Commit] = {item.quantity: item for item in self.channel.active}

    @property
    def tip(self) -> Height:
        return self.chain.tip

    def facts(self, *revoked: Revoked, asked: bool = True) -> Facts:
        return self.chain.facts(self.channel, revoked, asked=asked)

    def publish(self, draft: Draft, owner: Key) -> bytes:
        return self.chain.broadcast(draft.signed(owner).serialize())

    def publish_commit(self, quantity: int) -> bytes:
        return self.chain.broadcast(finished(self.channel, self.commits[quantity], PAYEE))

    def revoke(self, *quantities: int) -> None:
        """The payer learns the secrets of these commits."""
        self.channel = revoke(self.channel, [secret(f"c{quantity}") for quantity in quantities])

    def give_back(self, *quantities: int) -> None:
        """The payee reveals them."""
        self.channel = give_back(self.channel, [self.commits[quantity] for quantity in quantities])

    def commit_address(self, chosen: Commit | Revoked) -> bytes:
        return self.channel.commit_script(chosen.revoke_hash).output

    # Drafts ------------------------------------------------------------------------------------------------------

    def payouts(self, coins: Iterable[Coin] = (), *, safe: int = SAFE) -> list[Draft]:
        return list(recovery.payouts(self.channel, self.facts(), SPEND_SECRET, purse(PAYEE, coins), safe))

    def changes(self, *, given: bool = False, safe: int = SAFE) -> list[Draft]:
        secret_given = SPEND_SECRET if given else None
        return list(recovery.changes(self.channel, self.facts(), secret_given, purse(PAYER), safe))

    def expiries(self, coins: Iterable[Coin] = (), *, given: bool = False, safe: int = SAFE) -> list[Draft]:
        secret_given = SPEND_SECRET if given else None
        return list(recovery.expiries(self.channel, self.facts(), secret_given, purse(PAYER, coins), safe))

    def punish(self, *revoked: Revoked, wallet: Purse | None = None) -> list[Draft]:
        return list(recovery.punish(self.channel, self.facts(*revoked), wallet or purse(PAYER)))

    def home(self, owner: Key, asset: int = ASSET) -> int:
        """Return what the owner's wallet holds, once all that is published is mined."""
        self.chain.mine()
        return self.chain.held(wallet_script(owner), asset)

    def wallet_coin(self, owner: Key, value: int) -> Coin:
        return wallet_coin(self.chain.fund(wallet_script(owner), value), value)
