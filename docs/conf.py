"""How Sphinx makes one site of these pages: ``tox -e docs``."""

project = "PicoPayments CLI"
author = "picopayments-cli contributors"
extensions = ["sphinx.ext.autosectionlabel"]
autosectionlabel_prefix_document = True  # :ref:`commands:serve`
highlight_language = "none"
html_theme = "furo"
html_title = project
html_copy_source = False
html_show_copyright = False
