"""Show a connection by the hub's index, as the ground floor asks for it; the nodes are asked for the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, select

from picopayments_cli.chain import Query
from picopayments_cli.channel.counterparty import asset_id
from picopayments_cli.channel.facts import Facts, Paid, Paying, Questions, Seen, Sent, Side, View, gather
from picopayments_cli.channel.fees import FeeFrac
from picopayments_cli.channel.networks import address_of_script
from picopayments_cli.channel.stages import AGREED
from picopayments_cli.channel.values import Coin, Handle, Height, Outpoint
from picopayments_cli.hub.account import Account
from picopayments_cli.hub.book import UnitOfWork
from picopayments_cli.hub.hub import Hub
from picopayments_cli.hub.reading import Reading
from picopayments_cli.hub.schema import connections, sent, withdrawals

_SENT = select(sent).where(sent.c.handle == bindparam("of"))
_UNMINED = (
    select(sent.c.coins)
    .join(connections, connections.c.handle == sent.c.handle)
    .where(sent.c.payer.is_(True), connections.c.stage == AGREED, connections.c.h2c_anchor.is_(None))
)
_LEAVING = select(withdrawals.c.coins)
_OWN = select(sent.c.txid).where(sent.c.txid == bindparam("id"))
_DROP_SENT = sent.delete().where(sent.c.txid == bindparam("id"))


def sides_of(hub: Hub, book: Reading, account: Account) -> tuple[Paying, Paid]:
    """All that is held of both channels, with what was sent for them."""
    paying, paid = book.sides(account)
    rows = book.db.execute(_SENT, {"of": account.handle}).all()
    of_payer, of_payee = (tuple(_sent_of(row) for row in rows if row.payer is payer) for payer in (True, False))
    anchor = paid.anchor
    theirs = None if anchor is None else hub.follower.deposit_raw(book.db, anchor.outpoint.txid)
    return replace(paying, sent=of_payer), replace(paid, sent=of_payee, deposit=theirs)


def facts_of(hub: Hub, book: Reading, side: Side, *, closing: bool, addresses: bool = True) -> Facts:
    """Collect what the chain shows of a channel: while it is open, by the index alone. Raises what the nodes raise.

    Without ``addresses`` what lies on them stays unknown, and only Bitcoin Core is asked.
    """
    return gather(side, lambda asked: _view(hub, book, asked), closing=closing, addresses=addresses)


def _view(hub: Hub, book: Reading, asked: Questions) -> View:
    found = {item: seen for item in asked.outpoints if (seen := hub.follower.spend(book.db, item)) is not None}
    spenders = {item: _around(hub, seen) for item, seen in found.items()}
    deposits = (hub.follower.deposit(book.db, txid) for txid in asked.txids)
    transactions = {entry.txid: Seen(entry.txid, entry.height) for entry in deposits if entry is not None}
    coins, assets = _addresses(hub, asked.scripts)
    return View(hub.follower.tip(book.db), transactions, spenders, coins, assets)


def _around(hub: Hub, seen: Seen) -> Seen:
    """Return what is in the mempool with its fee, and with what spends its outputs."""
    if seen.height is not None:
        return seen
    waits = hub.bitcoin.waiting(seen.txid)
    if waits is None:
        return seen
    child = None
    for txid in waits.children[:1]:
        behind = hub.bitcoin.waiting(txid)
        child = None if behind is None else Seen(txid, feefrac=behind.feefrac)
    return replace(seen, feefrac=waits.feefrac, child=child)


def _addresses(
    hub: Hub, scripts: Sequence[bytes]
) -> tuple[dict[bytes, tuple[Coin, ...]], dict[bytes, tuple[int, ...]]]:
    """The coins, and the ids of the assets, on channel addresses."""
    if not scripts:
        return {}, {}
    addresses = {script: str(address_of_script(hub.network, script)) for script in scripts}
    view = hub.chain.view(Query(coins=list(addresses.values()), balances=list(addresses.values())))
    held = {
        script: tuple(asset_id(name) for name, count in view.balances[address].items() if count and name != "BTC")
        for script, address in addresses.items()
    }
    moving = _moving(hub, [at for script, at in addresses.items() if held[script] and not view.coins[at]])
    return {script: view.coins[at] for script, at in addresses.items() if at not in moving}, held


def _moving(hub: Hub, bare: Sequence[str]) -> set[str]:
    """The addresses with assets and no coin of which something waits in the mempool: that may move the assets.

    Their coins are not known before it is mined; else each would be given a coin for nothing.
    """
    history = hub.chain.view(Query(history=list(bare))).history if bare else {}
    return {at for at, entries in history.items() if any(entry.height is None for entry in entries)}


# Sent transactions --------------------------------------------------------------------------------------------------


def promised_coins(book: Reading) -> set[Outpoint]:
    """The wallet's coins in deposits of the hub's that do not count yet, and in the operator's withdrawals.

    Nothing else may spend them.
    """
    texts = (row.coins for statement in (_UNMINED, _LEAVING) for row in book.db.execute(statement))
    return {coin.outpoint for text in texts for coin in coins_of(text.split())}


def is_own(book: Reading, txid: bytes) -> bool:
    """Whether a transaction for a channel is one that the hub has made."""
    return book.db.execute(_OWN, {"id": txid}).first() is not None


def note_sent(work: UnitOfWork, handle: Handle, item: Sent, *, payer: bool) -> None:
    """Keep what a node has taken."""
    work.db.execute(_DROP_SENT, {"id": item.txid})
    row: dict[str, Any] = {"txid": item.txid, "handle": handle, "payer": payer, "spends": str(item.spends)}
    row |= {"fee": item.feefrac.fee, "size": item.feefrac.size, "coins": coins_text(item.coins)}
    work.db.execute(sent.insert(), row)


def drop_sent(work: UnitOfWork, txid: bytes) -> None:
    """Forget what never comes: its coins are free."""
    work.db.execute(_DROP_SENT, {"id": txid})


def _sent_of(row: Any) -> Sent:
    return Sent(
        bytes(row.txid), Outpoint.parse(row.spends), FeeFrac(row.fee, row.size), tuple(coins_of(row.coins.split()))
    )


def coins_text(coins: Iterable[Coin]) -> str:
    """Write confirmed coins as a text, one word each."""
    return " ".join(f"{coin.outpoint}/{coin.value}/{coin.script.hex()}/{coin.height}" for coin in coins)


def coins_of(words: Iterable[str]) -> Iterable[Coin]:
    """Read coins from the words of ``coins_text``."""
    for word in words:
        outpoint, value, script, height = word.split("/")
        yield Coin(Outpoint.parse(outpoint), int(value), bytes.fromhex(script), Height(int(height)))
