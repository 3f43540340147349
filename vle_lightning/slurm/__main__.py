"""``python -m vle_lightning.slurm requeue``: the batch script's own way in.

Not through ``vle_lightning``'s: at the time limit Slurm leaves a job seconds, which importing torch would take.
"""

from __future__ import annotations

import argparse
import sys

from vle_lightning.entry import enter
from vle_lightning.slurm.requeue import run_requeue


def main() -> int:
    """Run the one command."""
    given = sys.argv[1:]
    if given[:1] != ["requeue"]:
        sys.exit("python -m vle_lightning.slurm knows requeue alone; the rest is at python -m vle_lightning slurm")
    return run_requeue(argparse.ArgumentParser("python -m vle_lightning.slurm requeue"), given[1:])


if __name__ == "__main__":
    sys.exit(enter("python -m vle_lightning.slurm", main))
