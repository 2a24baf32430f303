"""A client whose folder came back from a backup: the hub shows what is newer, and all is paid as it stood."""

from __future__ import annotations

import shutil
import signal

from cheats import Town, pay
from network_support import FEE


class RestoredClient:
    """Alice and Bob have a connection each; Bob's folder is copied, and comes back later."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.alice, self.bob = town.client("alice"), town.client("bob")
        self.before = town.books()
        self.a, self.b = town.open(self.alice), town.open(self.bob)
        self.syncs = {"alice": 0, "bob": 0}
        self.paid = 0  # from Alice to Bob
        self.copy = self.bob.basedir.with_name("copy")

    def pays(self, amount: int) -> None:
        """Alice pays Bob, and Bob receives it."""
        pay(self.alice, self.a, self.b, amount)
        self.bob.run("sync")
        self._count(amount)

    def pays_back(self, amount: int) -> None:
        """Bob pays Alice, as far as may be by giving commits back, and Alice receives it."""
        pay(self.bob, self.b, self.a, amount)
        self.alice.run("sync")
        self._count(-amount)

    def _count(self, amount: int) -> None:
        self.paid += amount
        for name in self.syncs:
            self.syncs[name] += 1

    def back_up(self) -> None:
        """Copy Bob's folder."""
        shutil.copytree(self.bob.basedir, self.copy)

    def restore(self) -> None:
        """Put the copy in the place of Bob's folder."""
        shutil.rmtree(self.bob.basedir)
        shutil.copytree(self.copy, self.bob.basedir)

    def ends(self) -> None:
        """Close both, and hold the sums to what was paid. Bob's closing sync is refused, Alice's is not."""
        done = self.bob.done("close", self.b)
        assert "not the newest there was" in done.stderr
        self.alice.run("close", self.a)
        self.syncs["alice"] += 1
        self.town.settle()
        fees = {name: number * FEE for name, number in self.syncs.items()}
        alice, bob = -self.paid - fees["alice"], self.paid - fees["bob"]
        self.town.check(self.before, alice=alice, bob=bob, hub=-alice - bob)


def test_a_commit_that_was_given_back_is_not_published(town: Town) -> None:
    story = RestoredClient(town)
    story.pays(100)
    story.pays(5000)
    story.back_up()
    story.pays_back(5002)
    story.restore()
    assert story.bob.fails("sync")[1] in ("StaleRequest", "BadReply")
    assert story.bob.shown(story.b)["status"] == "open"  # nothing leaves by itself
    story.ends()


def test_what_was_received_after_the_backup_comes_home(town: Town) -> None:
    story = RestoredClient(town)
    story.back_up()
    story.pays(100)
    story.pays(5000)
    story.restore()
    story.ends()  # in which its spend secret goes along with the close, since it knows of nothing received


def test_both_are_restored_at_once(town: Town) -> None:
    story = RestoredClient(town)
    story.pays(100)
    story.pays(5000)
    story.back_up()
    story.pays_back(5090)
    story.pays(300)
    story.restore()
    story.ends()


def test_without_the_hub_the_highest_commit_is_published(town: Town) -> None:
    story = RestoredClient(town)
    story.pays(5000)
    story.back_up()
    town.stop_hub(signal.SIGKILL)
    story.restore()
    code, _ = story.bob.fails("sync")
    assert code == 3
    assert story.bob.run("close", story.b)
    town.mine()
    assert town.published(story.bob.connection(story.b).duplex.receiving) is not None
