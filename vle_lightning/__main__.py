"""``python -m vle_lightning``."""

from __future__ import annotations

import sys

from vle_lightning.cli import main

if __name__ == "__main__":
    sys.exit(main())
