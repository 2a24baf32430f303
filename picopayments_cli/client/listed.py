"""Reads and writes the list of connections that may have money on the chain, which stands outside of their folder.

By it a connection is missed whose file is lost: its hub is asked then, and can neither keep it back unnoticed nor name
another one in its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from picopayments_cli.channel.stages import AGREED, CLOSING
from picopayments_cli.channel.values import HANDLE_SIZE, PUBKEY_SIZE, Handle, Pubkey, from_hex
from picopayments_cli.client import kinds
from picopayments_cli.client.connection import Connection


@dataclass(frozen=True)
class Listed:
    """The hub of a connection, and the scripts of both its deposits, the own one first."""

    hub_url: str
    hub_key: Pubkey
    deposits: tuple[bytes, bytes]

    @staticmethod
    def of(connection: Connection) -> Listed:
        """Tell what is listed of a connection."""
        channels = connection.duplex.sending, connection.duplex.receiving
        c2h, h2c = (side.contract.deposit.output for side in channels)
        return Listed(connection.hub_url, connection.hub_key, (c2h, h2c))


def is_due(connection: Connection) -> bool:
    """Tell whether something of a connection may be on the chain."""
    return connection.stage in (AGREED, CLOSING)


def written(listed: Mapping[Handle, Listed]) -> str:
    """Write the list as JSON."""
    told = {
        handle.hex(): {
            "hub_url": item.hub_url,
            "hub_key": item.hub_key.hex(),
            "deposits": [d.hex() for d in item.deposits],
        }
        for handle, item in sorted(listed.items())
    }
    return json.dumps(told, indent=2) + "\n"


def parse(text: str) -> dict[Handle, Listed]:
    """Read the list. Raises KeyError, TypeError, ValueError, RecursionError, PicopaymentsError where it is none."""
    return {
        Handle(from_hex(handle, "handle", HANDLE_SIZE)): _parsed(kinds.members(item))
        for handle, item in kinds.members(json.loads(text)).items()
    }


def _parsed(item: Mapping[str, object]) -> Listed:
    c2h, h2c = (bytes.fromhex(kinds.text(output)) for output in kinds.items(item["deposits"]))
    key = Pubkey(from_hex(kinds.text(item["hub_key"]), "hub's key", PUBKEY_SIZE))
    return Listed(kinds.text(item["hub_url"]), key, (c2h, h2c))
