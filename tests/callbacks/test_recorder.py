"""TensorBoard's curves on a disk that is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from pathlib import Path
from vle_lightning.callbacks.recorder import RunLogger
logger = RunLogger(Path({folder!r}))
for step in range(3000):
    logger.log_metrics({{f"score/{{number}}": 0.5 for number in range(5)}}, step)
logger.save()
logger.finalize("success")
print("the run went on")
"""


@pytest.mark.slow
def test_curves_end_on_a_full_disk_and_the_run_goes_on(tmp_path: Path) -> None:
    small = f"mount -t tmpfs -o size=64k tmpfs {tmp_path}"
    if subprocess.run(["unshare", "-m", "bash", "-c", small], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")
    command = ["unshare", "-m", "bash", "-c", f'{small} && exec "$@"', "-", sys.executable, "-c"]
    script = SCRIPT.format(folder=str(tmp_path))
    done = subprocess.run([*command, script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the run went on\n"
    assert "TensorBoard's curves end here" in done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
