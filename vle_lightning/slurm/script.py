"""The batch script of a run."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vle_lightning.errors import UserError
from vle_lightning.slurm.job import REFUSAL
from vle_lightning.slurm.requeue import REASON

MOST_WARNING, LEAST_WARNING = 65535, 1  # seconds; sbatch(1), --signal
WARNING = 300  # seconds that a run has for its last step and its checkpoint, if the time limit is not shorter
LEAST_LIMIT = 60  # seconds
PLAIN = re.compile(r"[\w.,:/@+%=-]*")  # what a batch script's header takes as it is
# control characters, those that reorder or hide text, bytes that are no UTF-8, line and paragraph separators
CONTROL = ("Cc", "Cf", "Cs", "Zl", "Zp")
FIRST_PORT, PORTS = 12000, 20000  # below those that Linux gives to outgoing connections, 32768 and up


@dataclass(frozen=True)
class Resources:
    """What a job asks of the cluster."""

    nodes: int
    devices: int  # tasks on each node
    on_gpus: bool
    cpus: int  # of each task
    threads: int  # of each task's computations on the CPU
    time: str  # Slurm's form: minutes, minutes:seconds, hours:minutes:seconds, days-hours and so on
    warning: int | None = None  # seconds before the limit
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    others: tuple[str, ...] = ()  # further options of sbatch, such as --mem=0

    @property
    def world_size(self) -> int:
        """Return the number of ranks."""
        return self.nodes * self.devices


def time_limit(told: str) -> int | None:
    """Turn sbatch's ``--time`` into seconds; None for no limit.

    Raises:
        UserError: it is none of the forms in sbatch(1).
    """
    if told.upper() in ("UNLIMITED", "INFINITE"):
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,2})", told)
    if found is None:
        raise UserError(f"--time {told}: give minutes, hours:minutes:seconds, or days-hours:minutes:seconds")
    days, parts = int(found.group(1) or 0), [int(part) for part in found.group(2).split(":")]
    if found.group(1) is not None:  # days-hours[:minutes[:seconds]]
        hours, minutes, rest = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, rest = parts
    else:  # minutes[:seconds]
        hours, (minutes, rest) = 0, (*parts, 0)[:2]
    return days * 86400 + hours * 3600 + minutes * 60 + rest


def warning_time(told: str, wanted: int | None) -> int:
    """Return how many seconds before its limit a job is signalled.

    Args:
        told: ``--time``.
        wanted: by the user; by default five minutes, or a quarter of a shorter limit.

    Raises:
        UserError: the limit would come first.
    """
    limit = time_limit(told)
    if limit is not None and limit < LEAST_LIMIT:
        raise UserError(f"--time {told} is {limit} s; a run needs at least {LEAST_LIMIT} s to start and to save")
    if wanted is None:
        return WARNING if limit is None else min(WARNING, limit // 4)
    most = MOST_WARNING if limit is None else min(limit - 1, MOST_WARNING)
    if not LEAST_WARNING <= wanted <= most:
        raise UserError(
            f"--signal {wanted}: give the seconds before the limit of {told} at which the run shall save and "
            f"stop, {LEAST_WARNING} to {most}"
        )
    return wanted


def headers(name: str, folder: Path, job: Resources) -> list[str]:
    """Return the options of sbatch.

    Args:
        name: of the run and the job. Jobs of one name run one after another: two would write to one folder.
        folder: of the run.
        job: what it asks for.
    """
    options = [
        f"--job-name={name}",
        "--dependency=singleton",
        f"--nodes={job.nodes}",
        f"--ntasks-per-node={job.devices}",
        *([f"--gpus-per-node={job.devices}"] if job.on_gpus else []),
        f"--cpus-per-task={job.cpus}",
        f"--time={job.time}",
        f"--signal=USR1@{warning_time(job.time, job.warning)}",
        "--requeue",
        "--open-mode=append",
        f"--output={str(folder).replace('%', '%%')}/slurm-%j.out",
    ]
    given = {"partition": job.partition, "account": job.account, "qos": job.qos}
    options += [f"--{key}={value}" for key, value in given.items() if value]
    return [_quoted(option) for option in (*options, *job.others)]


def check_texts(texts: Mapping[str, str | None]) -> None:
    """Refuse texts that would be more than one line in a script: sbatch or the shell would run the rest.

    Args:
        texts: what goes into the script, by the option that gave it; None where an option was not given.

    Raises:
        UserError: one holds a control character, or a byte that is no UTF-8; names the option and the character.
    """
    for option, text in texts.items():
        if found := next((c for c in text or "" if unicodedata.category(c) in CONTROL), None):
            what = "byte that is no UTF-8" if unicodedata.category(found) == "Cs" else "control character"
            raise UserError(f"{option}: {text!r} holds the {what} {found!r}; leave it out")


def _quoted(option: str) -> str:
    """Quote an option's value where sbatch would take it apart."""
    key, equals, value = option.partition("=")
    return f"{key}{equals}{value if PLAIN.fullmatch(value) else shlex.quote(value)}"


