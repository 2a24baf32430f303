"""Keep the files of connections that are over, in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from picopayments_cli.channel.values import Handle
from picopayments_cli.client import connection_files
from picopayments_cli.client.folder import Folder
from picopayments_cli.errors import OldProtocol
from picopayments_cli.files import read_text


class Archive:
    """The archive of one network in a folder, which is locked."""

    def __init__(self, folder: Folder, key: str) -> None:
        """``key``: the key file's name, for who has to move a connection of an older protocol."""
        self._folder = folder
        self._key = key
        self.path = folder.path / f"{folder.network.name}.archive"

    def handles(self) -> list[Handle]:
        """List the handles of the connections in it, in order."""
        return [Handle(bytes.fromhex(path.stem)) for path in connection_files.connections_in(self.path)]

    def put(self, document: Path) -> None:
        """Copy a connection's document and rows into it, the rows first. Raises StoreDamaged, StoreUnusable."""
        rows = connection_files.rows_path(document)
        for path in (rows, document) if rows.exists() else (document,):
            self._folder.write(self.path / path.name, read_text(path) or "", "archived")

    def load_all(self) -> dict[Handle, dict[str, Any]]:
        """Read the documents in it, in the order of their handles. Raises StoreDamaged, StoreNewer.

        Those of protocol 2 are left out: they are over.
        """
        found = {}
        for path in connection_files.connections_in(self.path):
            try:
                document = connection_files.parse(path, read_text(path) or "", self._folder.network, self._key)
            except OldProtocol:
                continue
            rows = connection_files.read_rows(path, connection_files.kept(path, document).size)
            found[Handle(bytes.fromhex(path.stem))] = {**connection_files.without_header(document), "rows": rows}
        return found
