"""Publish a connection's steps, and enter each in its history once, wherever the process is cut off."""

from __future__ import annotations

from dataclasses import replace

from picopayments_cli.chain import Query
from picopayments_cli.channel.drafts import Draft, txid_of
from picopayments_cli.channel.duplex import half_left
from picopayments_cli.channel.facts import Sent
from picopayments_cli.channel.steps import Name, Step
from picopayments_cli.client import funds, history
from picopayments_cli.client.connection import Connection
from picopayments_cli.client.looking import Look
from picopayments_cli.client.session import Session

C2H, H2C = "c2h", "h2c"  # the labels of steps


def take(session: Session, connection: Connection, step: Step, txids: list[str]) -> Connection:
    """Take a step: hand its transactions to the network, and their txids (hex) to ``txids``.

    Before the own half of a commit leaves, that it may have left is on disk. Raises BroadcastRefused,
    BadPreviousTransaction.
    """
    payer = step.label == C2H
    secrets = connection.secrets(session.wallet.key)
    drafts = [draft for draft in (step.draft, step.child) if draft is not None]
    for draft in drafts:
        funds.check_inputs(session, draft)
    raws = step.finish(secrets.payer if payer else secrets.payee, session.wallet.key, payer=payer)
    if step.name is Name.COMMIT and step.draft is not None and not connection.duplex.receiving.half_left:
        connection = session.save(replace(connection, duplex=half_left(connection.duplex)), "commit signed")
    first = txid_of(raws[0])[::-1].hex()
    if first not in connection.published:
        name = step.name.value if step.draft is not None or step.raw is not None else f"{step.name.value}'s child"
        connection = session.save(replace(connection, publishing=(name, first)), f"{step.name.value} leaves")
    taken = session.submit(raws, step.name.value)
    txids.extend(txid[::-1].hex() for txid in taken)
    connection = _with_sent(connection, payer, drafts, raws, taken)
    return _left(session, connection) if connection.publishing else session.save(connection, "child left")


def _with_sent(
    connection: Connection, payer: bool, drafts: list[Draft], raws: tuple[bytes, ...], taken: tuple[bytes, ...]
) -> Connection:
    """Note what the network took, so that it can be told from others' and raised."""
    c2h, h2c = connection.sent
    known = {item.txid for item in (*c2h, *h2c)}
    new = tuple(
        Sent.of(draft, txid)
        for draft, txid in zip(drafts, map(txid_of, raws[len(raws) - len(drafts) :]), strict=True)
        if txid in taken and txid not in known
    )
    return replace(connection, sent=((*c2h, *new), h2c) if payer else (c2h, (*h2c, *new)))


def resume(session: Session, connection: Connection, look: Look) -> Connection:
    """Enter in the history what was leaving when an earlier process ended, if the network has it.

    It is not sent again: what was right then, a payout of a commit that was buried, may be wrong by now. ``look`` tells
    whether Bitcoin Core alone can be asked.
    """
    if connection.publishing is None:
        return connection
    name, text = connection.publishing
    txid = bytes.fromhex(text)[::-1]
    known = session.chain.view(Query(transactions=[txid])).transactions if look.whole else session.sight.nodes.has(txid)
    if known:
        return _left(session, connection)
    return session.save(replace(connection, publishing=None), f"{name} did not leave")


def _left(session: Session, connection: Connection) -> Connection:
    if connection.publishing is None:
        return connection
    name, txid = connection.publishing
    noted = replace(connection, publishing=None, published=(*connection.published, txid))
    return session.save(noted, f"{name} left", history.published(name, txid))
