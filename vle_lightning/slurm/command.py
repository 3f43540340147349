"""``python -m vle_lightning slurm {write,status,requeue}``."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from vle_lightning.errors import UserError
from vle_lightning.inference.commands import OneSentenceParser
from vle_lightning.parsing import read_experiment
from vle_lightning.run_folder import check_run_name
from vle_lightning.slurm.checks import Accumulate, Reader, Settings, check, refuse_ours
from vle_lightning.slurm.requeue import NOTHING, last_step, name_step, run_requeue
from vle_lightning.slurm.script import Resources, warning_time, write_script
from vle_lightning.slurm.status import run_status

SCRIPT = "job.sbatch"
PROGRAM = "python -m vle_lightning slurm"


def run_slurm(arguments: Sequence[str], read_settings: Reader, accumulate: Accumulate) -> int:
    """Run one of the commands about Slurm; return the exit code.

    Args:
        arguments: the command line behind ``slurm``.
        read_settings: what reads an experiment; the command line's, which knows the options of the data as well.
        accumulate: the samplers' rule: from global batch, device's batch and devices to micro-batches a step.

    Raises:
        UserError: of anything that a user can fix.
    """
    write = partial(run_write, read_settings=read_settings, accumulate=accumulate)
    commands: dict[str, Callable[[OneSentenceParser, Sequence[str]], int]] = {
        "write": write,
        "status": run_status,
        "requeue": run_requeue,
    }
    name = arguments[0] if arguments else ""
    if name not in commands:
        raise UserError(f"{PROGRAM}: name one of {', '.join(commands)}, such as `{PROGRAM} write --help`")
    return commands[name](OneSentenceParser(f"{PROGRAM} {name}", allow_abbrev=False), arguments[1:])


def run_write(
    parser: OneSentenceParser, arguments: Sequence[str], read_settings: Reader, accumulate: Accumulate
) -> int:
    """Write the batch script of an experiment into its run folder, show it, and submit it if asked to.

    Args:
        parser: to fill.
        arguments: the command line behind ``write``.
        read_settings: see `run_slurm`.
        accumulate: see `run_slurm`.

    Raises:
        UserError: the experiment does not fit the job, or Slurm refuses it.
    """
    options, more = parse(parser, arguments)
    fit = ["--config", options.experiment, *more]
    refuse_ours(fit)
    settings = read_settings(fit)
    job = resources(options, settings)
    facts = check(settings, job, accumulate)
    name = read_experiment(fit).run_name if settings["run_name"] is None else settings["run_name"]
    check_run_name(name)
    folder = Path(settings["run_root"], name).absolute()
    setup = options.setup or None
    script = write_script(name, folder, job, os.path.abspath(sys.executable), fit, setup)
    file = folder / SCRIPT
    try:  # the folder is for the job's output as well, which Slurm opens before the run begins
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(script, encoding="utf-8")
    except OSError as error:
        raise UserError(f"run_root: {file} cannot be written: {error}") from error
    print(script)
    step = last_step(folder)
    facts["starts"] = (
        "afresh"
        if step == NOTHING
        else f"from the last checkpoint of {folder} ({name_step(step)}); --run_name names another run"
    )
    facts["stops"] = (
        f"{warning_time(job.time, job.warning)} s before its limit (--time {job.time}), saves, and is requeued"
    )
    for key, value in facts.items():
        print(f"{key:>7}: {value}")
    if options.submit:
        print(f"submitted {file} as job {submit(file)}; its output: {folder}/slurm-*.out")
    else:
        print(f"written: {file}; submit it with SUBMIT=1, or: sbatch {shlex.quote(str(file))}")
    return 0


def parse(parser: OneSentenceParser, arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Read the command line; what follows ``--`` is fit's.

    Raises:
        UserError: an option is missing, unknown or out of range.
    """
    own = list(arguments)
    more = own[own.index("--") + 1 :] if "--" in own else []
    own = own[: own.index("--")] if "--" in own else own
    parser.usage = f"{parser.prog} [options] [-- options of fit]"
    parser.add_argument("--experiment", default="experiments/pretrain/vle_base.yaml", help="default: %(default)s")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--gpus", type=int, default=8, help="of each node (default: %(default)s); 0: --devices")
    parser.add_argument("--devices", type=int, default=0, help="tasks of each node, where there are no GPUs")
    parser.add_argument("--time", required=True, help="limit, in Slurm's form, such as 24:00:00")
    parser.add_argument("--signal", type=int, help="seconds before the limit (default: 300, or a quarter of the limit)")
    parser.add_argument("--cpus", type=int, help="of each task (default: one, and one for each loading process)")
    for name in ("partition", "account", "qos"):
        parser.add_argument(f"--{name}", help="Slurm's")
    parser.add_argument("--sbatch", default="", help="further options of sbatch, such as '--mem=0 --exclusive'")
    parser.add_argument("--setup", help="shell commands that come first, such as 'module load cuda'")
    parser.add_argument("--submit", action="store_true", help="submit it")
    options = parser.parse_args(own)
    for name, least in {"nodes": 1, "gpus": 0, "devices": 0, "cpus": 1}.items():
        if (value := getattr(options, name)) is not None and value < least:
            raise UserError(f"--{name} is {value}; it must be at least {least}")
    if bool(options.gpus) == bool(options.devices):
        raise UserError(f"--gpus is {options.gpus} and --devices {options.devices}; exactly one must be above 0")
    return options, more


def resources(options: Namespace, settings: Settings) -> Resources:
    """Turn the command line into what the job asks for; the loading processes have a core each."""
    workers = int(settings["data"]["workers"])
    cpus = options.cpus or workers + 1
    return Resources(
        nodes=options.nodes,
        devices=options.gpus or options.devices,
        on_gpus=bool(options.gpus),
        cpus=cpus,
        threads=max(1, cpus - workers),
        time=options.time,
        warning=options.signal,
        partition=options.partition,
        account=options.account,
        qos=options.qos,
        others=_split(options.sbatch),
    )


def _split(given: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(given))
    except ValueError as error:
        raise UserError(f"--sbatch {given!r} cannot be split into options ({error}): close each quote") from error


def submit(file: Path) -> str:
    """Submit a batch script; return the number of the job.

    Raises:
        UserError: there is no Slurm here, or it refuses.
    """
    try:
        done = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserError(f"there is no sbatch on this machine; {file} is written: submit it where there is") from error
    if done.returncode:
        raise UserError(f"sbatch refuses {file}: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]
