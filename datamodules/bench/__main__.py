"""``python -m datamodules.bench``."""

from __future__ import annotations

import sys

from vle_lightning.entry import enter


def main() -> None:
    """Import and run the command; an import that fails is caught as well."""
    from datamodules.bench.command import main as run

    run()


if __name__ == "__main__":
    sys.exit(enter("python -m datamodules.bench", main))
