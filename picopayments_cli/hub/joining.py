"""Has this machine join a hub of several processes, or begin it where no other machine does."""

from __future__ import annotations

import secrets
import socket
from contextlib import closing

from sqlalchemy.engine import URL

from picopayments_cli.errors import StoreLocked
from picopayments_cli.hub.database import Database
from picopayments_cli.hub.folder import Folder
from picopayments_cli.hub.hub import Hub, Urls
from picopayments_cli.hub.stale_database import Witness, see_age


def member_name() -> str:
    """The name by which this machine's processes hold the lease for the rounds: a machine's, and a token."""
    return f"{socket.gethostname().replace(' ', '-')} {secrets.token_hex(8)}"


def join(folder: Folder, url: URL | str, member: str, urls: Urls, *, drain: bool, restored: bool) -> str:
    """Bring the database up to date, see that it is the newest, and tell what is on offer where no hub runs yet.

    A hub that runs already keeps its terms, and drains where it does or is to ``drain``. Return the Counterparty node's
    URL without credentials. Raises DatabaseOutdated, StoreLocked, DatabaseUnusable.
    """
    with closing(Database(url, member)) as database:
        offer = folder.offer()
        hub = Hub(folder.network, folder.key(), offer, database, urls, folder.marks_path)
        first = database.join()
        if restored and not first:
            raise StoreLocked(
                f"The hub runs on {database.lease.machine()} with this database: stop it on all machines, then start "
                "it once with --restored."
            )
        see_age(hub, Witness(folder.witness_path, database, hub.book), restored=restored)
        if first:
            hub.put_on_offer(offer)
            hub.sharing.tell_draining(drain)
        elif drain:
            hub.drain()
    return hub.chain_url
