"""``python -m vle_lightning.gpu_check``: also where packages are missing that the rest of the code needs at import."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from vle_lightning.entry import enter
from vle_lightning.gpu_check.wheels import TARGET, WHEELS, install_missing, missing


def has_gpu() -> bool:
    """Is there a CUDA GPU? Where torch is missing, its driver's device file tells."""
    if find_spec("torch") is None:
        return Path("/dev/nvidiactl").exists()
    import torch

    return torch.cuda.is_available()


def main() -> int:
    """Make up for missing packages, then check."""
    if "--device" not in sys.argv and not has_gpu():
        print("gpu-check: there is no CUDA GPU on this machine, so there is nothing to measure")
        return 0
    wheels = Path(os.environ.get(WHEELS, "wheels"))
    if missing() and TARGET not in os.environ:
        try:
            folder = install_missing(wheels)
        except subprocess.CalledProcessError as error:
            print(
                f"error: {wheels}: pip could not install these wheels (exit code {error.returncode})", file=sys.stderr
            )
            return 2
        if folder is not None:  # a new process finds them, and so do all that it starts
            path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
            environment = {**os.environ, "PYTHONPATH": path, TARGET: str(folder)}
            os.execve(sys.executable, [sys.executable, "-m", "vle_lightning.gpu_check", *sys.argv[1:]], environment)
    if lacking := [name for name in missing() if name != "deepspeed"]:
        print(
            f"error: gpu-check needs {', '.join(lacking)}; install requirements.txt, or pack wheels where there is a "
            "network (make gpu-wheels) and bring the folder wheels/ along",
            file=sys.stderr,
        )
        return 2
    from vle_lightning.errors import UserError
    from vle_lightning.gpu_check.command import run_gpu_check

    try:
        return run_gpu_check(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(enter("python -m vle_lightning.gpu_check", main))
