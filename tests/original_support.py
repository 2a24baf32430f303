"""The files that the original client, 1.0.4, left in a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from picopayments_cli.channel.networks import NETWORKS, wif_of_secret

DEPOSIT = 100_000
HANDLE = "21898d68bec650876b9b0d6de711406f5ba35558e78c9c66e704be02c73f83a9"
PAYEE = "07bfb0aeb687a95dd98c3eb41eb8f97518548c2191c305c7e762605f1cb3acda"
SENT, QUEUED = "c0ffee", "beef"  # tokens
NOBODY = "http://127.0.0.1:9/api/"
KEPT = {
    "asset": "XCP",
    "handle": HANDLE,
    "c2h_deposit_quantity": DEPOSIT,
    "c2h_state": {"deposit_script": "not to be read"},
    "secrets": None,
    "payments_sent": [{"handle": PAYEE, "amount": 400, "token": SENT, "timestamp": 1490000000.5}],
    "payments_received": [{"handle": PAYEE, "amount": 1000, "token": SENT, "timestamp": 1490000000.5}],
    "payments_queued": [{"payee_handle": PAYEE, "amount": 7, "token": QUEUED}],
}


def write_wallet(basedir: Path) -> None:
    """A wallet on regtest as older versions wrote it, with a new key."""
    basedir.mkdir(mode=0o700)
    path = basedir / "regtest.wif"
    path.touch(0o600)
    path.write_text(wif_of_secret(NETWORKS["regtest"], os.urandom(32)))


def write_original(basedir: Path, network: str, connections: Any = None) -> dict[str, bytes]:
    """The original's files beside a wallet, open to others as it made them; what they hold. One connection."""
    kept = {HANDLE: KEPT} if connections is None else connections
    settings = {"hub_url": NOBODY, "hub_username": None, "hub_password": None, "hub_verify_ssl_cert": False}
    rows = [
        "timestamp,handle,action,id,fee,quantity,destination",
        f"1490000000.25,{HANDLE},publish_c2h_deposit_tx,{'ab' * 32},12500BTC,{DEPOSIT}XCP,",
        f"1490000001.5,{HANDLE},queue_micropayment,{QUEUED},0XCP,7XCP,{PAYEE}",
        f"1490000002.5,{HANDLE},hub_sy",
    ]
    (basedir / f"{network}.cfg").write_text(json.dumps(settings, indent=2, sort_keys=True))
    (basedir / f"{network}.data").write_text(json.dumps({"connections": kept}, indent=2, sort_keys=True))
    (basedir / f"{network}.history.csv").write_text("\r\n".join(rows))
    found = {}
    for name in ("wif", "cfg", "data", "history.csv"):
        path = basedir / f"{network}.{name}"
        if path.exists():
            path.chmod(0o644)
            found[path.name] = path.read_bytes()
    return found
