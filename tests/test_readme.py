"""The README and its pages: commands that exist, links that lead somewhere, numbers that are those of their source."""

from __future__ import annotations

import contextlib
import io
import re
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.pages import ROOT, Command, Row, anchors, blocks, broken_links, commands, tables
from vle_lightning.cli import main
from vle_lightning.experiment import read_settings
from vle_lightning.tasks.pretrain import PretrainTask

README = ROOT / "README.md"
RESULTS = ROOT / "docs" / "results.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))
MOST = 8 * 1024  # bytes of the README
FITS = ("fit", "validate", "test", "predict")
NO_TARGETS = {"finetune-TASK"}  # stands for all of them
PLACEHOLDER = re.compile(r"FILE|NAME|\.\.\.|my\.yaml")


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def measured() -> dict[tuple[str, str], Row]:
    """Return the rows of our own runs in experiments/README.md by run and score."""
    rows = [row for table in tables(read(ROOT / "experiments" / "README.md")) for row in table]
    return {(row["run or system"], row["score"]): row for row in rows if row["whose"] == "ours"}


def table_with(text: str, *titles: str) -> list[Row]:
    """Return the one table with these columns."""
    (table,) = [rows for rows in tables(text) if set(titles) <= rows[0].keys()]
    return table


def wrong_scores(text: str) -> list[str]:
    """Return the cells of the README's scores that are not those of experiments/README.md."""
    wrong = []
    for row in table_with(text, "run", "score"):
        run, score = row["run"].strip("`"), row["score"]
        source = measured()[run, score]
        pairs = [("value", "%"), ("without the picture", "without the picture"), ("floor", "floor")]
        wrong += [f"{run} {score}: {row[a]}" for a, b in pairs if row[a] != source[b].strip("*")]
    return wrong


def wrong_speeds(text: str) -> list[str]:
    """Return the rows of the README's speeds that do not stand in docs/results.md with the same words."""
    known = table_with(read(RESULTS), "what", "compared with")
    whole = [{title: row[title] for title in ("what", "value", "compared with")} for row in known]
    return [row["what"] for row in table_with(text, "what", "compared with") if row not in whole]


def wrong_output(text: str) -> list[str]:
    """Return the printed lines that docs/results.md does not have under the same file."""
    known = {name: lines for block in blocks(read(RESULTS)) for name, lines in printed(block)}
    given = [part for block in blocks(text) for part in printed(block)]
    assert given
    return [line for name, lines in given for line in lines if line not in known[name]]


def printed(block: str) -> list[tuple[str, list[str]]]:
    """Return name and lines of each metrics.json that a block prints."""
    parts = [part.splitlines() for part in block.split("\n\n")]
    return [(lines[0], lines[1:]) for lines in parts if lines[0].endswith("metrics.json:")]


def wrong_minutes(text: str) -> list[str]:
    """Return the durations that are not those of the runs."""
    found = re.search(r"first takes ([\d.]+), ([\d.]+) and ([\d.]+) minutes, the second ([\d.]+) to ([\d.]+) for", text)
    assert found
    vcr = sorted(float(row["minutes"]) for (run, _), row in measured().items() if run.startswith("vcr-toy_"))
    stages = [
        measured()[run, "pbc_iou"]["minutes"]
        for run in ("pretrain-toy_regions", "pretrain-toy_relations", "pretrain-toy")
    ]
    expected = [*stages, str(vcr[0]), str(vcr[-1])]
    return [given for given, truth in zip(found.groups(), expected, strict=True) if given != truth]


CHECKS: list[Callable[[str], list[str]]] = [wrong_scores, wrong_speeds, wrong_output, wrong_minutes]


def test_the_readme_is_short() -> None:
    assert len(README.read_bytes()) < MOST


@pytest.mark.parametrize("check", CHECKS)
def test_the_numbers_are_those_of_their_source(check: Callable[[str], list[str]]) -> None:
    assert check(read(README)) == []


@pytest.mark.parametrize(
    ("right", "wrong", "check"),
    [
        ("| 95.6 |", "| 94.8 |", wrong_scores),
        ("| 67.1 †", "| 67.2 †", wrong_scores),
        ("| 2.59 times", "| 2.95 times", wrong_speeds),
        ("0.9684", "0.9657", wrong_output),
        ("28.3 minutes", "24.3 minutes", wrong_minutes),
    ],
)
def test_a_changed_number_is_found(right: str, wrong: str, check: Callable[[str], list[str]]) -> None:
    assert right in read(README)
    assert len(check(read(README).replace(right, wrong))) == 1


