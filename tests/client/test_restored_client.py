"""A client whose folder came back from a backup: the hub shows what is newer, and all is paid as it stood."""

from __future__ import annotations

import shutil

from network_support import ASSETS, FEE, Network


class RestoredClient:
    """Alice and Bob have a connection each; Bob's folder is copied, and comes back later."""

    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.alice, self.bob = network.client(f"alice-{name}"), network.client(f"bob-{name}")
        self.a, self.b = network.open_connection(self.alice), network.open_connection(self.bob)
        self.syncs = {"alice": 0, "bob": 0}
        self.paid = 0  # from Alice to Bob
        self.copy = self.bob.basedir.with_name(f"copy-{name}")

    def pays(self, amount: int) -> None:
        """Alice pays Bob, and Bob receives it."""
        self.alice.run("queuepayment", self.a, self.b, str(amount))
        self.alice.run("sync")
        self.bob.run("sync")
        self._count(amount)

    def pays_back(self, amount: int) -> None:
        """Bob pays Alice, as far as may be by giving commits back, and Alice receives it."""
        self.bob.run("queuepayment", self.b, self.a, str(amount))
        self.bob.run("sync")
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
        self.network.settle(self.alice, self.a)
        self.network.settle(self.bob, self.b)
        fees = {name: number * FEE for name, number in self.syncs.items()}
        held = self.alice.balances()["XCP"], self.bob.balances()["XCP"]
        assert held == (ASSETS - self.paid - fees["alice"], ASSETS + self.paid - fees["bob"])


def test_a_commit_that_was_given_back_is_not_published(network: Network) -> None:
    story = RestoredClient(network, "given")
    story.pays(100)
    story.pays(5000)
    story.back_up()
    story.pays_back(5002)
    story.restore()
    assert story.bob.fails("sync")[1] in ("StaleRequest", "BadReply", "RemainderMissing")
    assert story.bob.shown(story.b)["status"] == "open"  # nothing leaves by itself
    story.ends()


def test_what_was_received_after_the_backup_comes_home(network: Network) -> None:
    story = RestoredClient(network, "received")
    story.back_up()
    story.pays(100)
    story.pays(5000)
    story.restore()
    story.ends()


def test_both_are_restored_at_once(network: Network) -> None:
    story = RestoredClient(network, "both")
    story.pays(100)
    story.pays(5000)
    story.back_up()
    story.pays_back(5090)
    story.pays(300)
    story.restore()
    story.ends()


def test_a_lost_folder_is_taken_back_with_the_wallets_key(network: Network) -> None:
    story = RestoredClient(network, "lost")
    story.pays(5000)
    key = story.bob.basedir / "regtest.wallet"
    text = key.read_text()
    shutil.rmtree(story.bob.basedir)
    story.bob.basedir.mkdir(mode=0o700)
    key.write_text(text)
    key.chmod(0o600)
    assert list(story.bob.run("sync")) == [story.b]
    assert story.bob.shown(story.b)["status"] == "open"
    story.bob.run("close", story.b)
    network.settle(story.bob, story.b)
    assert story.bob.balances()["XCP"] == ASSETS + 5000 - 2 * FEE  # for the sync that brought it back
