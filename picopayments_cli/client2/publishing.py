"""Publish a connection's transactions, and enter each in its history once, wherever the process is cut off."""

from __future__ import annotations

from dataclasses import replace

from picopayments_cli.chain import Query
from picopayments_cli.channel2.transactions import txid_of
from picopayments_cli.client import history
from picopayments_cli.client2.connection import Connection
from picopayments_cli.client2.session import Session


def publish(session: Session, connection: Connection, name: str, raw: bytes, txids: list[str]) -> Connection:
    """Hand a transaction of a connection to the network, and its txid (hex) to ``txids``. Raises BroadcastRefused.

    That it is about to leave is on disk before, and that it left afterwards; what leaves again is no new action.
    """
    txid = txid_of(raw)[::-1].hex()
    if txid not in connection.published:
        connection = session.save(replace(connection, publishing=(name, txid)), f"{name} leaves")
    txids.append(session.broadcast(raw, name))
    return _left(session, connection) if connection.publishing else connection


def resume(session: Session, connection: Connection) -> Connection:
    """Enter in the history what was leaving when an earlier process ended, if the network has it.

    It is not sent again: what was right then, a payout of a commit that was buried, may be wrong by now.
    """
    if connection.publishing is None:
        return connection
    name, text = connection.publishing
    txid = bytes.fromhex(text)[::-1]
    if session.chain.view(Query(transactions=[txid])).transactions:
        return _left(session, connection)
    return session.save(replace(connection, publishing=None), f"{name} did not leave")


def _left(session: Session, connection: Connection) -> Connection:
    if connection.publishing is None:
        return connection
    name, txid = connection.publishing
    noted = replace(connection, publishing=None, published=(*connection.published, txid))
    return session.save(noted, f"{name} left", history.published(name, txid))
