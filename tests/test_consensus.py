"""The transactions that bring a deposit back are run through the consensus engine before it leaves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from exchange_support import Side, two_parties

from picopayments_cli.channel import scripts, signing, taproot, transactions
from picopayments_cli.channel.duplex import Duplex
from picopayments_cli.consensus import check_ways_back
from picopayments_cli.errors import ChannelUnspendable, ConnectionNotOpen

EXPIRE = transactions.expire_shape
# A fault of this program, and which of the party's transactions consensus would refuse first.
FAULTS: dict[str, tuple[ModuleType, str, Any, str]] = {
    "the expiry's script leaves a number behind": (scripts, "_CLTV_DROP", b"\xb1", "expiry"),
    "the revoke's script hashes another way": (scripts, "_HASH160", b"\xa8\x14", "revoke"),
    "both's script checks the first signature only": (scripts, "_CHECKSIGVERIFY", b"\xac", "commit"),
    "the control block has another parity": (taproot, "LEAF_VERSION", 0xC1, "expiry"),
    "a leaf is of a version that anybody may spend": (taproot, "LEAF_VERSION", 0xC2, "expiry"),
    "both's script checks no payer": (scripts, "_CHECKSIG", b"\x75\x75\x51", "expiry"),
    "the witness has the signatures in the wrong order": (
        signing,
        "both_witness",
        lambda leaf, payer, payee: (payee, payer, leaf.script, leaf.control),
        "commit",
    ),
    "the expiry's lock time is a block early": (
        transactions,
        "expire_shape",
        lambda contract, coins, asset: replace(EXPIRE(contract, coins, asset), locktime=contract.deposit.height - 1),
        "expiry",
    ),
}


def made_anew(side: Side) -> Duplex:
    """A party's channels, without what their scripts remember."""
    sending, receiving = side.now.sending, side.now.receiving
    made = [replace(item.contract, deposit=replace(item.contract.deposit)) for item in (sending, receiving)]
    assert sending.anchor is not None
    anchor = replace(sending.anchor, script=made[0].deposit.output)
    return Duplex(replace(sending, contract=made[0], anchor=anchor), replace(receiving, contract=made[1], anchor=None))


@pytest.mark.parametrize("number", [0, 1])
def test_a_party_can_take_its_own_before_it_has_deposited(number: int) -> None:
    side = two_parties()[number]
    check_ways_back(made_anew(side), side.secrets)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_script_that_could_not_be_spent_is_refused(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides run this program, so that nobody else would notice before the money is gone."""
    module, name, wrong, refused = FAULTS[fault]
    scripts.commit_script.cache_clear()
    client, _ = two_parties()
    monkeypatch.setattr(module, name, wrong)
    if name == "expire_shape":
        monkeypatch.setattr("picopayments_cli.consensus.expire_shape", wrong)
    with pytest.raises(ChannelUnspendable) as error:
        check_ways_back(made_anew(client), client.secrets)
    scripts.commit_script.cache_clear()
    assert error.value.data["transaction"] == refused
    assert "Nothing was deposited" in error.value.message


def test_another_key_than_the_scripts_takes_nothing_back() -> None:
    client, hub = two_parties()
    with pytest.raises(ChannelUnspendable):
        check_ways_back(made_anew(client), hub.secrets)


def test_without_an_anchor_there_is_nothing_to_take_back() -> None:
    client, _ = two_parties()
    with pytest.raises(ConnectionNotOpen):
        check_ways_back(replace(client.now, sending=replace(client.now.sending, anchor=None)), client.secrets)


def test_a_start_up_that_opens_nothing_does_not_load_the_engine() -> None:
    code = (
        "import sys\n"
        "import picopayments_cli.api, picopayments_cli.client.opening, picopayments_cli.hub.opening\n"
        "sys.exit('pbk' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
