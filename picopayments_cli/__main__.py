"""``python -m picopayments_cli`` is ``picopayments-cli``."""

import sys

from picopayments_cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
