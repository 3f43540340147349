"""The commands beside those of Lightning's command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vle_lightning.export import run_export
from vle_lightning.inference.commands import COMMANDS as ON_PICTURES
from vle_lightning.leaderboard import run_leaderboard
from vle_lightning.results.command import run_results
from vle_lightning.study import run_study

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "study": run_study,
    "export": run_export,
    "results": run_results,
    "vcr-leaderboard": run_leaderboard,
    **ON_PICTURES,
}
