"""What TensorBoard shows beside the curves: a layout of charts, the run's command and options, and hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from vle_lightning.callbacks.recorder import RunLogger, git_state, versions
from vle_lightning.tasks.base import VisionLanguageTask

Chart = tuple[str, list[str]]  # TensorBoard's kind of chart, and regular expressions of the tags in it
Layout = dict[str, dict[str, Chart]]  # by category and title
Value = bool | int | float | str
COMPARED = {  # names of options by which the runs of a study are compared: HParams shows the first five of the alphabet
    "model.architecture": "architecture",
    "data.global_batch_size": "batch",
    "model.blind": "blind",
    "model.init": "init",
    "model.optim.lr": "lr",
    "data.image_size": "pixels",
    "seed_everything": "seed",
    "trainer.max_steps": "steps",
}
FIXED: Layout = {  # equal in all runs: TensorBoard merges the layouts of runs, and shows charts that differ twice
    "Losses": {
        "loss": ("Multiline", ["(train|val)/loss$"]),
    },
    "Scores": {},
    "Speed": {
        "samples per second": ("Multiline", ["speed/samples_per_second$"]),
        "share of the time spent waiting for data": ("Multiline", ["speed/data_wait_share$"]),
        "TFLOP/s of a device": ("Multiline", ["speed/tflops_per_device$"]),
    },
    "Health": {
        "gradient norm before clipping": ("Multiline", ["speed/gradient_norm$"]),
        "learning rates": ("Multiline", ["lr/"]),
        "bad steps and skipped samples": ("Multiline", ["health/bad_steps$", "skipped/"]),
    },
}
OF_OBJECTIVES: dict[str, Chart] = {
    "loss of each objective, training": ("Multiline", ["train/.+_loss$"]),
    "loss of each objective, validation": ("Multiline", ["val/.+_loss$"]),
}
ON_GPU: dict[str, Chart] = {"GPU memory, GiB": ("Multiline", ["speed/memory_.+_gib$"])}


class Dashboard(Callback):
    """Writes text, hyperparameters and the layout at the start of a fit, floors and ceilings at each validation."""

    def __init__(
        self,
        config: Path,
        settings: Mapping[str, object],
        command: str,
        references: Callable[[], Mapping[str, float]],
    ) -> None:
        """Take what is shown.

        Args:
            config: file with the merged options of the run.
            settings: the same options, nested.
            command: that started the run.
            references: returns floors and ceilings by name, such as ``floor/vqa_accuracy``.
        """
        self.config, self.settings, self.command = config, settings, command
        self._references = references

    def on_fit_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Write what is known from the start; a resumed run adds its own command at its first step."""
        names, own = list[str](), list[str]()
        if isinstance(task, VisionLanguageTask):
            names, own = score_names(task, self._references()), task.score_names
        several = any(name.endswith("_loss") for name in own)
        charts = layout(names, with_objectives=several, on_gpu=task.device.type == "cuda")
        for logger in run_loggers(trainer):
            step = trainer.global_step
            logger.log_layout(charts)
            logger.log_text("run/command", describe(self.command, task), step)
            if self.config.is_file():
                logger.log_text("run/config", code_block(self.config.read_text(encoding="utf-8")), step)
            logger.start_session(hyperparameters(self.settings), [f"val/{name}" for name in names] or ["val/loss"])

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Begin the lines of floors and ceilings."""
        self._log_references(trainer)

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Continue the lines of floors and ceilings."""
        if not trainer.sanity_checking:
            self._log_references(trainer)

    def on_fit_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Mark the run as finished."""
        for logger in run_loggers(trainer):
            logger.end_session()

    def _log_references(self, trainer: L.Trainer) -> None:
        for logger in run_loggers(trainer):
            logger.log_metrics(self._references(), max(trainer.global_step - 1, 0))  # Lightning counts from 0


def run_loggers(trainer: L.Trainer) -> list[RunLogger]:
    """Return the loggers of the run folder; an experiment's own get Lightning's scalars and pictures alone."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]


def score_names(task: VisionLanguageTask, references: Mapping[str, float]) -> list[str]:
    """Return the names of a task's scores, without split: its own, the one that selects, those with a floor.

    A task that names its scores gets no chart of floors alone, such as QA->R's in a run of Q->A.
    """
    own = [name for name in task.score_names if not is_loss(name)]
    known = [] if own else [name.split("/", 1)[1] for name in references]
    names = [*own, task.monitor.split("/", 1)[1], *known]
    return [name for name in dict.fromkeys(names) if not is_loss(name)]


def is_loss(name: str) -> bool:
    """Is it the name of a loss?"""
    return name == "loss" or name.endswith("_loss")


def layout(names: Sequence[str], *, with_objectives: bool = False, on_gpu: bool = False) -> Layout:
    """Return the charts of a run: one for each score, where its floor and ceiling stand beside it."""
    escaped = {name: "".join(f"\\{c}" if c in "@.+" else c for c in name) for name in names}
    scores: dict[str, Chart] = {
        name: ("Multiline", [f"(train|val|test|floor|ceiling)/{escaped[name]}$"]) for name in names
    }
    scores["all validation scores"] = ("Multiline", ["val/(?!(.+_)?loss$)"])
    losses = {**FIXED["Losses"], **(OF_OBJECTIVES if with_objectives else {})}
    speed = {**FIXED["Speed"], **(ON_GPU if on_gpu else {})}
    return {**FIXED, "Losses": losses, "Scores": scores, "Speed": speed}


def describe(command: str, task: L.LightningModule) -> str:
    """Return command, commit, start weights and versions as a list in Markdown; TensorBoard's tables are too narrow."""
    state = git_state()
    rows = {
        "command": f"`{command}`",
        "commit": f"{state['commit'] or 'not in a repository'}{' (modified files)' if state['modified'] else ''}",
        "start weights": str(getattr(task, "load_report", None) or "random"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    return "\n".join(f"- **{name}**: {' '.join(told.split())}" for name, told in rows.items())


def code_block(text: str) -> str:
    """Return a text as a code block in Markdown."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def hyperparameters(settings: Mapping[str, object]) -> dict[str, Value]:
    """Return the options that runs are compared by: few with short names, and the others of the model but lists."""
    flat = dict(flatten(settings))
    if any(name.startswith("model.architecture.") for name in flat):
        flat["model.architecture"] = "composed in the experiment"
    rest = (name for name in flat if name.startswith("model.") and not name.startswith("model.architecture."))
    return {COMPARED.get(name, name): flat[name] for name in (*COMPARED, *rest) if name in flat}


def flatten(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Yield each option that is one value, with its dotted name."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif isinstance(value, bool | int | float | str):
            yield prefix + name, value
