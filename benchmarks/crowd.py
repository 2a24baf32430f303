"""A hub's database filled with connections that nobody opened: few real parties, and copies of their rows.

The parties can sync in process, since a sync asks the chain nothing. A copy has the rows of a party after some syncs,
with a handle, txids and hashes of its own. What lies on the chain is invented, and no client stands behind a copy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from party import Party
from sqlalchemy import Connection, insert

from picopayments_cli.channel import opening
from picopayments_cli.channel.counterparty import asset_id, p2pkh
from picopayments_cli.channel.deadlines import Expiry
from picopayments_cli.channel.duplex import Duplex, add_request, hand_out
from picopayments_cli.channel.keys import SALT_SIZE, Key, Secrets
from picopayments_cli.channel.opening import Stake, contract_of
from picopayments_cli.channel.stages import OPEN
from picopayments_cli.channel.state import Receiving, Sending
from picopayments_cli.channel.transactions import Contract
from picopayments_cli.channel.values import Coin, Handle, Outpoint, Quantity
from picopayments_cli.hub.account import Account, Agreement, Fixed
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.schema import METADATA, deposits, totals, watched

ASSET = "XCP"
DEPOSIT = 20_000_000
EXPIRE = 2000
DELAY = 2
RAW_SIZE = 300  # bytes of a deposit


def open_parties(hub: Hub, count: int) -> list[Party]:
    """Put connections into the book as if they were open, and give their clients."""
    with hub.book.reading() as book:
        tip = hub.follower.tip(book.db)
    return [_open(hub, tip) for _ in range(count)]


def _open(hub: Hub, tip: int) -> Party:
    key, terms = Key(os.urandom(32)), hub.terms(ASSET)
    if terms is None:
        raise RuntimeError(f"The hub does not offer {ASSET}.")
    secrets, hubs = Secrets(key, os.urandom(SALT_SIZE)), Secrets(hub.key, os.urandom(SALT_SIZE))
    own = opening.Party(secrets.payer.xonly, secrets.payee.xonly, p2pkh(key.pubkey_hash))
    theirs, number, height = hub.party(hubs), asset_id(ASSET), tip + EXPIRE
    stake = Stake(Quantity(DEPOSIT), DELAY, terms.fee_rate)
    agreed = Agreement(Expiry(height, EXPIRE), stake, Stake(Quantity(DEPOSIT), hub.delay, 1))
    c2h, h2c = contract_of(own, theirs, number, height, stake), contract_of(theirs, own, number, height, agreed.h2c)
    anchors = _anchor(c2h), _anchor(h2c)
    client = Duplex(Sending(c2h, anchors[0]), Receiving(h2c, anchors[1]))
    hubs_side = Duplex(Sending(h2c, anchors[1]), Receiving(c2h, anchors[0]))
    client, first = hand_out(client, secrets)
    hubs_side, answer = hand_out(add_request(hubs_side, first, seen=False), hubs)
    client = add_request(client, answer, seen=False)
    handle = Handle(os.urandom(32))
    fixed = Fixed(key.pubkey, ASSET, number, terms, (own, theirs), secrets.salt, hubs.salt, agreed)
    with hub.book.transaction("opened") as work:
        due = agreed.expiry.settle_height
        work.add(Account(handle, fixed, OPEN, due, hubs_side, deposit_raw=os.urandom(RAW_SIZE)))
        work.take_hash(handle, first)
        for contract, anchor in ((c2h, anchors[0]), (h2c, anchors[1])):
            txid = anchor.outpoint.txid
            row = {"txid": txid, "handle": handle, "script": contract.deposit.output, "height": max(tip - 100, 0)}
            work.db.execute(insert(deposits), {**row, "raw": os.urandom(RAW_SIZE)})
            work.db.execute(insert(watched), {"txid": txid, "vout": 0, "handle": handle, "anchor": True})
    return Party(hub.key.pubkey, key.secret, secrets.salt, handle, terms.sync_fee, client)


def _anchor(contract: Contract) -> Coin:
    return Coin(Outpoint(os.urandom(32), 0), contract.budget.anchor, contract.deposit.output, None)


def copy(db: Connection, parties: Sequence[Party], count: int) -> None:
    """Copy the parties' rows until there are so many connections more: in SQLite itself, which takes its time too."""
    run = db.exec_driver_sql
    run("CREATE TEMP TABLE template (place INTEGER PRIMARY KEY, handle BLOB)")
    for place, party in enumerate(parties):
        run("INSERT INTO template VALUES (?, ?)", (place, bytes(party.handle)))
    run("CREATE TEMP TABLE number (n INTEGER PRIMARY KEY)")
    run(f"INSERT INTO number {_COUNT}", (count,))
    for table in METADATA.sorted_tables:
        column = {"payments": "payee"}.get(table.name, "handle")
        if column in table.c and table.name != "sent":
            names = [item.name for item in table.c if item.name != "number" or table.name != "payments"]
            run(
                f"INSERT INTO {table.name} ({', '.join(names)}) "
                f"SELECT {', '.join(_COPIED.get(name, f't.{name}') for name in names)} FROM number "
                f"JOIN template ON template.place = n % {len(parties)} JOIN {table.name} t "
                f"ON t.{column} = template.handle"
            )
    db.execute(totals.update().where(totals.c.stage == OPEN).values(number=totals.c.number + count))


_COUNT = "WITH RECURSIVE up(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM up LIMIT ?) SELECT n FROM up"
_HANDLE = "CAST(printf('%032d', n) AS BLOB)"
_COPIED = {  # ascending, which is sooner written
    "handle": _HANDLE,
    "payer": _HANDLE,
    "payee": _HANDLE,
    "client": "CAST(printf('%033d', n) AS BLOB)",
    "txid": "CAST(printf('%028d', n) AS BLOB) || substr(t.txid, 1, 4)",
    "spender": "CAST(printf('%028d', n) AS BLOB) || substr(t.spender, 1, 4)",
    "fixed": """substr(t.fixed, 1, length(t.fixed) - 1) || ', "copy": ' || n || '}'""",
}