def write_script(
    name: str, folder: Path, job: Resources, python: str, fit: Sequence[str], setup: str | None = None
) -> str:
    """Write the batch script of a run.

    Args:
        name: of the run.
        folder: of the run, an absolute path.
        job: what it asks for.
        python: path of the interpreter.
        fit: the options of ``fit``; those that say how many devices there are come from ``job``.
        setup: shell commands that come first, such as ``module load cuda``; one a line.

    Raises:
        UserError: a text holds a control character.
    """
    texts: dict[str, str | None] = {"--experiment or an option of fit": "".join(fit), "run_name": name}
    texts |= {"run_root": str(folder), "--time": job.time, "--partition": job.partition, "--account": job.account}
    texts |= {"--qos": job.qos, "--sbatch": "".join(job.others), "the folder that this runs in": str(Path.cwd())}
    check_texts({**texts, "--setup": (setup or "").replace("\n", "").replace("\t", "")})
    devices = ["--trainer.num_nodes", str(job.nodes), "--trainer.devices", str(job.devices)]
    devices += ["--trainer.accelerator", "gpu" if job.on_gpus else "cpu"]
    command = shlex.join([python, "-m", "vle_lightning", "fit", *fit, *devices, "--ckpt_path", "auto"])
    lines = [
        "#!/usr/bin/env bash",
        *(f"#SBATCH {option}" for option in headers(name, folder, job)),
        "# Written by `python -m vle_lightning slurm write`, from the folder that the job runs in.",
        f"cd {shlex.quote(str(Path.cwd()))} || exit 1",
        *([setup] if setup else []),
        "# the ranks meet at the first node, on a port of the job's own",
        'MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        f"MASTER_PORT=$(({FIRST_PORT} + SLURM_JOB_ID % {PORTS}))",
        "export MASTER_ADDR MASTER_PORT",
        f"export OMP_NUM_THREADS={job.threads} PYTHONUNBUFFERED=1",
        *(["export NCCL_DEBUG=WARN TORCH_NCCL_ASYNC_ERROR_HANDLING=1"] if job.on_gpus else []),
        f"export {REFUSAL}={shlex.quote(str(folder / REASON))}",
        f'rm -f "${REFUSAL}"',
        "# this shell outlives the signals that end its tasks, and says what follows",
        "trap : TERM USR1",
        "# a rank is a task; it sees all devices of its node and takes that of its number. Neighbours in rank are on a",
        "# node. When one fails the others end, too",
        f"srun --cpus-per-task={job.cpus} --distribution=block --kill-on-bad-exit=1 --wait=600 \\",
        f"  {command}",
        "code=$?",
        f"{shlex.quote(python)} -m vle_lightning.slurm requeue --run {shlex.quote(str(folder))} --code $code",
        "exit $code",
    ]
    return "\n".join(lines) + "\n"
