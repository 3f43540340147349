"""What a process can tell of the Slurm job that it runs in, by its environment.

``srun`` sets ``SLURM_STEP_ID`` for the tasks that it starts. In a batch script and in an ``salloc`` shell it is not
set, although ``SLURM_NTASKS`` and, in a batch script, even ``SLURM_PROCID`` are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from vle_lightning.errors import UserError

REFUSAL = "VLE_REFUSAL"  # names the file in which a refused run leaves its reason for the batch script
INTERACTIVE = ("bash", "sh", "zsh", "interactive")  # names that srun --pty and salloc give to shells
TORCHRUN = "TORCHELASTIC_RUN_ID"  # torchrun sets it, for each process that it starts
BY_HAND = (
    TORCHRUN,
    "RANK",
    "LOCAL_RANK",
    "NODE_RANK",
    "GROUP_RANK",
)  # of torchrun, and of those who start each node themselves


def is_task(environment: Mapping[str, str]) -> bool:
    """Was this process started by srun as one task of a job: neither by somebody's shell, nor by a torchrun in it?"""
    is_shell = environment.get("SLURM_JOB_NAME") in INTERACTIVE or "SLURM_PTY_PORT" in environment
    return "SLURM_STEP_ID" in environment and TORCHRUN not in environment and not is_shell


def is_alone(environment: Mapping[str, str]) -> bool:
    """Is this process in an allocation, but started neither by srun nor by torchrun?"""
    started = is_task(environment) or any(name in environment for name in BY_HAND)
    return "SLURM_JOB_ID" in environment and not started


def check_job(environment: Mapping[str, str], nodes: int, devices: int) -> None:
    """Make sure that there is one task for each device, before the first rank waits for ranks that never come.

    Args:
        environment: of the process.
        nodes: ``trainer.num_nodes``.
        devices: ``trainer.devices``, those of one node.

    Raises:
        UserError: the job has other numbers of nodes or of tasks per node; names what to change.
    """
    if is_alone(environment) and nodes > 1:
        raise UserError(
            f"trainer.num_nodes is {nodes}, but Slurm job {environment['SLURM_JOB_ID']} started this one process: put "
            "srun before python; `python -m vle_lightning slurm write` writes the batch script"
        )
    if not is_task(environment):
        if nodes > 1 and not any(name in environment for name in (*BY_HAND, "MASTER_ADDR")):
            raise UserError(
                f"trainer.num_nodes is {nodes}, but nothing says which of them this process is: start it with srun or "
                "torchrun, or set NODE_RANK, MASTER_ADDR and MASTER_PORT on each node"
            )
        return
    given_nodes = environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES")
    if given_nodes is not None and int(given_nodes) != nodes:
        raise UserError(
            f"trainer.num_nodes is {nodes}, but the Slurm step has {given_nodes} node(s): set "
            f"--trainer.num_nodes {given_nodes}, or #SBATCH --nodes={nodes}"
        )
    per_node = tasks_per_node(environment, nodes)
    if any(tasks != devices for tasks in per_node):
        has = " and ".join(map(str, sorted(set(per_node))))
        raise UserError(
            f"trainer.devices is {devices} a node, but the Slurm step has {has} task(s) a node: set #SBATCH "
            f"--ntasks-per-node={devices}"
            + (f", or --trainer.devices {has}" if len(set(per_node)) == 1 else " (srun spread them unevenly)")
        )


def tasks_per_node(environment: Mapping[str, str], nodes: int) -> list[int]:
    """Return the number of tasks on each node of the step, as far as the environment tells.

    Slurm writes runs of equal numbers as ``2(x3),1``: three nodes with two tasks and one with one.
    """
    told = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE")
    if told is not None:
        runs = re.findall(r"(\d+)(?:\(x(\d+)\))?", told)
        return [int(tasks) for tasks, count in runs for _ in range(int(count or 1))]
    if (wanted := environment.get("SLURM_NTASKS_PER_NODE")) is not None:
        return [int(wanted)] * nodes
    if (total := environment.get("SLURM_NTASKS")) is not None:
        share, rest = divmod(int(total), nodes)
        return [share + (node < rest) for node in range(nodes)]
    return []


def leave_reason(message: str, environment: Mapping[str, str]) -> None:
    """Tell the batch script that the run was refused, and why.

    The first task that ends with 2 makes srun terminate the others, whose code 143 is the higher and so srun's own.

    Args:
        message: what the user has to fix.
        environment: of the process; outside of our batch script nothing is written.
    """
    if file := environment.get(REFUSAL):
        Path(file).write_text(message + "\n", encoding="utf-8")