def test_the_size_of_the_toy_model_is_counted() -> None:
    (told,) = re.findall(r"model of ([\d.]+) M parameters", read(README))
    options = yaml.safe_load(read(ROOT / "experiments" / "pretrain" / "toy.yaml"))["model"]
    task = PretrainTask(options["architecture"], classes=options["classes"])
    assert f"{sum(p.numel() for p in task.parameters()) / 1e6:.1f}" == told


def test_the_page_of_results_agrees_with_the_table_of_all_runs() -> None:
    compared = 0
    for row in table_with(read(RESULTS), "run, score"):
        named = re.fullmatch(r"`([\w-]+)` ([\w@, ]+)", row["run, score"])
        if named is None:  # of the log, or of a file that is not in the repository
            continue
        scores = named[2].split(", ")
        sources = [measured()[named[1], score] for score in scores]
        assert row["value"].split(", ") == [as_share(source["%"]) for source in sources], row["what"]
        for words, column in (("without pictures", "without the picture"), ("ceiling", "ceiling")):
            if given := re.search(rf"{words} ([\d.]+(?:, [\d.]+)*)", row["beside it"]):
                assert given[1].split(", ") == [as_share(source[column]) for source in sources], row["what"]
        compared += 1
    assert compared >= 14


def as_share(percent: str) -> str:
    """Write a percentage of the table as a share."""
    return f"{float(percent.strip('* †')) / 100:.3f}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_exist(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_has_the_targets_and_variables(page: Path) -> None:
    for command in commands(read(page)):
        if command.module is None:
            words = [word for word in command.words[1:] if "=" not in word and word != "..."]
            assert set(words) - NO_TARGETS <= TARGETS, command
            assert all(re.search(rf"\b{name}\b", MAKEFILE) for name in command.variables), command


@cache
def help_of(name: str) -> str:
    """Return the help of a command beside those of Lightning."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        main([name, "--help"])
    return told.getvalue()


def as_module_call(command: Command) -> Sequence[str]:
    """Return the arguments of ``python -m vle_lightning`` that a command ends up with; none where make does more."""
    if command.module == "vle_lightning":
        return command.words[3:]
    variables = command.variables
    arguments = Command(variables.get("ARGS", "").split())
    if command.module is None and command.words[1] == "plan":
        return ["plan", *arguments.words]
    return ["fit", "--config", variables["EXPERIMENT"], *arguments.words] if "EXPERIMENT" in variables else []


@pytest.mark.parametrize("page", ["README.md", "docs/running.md"])
def test_commands_parse(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    calls = [as_module_call(command) for command in commands(read(ROOT / page))]
    checked = 0
    for call in calls:
        if not call or any(PLACEHOLDER.search(word) for word in call):
            continue
        if call[0] in FITS:
            options = [word for word in call[1:] if word not in ("--ckpt_path", "auto")]  # of fit alone
            assert read_settings(options)["task"] == Path(call[call.index("--config") + 1]).parent.name
        else:
            assert all(f"--{option}" in help_of(call[0]) for option in Command(call).options), call
        checked += 1
    assert checked >= 3


def test_python_in_the_readme_compiles_and_imports() -> None:
    (example,) = blocks(read(README), "python")
    compile(example, "README.md", "exec")
    assert "from vle_lightning.inference import pipeline" in example


def test_versions_extras_and_published_names_are_those_of_the_project() -> None:
    text, project = read(README), tomllib.loads(read(ROOT / "pyproject.toml"))["project"]
    assert re.findall(r"Python ([\d.]+) or newer", text) == [project["requires-python"].removeprefix(">=")]
    (extras,) = re.findall(r"\(extras: ([^)]+)\)", text)
    assert re.findall(r"`(\w+)`", extras) == list(project["optional-dependencies"])
    published = {row["source"] for row in yaml.safe_load(read(ROOT / "checkpoints" / "manifest.yaml"))}
    named = set(re.findall(r"hfl/[\w-]+", text))
    assert named
    assert named <= published


def test_stages_and_steps_are_those_of_the_makefile() -> None:
    (told,) = re.findall(r"pre-trains .* on it in (\w+) stages", read(README))
    recipe = re.search(r"^pretrain:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert recipe
    stages = re.findall(r"experiments/pretrain/toy\w*\.yaml", recipe[1])
    assert ["one", "two", "three", "four"].index(told) + 1 == len(set(stages))


def test_anchors_are_those_of_github() -> None:
    assert anchors("# What `make x` prints\n## Many GPUs, and runs\n") == {"what-make-x-prints", "many-gpus-and-runs"}
