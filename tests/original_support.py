"""A connection of the original client, made on the regtest chain, and the files that it left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cheats import Town
from network_support import Network
from regtest_support import REGTEST, script_of_key

from picopayments_cli.chain import Query
from picopayments_cli.chain.hub import HubChain
from picopayments_cli.channel.counterparty import data_script, pack_send
from picopayments_cli.channel.keys import Key
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.scripts import (
    CommitScript,
    DepositScript,
    half_commit_unlock,
    payout_unlock,
    wallet_unlock,
)
from picopayments_cli.channel.transactions import (
    Anchor,
    Draft,
    Input,
    Output,
    Purse,
    compose_send,
    finish_commit,
)
from picopayments_cli.channel.values import Outpoint, Secret, hash_of

XCP_ID = 1
EXPIRE, DELAY = 40, 2
DEPOSIT = 100_000
RECEIVED = 999
C2H_VALUE, H2C_VALUE = 53_790, 54_000  # satoshis, as the originals fund deposits
HANDLE = "21898d68bec650876b9b0d6de711406f5ba35558e78c9c66e704be02c73f83a9"
PAYEE = "07bfb0aeb687a95dd98c3eb41eb8f97518548c2191c305c7e762605f1cb3acda"
TOKEN = "beef"
NOBODY = "http://127.0.0.1:9/api/"


def secret_of(name: str) -> Secret:
    return Secret(name.encode().ljust(32, b"."))


def hex_hash(name: str) -> str:
    return hash_of(secret_of(name)).hex()


class OriginalHub:
    """The other side of a connection, as the original hub left it: gone, but for what it may still publish."""

    def __init__(self, network: Network | Town, name: str) -> None:
        self.network = network
        self.chain = HubChain(network.hub.rpc, REGTEST)
        self.key = network.client(f"{name}-hub").key
        self.client = network.client(name)
        own, hubs = self.client.key.pubkey, self.key.pubkey
        self.c2h = DepositScript(own, hubs, hash_of(secret_of("hub spend")), EXPIRE)
        self.h2c = DepositScript(hubs, own, hash_of(secret_of("own spend")), EXPIRE)
        self.c2h_anchor = self.deposit(self.client.key, self.c2h, C2H_VALUE, DEPOSIT)
        self.h2c_anchor = self.deposit(self.key, self.h2c, H2C_VALUE, DEPOSIT)
        network.mine()

    def deposit(self, key: Key, script: DepositScript, value: int, quantity: int) -> Anchor:
        """Publish a deposit in the originals' form."""
        wallet = script_of_key(key)
        address = str(address_of_script(REGTEST, wallet))
        coins = self.chain.view(Query(coins=[address])).coins[address]
        purse = Purse(wallet_unlock(key.pubkey, wallet), coins, 5)
        draft = compose_send(purse, Output(value, script.output), pack_send(XCP_ID, quantity))
        raw = draft.signed(key).serialize()
        return Anchor(Outpoint(self.chain.broadcast(raw), 0), value)

    def draft(self, deposit: DepositScript, anchor: Anchor, quantity: int, name: str) -> tuple[Draft, CommitScript]:
        """A commit in the originals' form: a third of the bitcoins each for fee, commit and change."""
        script = CommitScript(deposit.payer, deposit.payee, deposit.spend_hash, hash_of(secret_of(name)), DELAY)
        third = anchor.value // 3
        outputs = (
            Output(third, script.output),
            Output(0, data_script(pack_send(XCP_ID, quantity), anchor.outpoint.txid)),
            Output(anchor.value - 2 * third, deposit.output),
        )
        return Draft((Input(anchor.outpoint, anchor.value, half_commit_unlock(deposit), 0xFFFFFFFF),), outputs), script

    def half_signed(self, deposit: DepositScript, anchor: Anchor, quantity: int, name: str) -> dict[str, str]:
        """A commit as the data file holds it."""
        draft, script = self.draft(deposit, anchor, quantity, name)
        payer = self.key if deposit is self.h2c else self.client.key
        raw = draft.with_signatures([payer.sign(draft.digest()) + b"\x01"]).serialize()
        return {"rawtx": raw.hex(), "script": script.redeem.hex()}

    def publish(self, quantity: int, name: str) -> tuple[bytes, CommitScript]:
        """Publish a commit of c2h, as the hub may with any it was given; txid and script."""
        draft, script = self.draft(self.c2h, self.c2h_anchor, quantity, name)
        signature = self.client.key.sign(draft.digest()) + b"\x01"
        txid = self.chain.broadcast(finish_commit(draft, self.c2h, signature, self.key).serialize())
        self.network.mine()
        return txid, script

    def pay_out(self, txid: bytes, script: CommitScript) -> None:
        """The hub's payout of a published commit, which shows its spend secret."""
        value = C2H_VALUE // 3
        unlock = payout_unlock(script, secret_of("hub spend"))
        coin = Input(Outpoint(txid, 0), value, unlock, DELAY)
        data = Output(0, data_script(pack_send(XCP_ID, 2**63 - 1), txid))
        draft = Draft((coin,), (Output(value - 12_500, script_of_key(self.key)), data), 2)
        self.chain.broadcast(draft.signed(self.key).serialize())
        self.network.mine()

    def kept(self, **changed: Any) -> dict[str, Any]:
        """The connection as the data file holds it: 401 sent, 1 more sent and revoked before, 999 received."""
        revoked = self.draft(self.c2h, self.c2h_anchor, 1, "revoked")[1]
        secrets = {hex_hash(name): secret_of(name).hex() for name in ("own spend", "received", "fresh")}
        return {
            "asset": "XCP",
            "handle": HANDLE,
            "channel_terms": {
                "deposit_max": 0, "deposit_min": 0, "deposit_ratio": 1.0,
                "expire_max": 0, "expire_min": 0, "sync_fee": 1,
            },
            "client_pubkey": self.client.key.pubkey.hex(),
            "hub_pubkey": self.key.pubkey.hex(),
            "secrets": secrets,
            "c2h_state": {
                "asset": "XCP",
                "deposit_script": self.c2h.redeem.hex(),
                "commits_requested": [],
                "commits_active": [self.half_signed(self.c2h, self.c2h_anchor, 401, "sent")],
                "commits_revoked": [{"script": revoked.redeem.hex(), "revoke_secret": secret_of("revoked").hex()}],
            },
            "c2h_spend_secret_hash": hex_hash("hub spend"),
            "c2h_commit_delay_time": DELAY,
            "c2h_next_revoke_secret_hash": hex_hash("next"),
            "c2h_deposit_expire_time": EXPIRE,
            "c2h_deposit_quantity": DEPOSIT,
            "h2c_state": {
                "asset": "XCP",
                "deposit_script": self.h2c.redeem.hex(),
                "commits_requested": [hex_hash("fresh")],
                "commits_active": [
                    self.half_signed(self.h2c, self.h2c_anchor, RECEIVED, "received"),
                    self.half_signed(self.h2c, self.h2c_anchor, 5, "received before"),
                ],
                "commits_revoked": [],
            },
            "payments_sent": [{"handle": PAYEE, "amount": 400, "token": "c0ffee", "timestamp": 1490000000.5}],
            "payments_received": [{"handle": PAYEE, "amount": 1000, "token": "c0ffee", "timestamp": 1490000000.5}],
            "payments_queued": [{"payee_handle": PAYEE, "amount": 7, "token": TOKEN}],
            **changed,
        }  # fmt: skip

    def leave(self, **changed: Any) -> dict[str, bytes]:
        """Make the client's folder an original one; its files."""
        return write_original(self.client.basedir, "regtest", {HANDLE: self.kept(**changed)})


def write_original(basedir: Path, network: str, connections: Any) -> dict[str, bytes]:
    """The original's files beside a wallet, open to others as it made them; what they hold."""
    settings = {"hub_url": NOBODY, "hub_username": None, "hub_password": None, "hub_verify_ssl_cert": False}
    rows = [
        "timestamp,handle,action,id,fee,quantity,destination",
        f"1490000000.25,{HANDLE},publish_c2h_deposit_tx,{'ab' * 32},12500BTC,{DEPOSIT}XCP,",
        f"1490000001.5,{HANDLE},queue_micropayment,{TOKEN},0XCP,7XCP,{PAYEE}",
        f"1490000002.5,{HANDLE},hub_sy",
    ]
    (basedir / f"{network}.cfg").write_text(json.dumps(settings, indent=2, sort_keys=True))
    (basedir / f"{network}.data").write_text(json.dumps({"connections": connections}, indent=2, sort_keys=True))
    (basedir / f"{network}.history.csv").write_text("\r\n".join(rows))
    found = {}
    for name in ("wif", "cfg", "data", "history.csv"):
        path = basedir / f"{network}.{name}"
        path.chmod(0o644)
        found[path.name] = path.read_bytes()
    return found
