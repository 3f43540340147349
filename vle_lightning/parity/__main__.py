"""``python -m vle_lightning.parity FIXTURES``: exit 0 if all agrees, 1 if not, 2 if there are no fixtures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vle_lightning.entry import enter
from vle_lightning.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; by default with the arguments of the process."""
    import torch  # here, for Lightning must not read a rank before it is known to be a number

    from vle_lightning.parity.command import check_fixtures

    parser = argparse.ArgumentParser("python -m vle_lightning.parity", description=__doc__)
    parser.add_argument("fixtures", type=Path, help="a folder of fixture folders in the layout of docs/parity.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as the reference values were made
    try:
        return 0 if check_fixtures(options.fixtures).ok else 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(enter("python -m vle_lightning.parity", main))
