"""How Sphinx makes one site of these pages: ``tox -e docs``."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]  # the program's parsers, which import the standard library alone

project = "PicoPayments CLI"
author = "picopayments-cli contributors"
extensions = ["help_of", "whole_rows", "sphinx.ext.autosectionlabel"]
autosectionlabel_prefix_document = True  # :ref:`commands:serve`
highlight_language = "none"
smartquotes = False  # -- stays what one types
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]  # for narrow screens
html_copy_source = False
html_use_index = False  # nothing is in it
html_show_copyright = False
html_show_sphinx = False
