"""Every number among the options has a domain; what lies outside ends with one sentence."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from vle_lightning.cli import main
from vle_lightning.domains import DOMAINS, Domain, numbers
from vle_lightning.errors import UserError
from vle_lightning.experiment import read_settings, task_names
from vle_lightning.optim import OptimConfig

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
PRETRAIN = EXPERIMENTS / "pretrain" / "toy.yaml"
WRONG = [
    ("seed_everything", "1e20", "at most 4,294,967,295"),
    ("seed_everything", "99999999999999999999", "at most 4,294,967,295"),
    ("trainer.gradient_clip_val", ".nan", "finite"),
    ("trainer.gradient_clip_val", "-1", "not negative"),
    ("model.optim.betas", "[2, 2]", "below 1"),
    ("model.optim.betas", "[0.9, .nan]", "finite"),
    ("model.optim.lr", ".inf", "finite"),
    ("model.optim.lr", "1e308", "at most 100"),
    ("data.cache_gb", ".inf", "finite"),
    ("hang_timeout", ".inf", "finite"),
    ("hang_timeout", "1e15", "at most"),
    ("model.classes", "-3", "at least 1"),
    ("model.objectives", "{mlm: .inf}", "finite"),
    ("model.objectives", "{mlm: -1}", "negative"),
    ("max_skipped", ".nan", "finite"),
    ("max_skipped", "2", "share from 0 to 1"),
    ("data.sources", "{coco: .nan}", "finite"),
    ("data.image_size", "0", "at least 1"),
    ("trainer.max_steps", "-7", "at least -1"),
]


IN_A_FILE = ("model.optim.betas", "data.sources", "max_skipped", "seed_everything")  # of each depth and type


@pytest.mark.parametrize(
    ("key", "value", "hint", "in_a_file"),
    [
        *((*wrong, False) for wrong in WRONG),
        *(pytest.param(*w, True, marks=() if w[0] in IN_A_FILE else pytest.mark.slow) for w in WRONG),
    ],
)
def test_a_value_outside_of_its_domain_is_one_sentence(
    key: str, value: str, hint: str, in_a_file: bool, tmp_path: Path
) -> None:
    given = ["--config", str(_file(tmp_path / "wrong.yaml", key, value))] if in_a_file else [f"--{key}={value}"]
    with pytest.raises(UserError) as told:
        read_settings(["--config", str(PRETRAIN), *given])
    message = str(told.value)
    assert key in message
    assert hint in message or "int" in message  # a file's 1e20 is no integer at all
    assert "\n" not in message
    assert message.startswith(str(tmp_path) if in_a_file else "command line: ")


def test_the_command_line_ends_with_that_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(PRETRAIN), "--data.cache_gb=.inf"]) == 2
    assert capsys.readouterr().err.startswith("error: command line: data.cache_gb")


LONG = "x" * 300


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        *((key, LONG, "File name too long") for key in ("ckpt_path", "data.root", "data.classes", "model.init")),
        *((key, "loop", "symbolic links") for key in ("data.tokenizer", "run_root")),
    ],
)
def test_a_path_that_no_file_has_is_one_sentence(
    key: str, value: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    assert main(["fit", "--config", str(PRETRAIN), f"--{key}={value}"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: command line: {key}: ")
    assert told in message
    assert LONG not in message


def test_a_long_name_of_an_experiment_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", f"{LONG}.yaml"]) == 2
    assert capsys.readouterr().err.startswith("error: --config: ")


@pytest.mark.parametrize("value", ["caf\udce9", "a\0b"])
def test_a_command_line_that_is_no_text_is_one_sentence(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(PRETRAIN), "--data.root", value]) == 2
    assert "holds a byte that no text has" in capsys.readouterr().err


def test_runs_are_kept_in_folders(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(PRETRAIN), "--run_root", "http://127.0.0.1:9/x"]) == 2
    assert "run_root is http://127.0.0.1:9/x; runs are kept in a folder" in capsys.readouterr().err


def test_experiments_and_defaults_lie_within_their_domains() -> None:
    settings = read_settings(["--config", str(PRETRAIN)])
    assert {"trainer.gradient_clip_val", "model.optim.betas", "seed_everything"} <= {
        key for key, _ in numbers(settings)
    }


def test_every_number_of_every_task_has_a_domain() -> None:
    free = ("trainer.", "data.sources.", "data.seed", "model.seed", "model.architecture.", "model.objectives.")
    lacking = set()
    for task in task_names():
        file = next((EXPERIMENTS / task).glob("*.yaml"))
        found = {key for key, _ in numbers(read_settings(["--config", str(file)]))}
        lacking |= {key for key in found if key not in DOMAINS and not key.startswith(free)}
    assert lacking == set()


def test_a_domain_says_what_it_is() -> None:
    assert math.nan not in Domain(0, 1)
    assert str(Domain(above=0, most=1)) == "it must be above 0 and at most 1"
    assert str(Domain(least=0, below=1)) == "it must be at least 0 and below 1"


@pytest.mark.parametrize(
    "config",
    [OptimConfig(betas=(2, 2)), OptimConfig(lr=math.inf), OptimConfig(weight_decay=math.nan)],
)
def test_the_optimiser_refuses_such_values_without_the_command_line(config: OptimConfig) -> None:
    with pytest.raises(UserError, match=r"model\.optim"):
        config.check()


def test_an_open_quote_in_sbatch_options_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["--nodes", "1", "--time", "1:00:00", "--sbatch=--mem='4"]
    assert main(["slurm", "write", "--experiment", str(PRETRAIN), *job, "--", "--run_root", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "--sbatch" in message
    assert "close each quote" in message
    assert not list(tmp_path.iterdir())


def _file(file: Path, key: str, value: str) -> Path:
    *groups, name = key.split(".")
    lines = [f"{'  ' * depth}{group}:" for depth, group in enumerate(groups)]
    file.write_text("\n".join([*lines, f"{'  ' * len(groups)}{name}: {value}"]) + "\n")
    return file
