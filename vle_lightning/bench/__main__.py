"""``python -m vle_lightning.bench``."""

from __future__ import annotations

import sys

from vle_lightning.entry import enter


def main() -> None:
    """Import and run the command; an import that fails is caught as well."""
    from vle_lightning.bench.command import main as run

    run()


if __name__ == "__main__":
    sys.exit(enter("python -m vle_lightning.bench", main))
