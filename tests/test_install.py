"""``pip install .`` in a fresh environment: the core dependencies alone load and run a checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from datamodules.tokenizers import train_tokenizer
from vle_lightning.inference.processor import Processor
from vle_lightning.tasks.vqa import VQATask

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
PACKAGES = ("vle_lightning", "datamodules")
FILES = ("pyproject.toml", "README.md", "LICENSE")
EXTRAS = ("deepspeed", "gradio", "openai", "pytest", "hypothesis", "ruff", "mypy", "playwright")
GIBIBYTES = 12  # that torch and its libraries take while they are unpacked
ANSWERS = ["red", "blue"]
ASK = """
import importlib.util, json, sys
from vle_lightning.inference import pipeline
found = pipeline("vqa", sys.argv[1])(image=sys.argv[2], question="what colour is it?")
extras = [name for name in sys.argv[3:] if importlib.util.find_spec(name)]
import vle_lightning
print(json.dumps({"answers": found, "extras": extras, "file": vle_lightning.__file__}))
"""


@pytest.fixture(scope="module")
def python() -> Iterator[Path]:
    """Install a copy of the sources into a fresh environment; give its interpreter. VLE_INSTALLED names a made one."""
    if made := os.environ.get("VLE_INSTALLED"):
        yield Path(made)
        return
    with tempfile.TemporaryDirectory() as place:  # not pytest's folder, which would keep gigabytes
        if shutil.disk_usage(place).free < GIBIBYTES << 30:
            pytest.skip(f"less than {GIBIBYTES} GiB are free in {place}")
        source = Path(place) / "source"
        for name in PACKAGES:
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in FILES:
            shutil.copy(ROOT / name, source)
        environment = Path(place) / "environment"
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        install = ["install", "--quiet", "--no-compile", str(source), "-c", str(ROOT / "constraints.txt")]
        subprocess.run([environment / "bin" / "python", "-m", "pip", *install], check=True)
        yield environment / "bin" / "python"


def test_the_core_loads_and_runs_an_export(python: Path, tmp_path: Path) -> None:
    train_tokenizer(["what colour is it", "the car is red or blue"], tmp_path / "tokenizer", 60)
    task = VQATask("tiny", answers=len(ANSWERS))
    task.labels = ANSWERS
    task.save_pretrained(tmp_path / "exported")
    Processor.prepared(str(tmp_path / "tokenizer"), 48).save_pretrained(tmp_path / "exported")
    Image.new("RGB", (48, 48), "red").save(tmp_path / "car.png")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), "-c", ASK, str(tmp_path / "exported"), str(tmp_path / "car.png"), *EXTRAS]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert {row["answer"] for row in found["answers"]} == set(ANSWERS)
    assert found["extras"] == []
    assert not Path(found["file"]).is_relative_to(ROOT)
    shell = [
        str(python),
        "-m",
        "vle_lightning",
        "ask",
        "car.png",
        "what colour?",
        "--model",
        "exported",
        "--top_k",
        "1",
    ]
    run = subprocess.run(shell, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])[0]["answer"] in ANSWERS
