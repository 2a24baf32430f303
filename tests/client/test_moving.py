"""An asset that is on its way from a channel's address gets no coin: each look within a block would spend one."""

from __future__ import annotations

from client_support import Life
from regtest_support import address_of, pack_enhanced_send

from picopayments_cli.channel.coins import Purse
from picopayments_cli.channel.drafts import DUST, Output
from picopayments_cli.channel.signing import finish_wallet
from picopayments_cli.channel.transactions import compose_send


def grant(it: Life, script: bytes, quantity: int) -> None:
    """Send XCP to an address without a coin."""
    it.node.rpc("faucet", address=address_of(it.hub.script), btc=0, asset="XCP", quantity=quantity)
    it.mine()
    purse, target = Purse(it.hub.script, it.coins(it.hub.script), 2), Output(DUST, it.hub.script)
    draft = compose_send(purse, target, pack_enhanced_send(1, quantity, script))
    it.node.bitcoin("sendrawtransaction", finish_wallet(draft, it.hub.key).hex())
    it.mine()


def test_an_asset_whose_coin_is_being_spent_gets_no_other(it: Life) -> None:
    it.open()
    it.hub.silent = True
    it.close()
    contract = it.connection.duplex.sending.contract
    it.until(contract.deposit.height)
    it.sync()
    it.mine()
    grant(it, contract.deposit.output, 7)
    before = it.held()
    for step in ("a coin for it", "its expiry"):
        it.sync()
        assert len(it.mempool()) == 1, step
        it.sync()
        assert len(it.mempool()) == 1, step
        it.mine()
    assert it.held() == before + 7
