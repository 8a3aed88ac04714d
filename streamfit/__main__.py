"""`python -m streamfit`."""

from __future__ import annotations

import sys

from streamfit.cli import main

if __name__ == "__main__":
    sys.exit(main())
