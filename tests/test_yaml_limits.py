"""YAML that is too much is refused before anything is built from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vle_lightning.cli import main
from vle_lightning.errors import UserError
from vle_lightning.slurm.status import batch_size
from vle_lightning.yaml_limits import MOST_ALIASES, MOST_DEPTH, check_arguments, check_yaml, read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
HOSTILE = {
    "bomb": (BOMB, "stands for more than 100,000 values"),
    "bomb of merges": (BOMB.replace("[x, x, x, x, x, x, x, x, x]", "{x: 1}") + "z: {<<: *a9}", "stands for more"),
    "cycle": ("data: &a {sources: *a}", "inside of what it names"),
    "cycle of lists": ("data: &a [1, [*a]]", "inside of what it names"),
    "deep": ("data: " + "[" * 2000 + "]" * 2000, "nested more than 50 deep"),
    "deep blocks": ("".join(f"{' ' * n}a:\n" for n in range(200)), "nested more than 50 deep"),
    "aliases": ("a: &a 1\nb: [" + ", ".join(["*a"] * (MOST_ALIASES + 1)) + "]", "more than 1,000 aliases"),
    "date": ("a: 2020-13-45", "no YAML"),
    "undefined": ("a: *nothing", "undefined alias"),
    "not UTF-8": ("a: \udcff", "no YAML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_yaml_is_one_sentence_that_names_the_file(name: str, tmp_path: Path) -> None:
    text, hint = HOSTILE[name]
    file = tmp_path / "wild.yaml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=hint) as told:
        read_yaml(file)
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "command",
    [
        ["fit", "--config", "{}"],
        ["plan", "--gpus", "8", "--gpu", "h100", "--config", "{}"],
        ["slurm", "write", "--nodes", "1", "--time", "1:00:00", "--experiment", "{}"],
        ["study", "{}", "--out", "x"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("name", ["bomb", "cycle", "deep"])
def test_every_command_on_experiments_refuses_it(
    command: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, hint = HOSTILE[name]
    (tmp_path / "wild.yaml").write_text(text)
    assert main([part.format(tmp_path / "wild.yaml") for part in command]) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bomb", "cycle", "deep"])
def test_values_on_the_command_line_are_bounded_too(name: str, tmp_path: Path) -> None:
    text, hint = HOSTILE[name]
    (tmp_path / "model.yaml").write_text(text)
    for arguments in (["fit", f"--data={text}"], ["fit", "--data", text], ["--model", str(tmp_path / "model.yaml")]):
        with pytest.raises(UserError, match=hint):
            check_arguments(arguments)


def test_values_are_counted_without_aliases_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vle_lightning.yaml_limits.MOST_NODES", 100)
    with pytest.raises(UserError, match="stands for more than 100 values"):
        check_yaml("a: [" + "1, " * 101 + "]", "here")


def test_a_folder_with_such_a_config_has_no_batch_size(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(BOMB)
    assert batch_size(tmp_path) is None


def test_plain_use_of_aliases_and_depth_is_read(tmp_path: Path) -> None:
    deep = "[" * (MOST_DEPTH - 1) + "]" * (MOST_DEPTH - 1)
    (tmp_path / "fine.yaml").write_text(f"a: &a {{x: 1}}\nb: {{<<: *a, y: 2}}\nc: [*a, *a]\nd: {deep}\n")
    content = read_yaml(tmp_path / "fine.yaml")
    assert isinstance(content, dict)
    assert content["b"] == {"x": 1, "y": 2}
    check_yaml("answers: [" + "yes, " * 3129 + "]", "here")
    check_arguments(["fit", "--data.sources", "{coco: 1.0}", "--run_name", "a: b: {", "-x", "--max_skipped=-1"])


def test_a_key_that_is_given_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("task: pretrain\ndata: {root: a}\ntask: vqa\n")
    with pytest.raises(UserError, match=r"the key 'task' is given twice.*line 3"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("a: &a {x: 1}\nb: &b {y: 2}\nc: {<<: *a, <<: *b, z: 3}\n")
    assert read_yaml(tmp_path / "b.yaml") == {"a": {"x": 1}, "b": {"y": 2}, "c": {"x": 1, "y": 2, "z": 3}}
