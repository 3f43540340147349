"""How Lightning finds its ranks in a Slurm job."""

from __future__ import annotations

import os
from collections.abc import Mapping

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from vle_lightning.slurm.job import check_job, is_alone, is_task


class SrunEnvironment(SLURMEnvironment):
    """Ranks are srun's tasks; signals and requeuing are ours, not Lightning's."""

    def __init__(self) -> None:
        super().__init__(auto_requeue=False)

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Compare the trainer's numbers with the job's.

        Raises:
            UserError: they differ.
        """
        check_job(os.environ, num_nodes, num_devices)

    @staticmethod
    def _validate_srun_variables() -> None:
        """Accept ``srun --ntasks`` too: Lightning insists on ``--ntasks-per-node``; `check_job` counts the tasks."""


def cluster_environment(environment: Mapping[str, str]) -> ClusterEnvironment | None:
    """Choose the plugin that tells a trainer its ranks.

    Lightning takes every process in an allocation for a task of srun: without srun it would look for variables that
    are not there, or train on one device in the belief that others do as well.

    Args:
        environment: of the process.

    Returns:
        None where Lightning finds the right one itself.
    """
    if is_task(environment):
        return SrunEnvironment()
    return LightningEnvironment() if is_alone(environment) else None
