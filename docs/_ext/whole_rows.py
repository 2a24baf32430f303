"""Warn of rows of tables that are parts of one: in a simple table a first cell of two lines makes two rows."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)
_CUT = re.compile(r"\(.*|.*(,| and| is| of| or| the)")  # a first cell that is no whole one


def warn(_app: Sphinx, page: nodes.document) -> None:
    """Look at each row of a page. A table that must have such rows is written as a list-table."""
    for row in page.findall(nodes.row):
        cells = [cell.astext() for cell in row.findall(nodes.entry)]
        if not cells[-1] or _CUT.fullmatch(cells[0].replace("\n", " ")):
            log.warning("a part of a row: %s", " | ".join(cells), location=row)


def setup(app: Sphinx) -> dict[str, bool]:
    """Have each page looked at once it is read."""
    app.connect("doctree-read", warn)
    return {"parallel_read_safe": True}
