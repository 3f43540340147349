"""The commands beside those of Lightning's command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vle_lightning.ablation.command import run_ablation
from vle_lightning.curves.command import run_curves
from vle_lightning.demo.command import run_demo
from vle_lightning.export import run_export
from vle_lightning.gpu_check.command import run_gpu_check
from vle_lightning.inference.commands import COMMANDS as ON_PICTURES
from vle_lightning.leaderboard import run_leaderboard
from vle_lightning.plan.command import run_plan
from vle_lightning.results.command import run_results
from vle_lightning.slurm.command import run_slurm
from vle_lightning.study import run_study

ON_EXPERIMENTS = {  # these ask the command line for an experiment's options
    "plan": run_plan,
    "slurm": run_slurm,
    "ablation": run_ablation,
}
COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "study": run_study,
    "demo": run_demo,
    "export": run_export,
    "results": run_results,
    "curves": run_curves,
    "gpu-check": run_gpu_check,
    "vcr-leaderboard": run_leaderboard,
    **ON_PICTURES,
}
