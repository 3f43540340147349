"""The command line: an experiment file in, a run folder out.

``python -m vle_lightning {fit,validate,test,predict} --config FILE``, and the commands of ``commands.py``.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence

from datamodules.cache import StoreError
from datamodules.sampler import accumulation
from vle_lightning.callbacks.interruption import SIGNALS
from vle_lightning.commands import COMMANDS, ON_EXPERIMENTS
from vle_lightning.errors import Interrupted, UserError
from vle_lightning.experiment import ExperimentCLI, read_settings
from vle_lightning.parsing import locate
from vle_lightning.slurm.job import leave_reason

NOISE = (  # Lightning's, about things that are meant to be so
    ".*exists and is not empty",
    ".*does not have many workers",
    ".*treespec, LeafSpec.*",
    ".*infer the batch indices",
    ".*smaller than the logging interval",
    "LightningCLI's args parameter",
    ".*recommended to use `self.log.*sync_dist=True",  # what is logged at the end of a split is of all ranks
)
FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or what one may use of it
EX_TEMPFAIL = 75  # sysexits.h: try again
OUR_PACKAGES = ("vle_lightning.", "datamodules.")


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: the command line; that of the process by default.

    Returns:
        The exit code: 2 after an error that the user can fix, 75 where a scheduler's signal has ended the run.
    """
    arguments = sys.argv[1:] if args is None else list(args)
    for message in NOISE:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(is_no_advertisement)
    try:
        if arguments and arguments[0] in ON_EXPERIMENTS:
            return ON_EXPERIMENTS[arguments[0]](arguments[1:], read_settings, accumulation)
        if arguments and arguments[0] in COMMANDS:
            return COMMANDS[arguments[0]](arguments[1:])
        ExperimentCLI(args)
    except Interrupted as error:
        for number in SIGNALS:  # the first rank that is gone makes srun send more of them
            signal.signal(number, signal.SIG_IGN)
        print(error, file=sys.stderr)
        return EX_TEMPFAIL
    except (ValueError, FileNotFoundError, StoreError) as error:
        if not (isinstance(error, UserError | StoreError) or raised_by_us(error)):
            raise
        return refuse(locate(str(error), arguments))
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f" for {error.filename}" if error.filename else ""
        return refuse(f"no space is left on the disk{where}: make room, then go on with --ckpt_path auto")
    return 0


def refuse(told: str) -> int:
    """Say what the user has to fix, to a scheduler too; return the exit code."""
    leave_reason(told, os.environ)
    print(f"error: {told}", file=sys.stderr)
    return 2


def is_no_advertisement(record: logging.LogRecord) -> bool:
    """Is a log line about this run?"""
    return "Tip:" not in record.getMessage()


def raised_by_us(error: Exception) -> bool:
    """Was it one of our own checks that failed, before the first step?"""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    stepping = any(frame.f_code.co_name == "advance" for frame in frames)  # of Lightning's loops
    return not stepping and str(frames[-1].f_globals.get("__name__")).startswith(OUR_PACKAGES)
