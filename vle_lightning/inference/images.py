"""Pipelines on pictures without texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from vle_lightning.inference.base import Pipeline, Settings, load_task
from vle_lightning.inference.items import Item, check_count
from vle_lightning.inference.runs import run_settings
from vle_lightning.tasks.classification import ClassificationTask


class ClassifyPipeline(Pipeline):
    """Says of which class a picture is."""

    def __init__(self, settings: Settings) -> None:
        """Load a model of image classification; classes are named by the source, or numbered."""
        self.task = load_task(ClassificationTask, settings.source, ClassificationTask.task_name())
        super().__init__(settings, self.task, self.task.model)
        run = run_settings(settings.source)
        self.names = list((run and run.classes) or self.task.class_names())

    def __call__(
        self, items: object = None, *, image: object = None, top_k: int = 5, batch_size: int | None = None
    ) -> Any:  # noqa: ANN401 (one result or many)
        """Return, for each picture, the ``top_k`` best classes: [{"class", "score"}, ...]; scores are a softmax."""
        check_count("top_k", top_k)
        return self._run(items, partial(self._answer, top_k), batch_size, {"image": "image"}, image=image)

    def _answer(self, top_k: int, items: Sequence[Item]) -> list[list[dict[str, object]]]:
        seen = self.look(items)
        logits = self.finite(self.task.head(self.task.pool(seen.pixel_values)[seen.rows])).float()
        best = logits.softmax(-1).topk(min(top_k, len(self.names)))
        return [
            [{"class": self.names[number], "score": share} for share, number in zip(*row, strict=True)]
            for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
