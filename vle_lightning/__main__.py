"""``python -m vle_lightning``."""

from __future__ import annotations

import os
import sys

# Compute threads that spin while they wait take the core that the data workers need: steps become ten times slower
# on a busy machine. OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from vle_lightning.entry import enter  # noqa: E402


def main() -> int:
    """Import and run the command line; an import that fails is caught as well."""
    from vle_lightning.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(enter("python -m vle_lightning", main))
