"""The models of the demo: each is loaded once, and says which tabs it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import torch

from vle_lightning.demo.batches import Batcher
from vle_lightning.errors import UserError
from vle_lightning.hub.pretrained import read_pretrained
from vle_lightning.inference.base import Pipeline
from vle_lightning.inference.pipelines import pipeline
from vle_lightning.models.backbone import Backbone

ResultT = TypeVar("ResultT")
BATCH = 8  # requests that are answered together
FLOAT = "float32"  # of commands that name no other


class Use(NamedTuple):
    """A kind of pipeline that a tab needs."""

    head: str  # its published name
    told: str  # what the head is for
    make: str  # how to get a model that has it
    options: dict[str, Any]  # of every call


TOP = 5  # answers or words
USES = {
    "vqa": Use(
        "vqa_classifier",
        "visual question answering (VQA)",
        "`make pretrain`, then `make finetune-vqa` (gives `checkpoints/vqa-toy`); published: `hfl/vle-base-for-vqa`",
        {"top_k": TOP, "attention": True},
    ),
    "pbc": Use(
        "pbc_classifier",
        "patch-box classification (PBC)",
        "`make pretrain` (gives `checkpoints/pretrain-toy`); published: `hfl/vle-base`",
        {"draw": None},
    ),
    "itm": Use(
        "itm_score",
        "image-text matching (ITM)",
        "`make pretrain` (gives `checkpoints/pretrain-toy`); published: `hfl/vle-base`",
        {},
    ),
    "mlm": Use(
        "mlm_score",
        "masked language modelling (MLM)",
        "`make pretrain` (gives `checkpoints/pretrain-toy`); published: `hfl/vle-base`",
        {"top_k": TOP},
    ),
    "vcr-q2a": Use(
        "vcr_q2a_logit",
        "VCR's answers (Q->A)",
        "`make pretrain`, then `make finetune-vcr` (gives `checkpoints/vcr-toy_q2a`); published: "
        "`hfl/vle-base-for-vcr-q2a`",
        {},
    ),
    "vcr-qa2r": Use(
        "vcr_qa2r_logit",
        "VCR's rationales (QA->R)",
        "`make pretrain`, then `make finetune-vcr` (gives `checkpoints/vcr-toy_qa2r`); published: "
        "`hfl/vle-base-for-vcr-qa2r`",
        {},
    ),
    "retrieve": Use(
        "itc",
        "image-text contrast (ITC)",
        "`make pretrain-vlmo` (gives `checkpoints/pretrain-vlmo_toy`), then, for better scores, `.venv/bin/python -m "
        "vle_lightning fit --config experiments/dual_retrieval/vlmo_toy.yaml`",
        {},
    ),
}


class Model:
    """One checkpoint, with a pipeline for each of its heads."""

    def __init__(
        self,
        source: str,
        name: str,
        tokenizer: str | None = None,
        answers: str | None = None,
        device: str | None = None,
        dtype: str = FLOAT,
    ) -> None:
        """Load a checkpoint.

        Args:
            source: run folder, exported folder, hub name or published file.
            name: that the page calls it by.
            tokenizer: for a checkpoint that comes with neither tokenizer nor image settings.
            answers: JSON file that names the answers of a VQA head without names.
            device: a GPU by default, where there is one.
            dtype: of the computation.

        Raises:
            UserError: it cannot be read, or has no head that a tab needs.
        """
        self.source, self.name, self.turn = source, name, Lock()
        self.tokenizer, self.answers, self.dtype = tokenizer, answers, dtype
        heads = read_pretrained(source).heads
        kinds = [kind for kind, use in USES.items() if use.head in heads]
        if not kinds:
            wanted = ", ".join(f"{use.head} ({use.told})" for use in USES.values())
            raise UserError(f"{source} has none of the heads that the demo shows: {wanted}; name another checkpoint")
        self.pipelines: dict[str, Pipeline] = {}
        for kind in kinds:
            own_answers = answers if kind == "vqa" else None
            self.pipelines[kind] = pipeline(
                kind, source, tokenizer=tokenizer, answers=own_answers, device=device, dtype=dtype, batch_size=BATCH
            )
        self.encoder, *others = [found.encoder for found in self.pipelines.values()]
        for other in others:
            share_weights(self.encoder, other)
        self.batchers = {
            kind: Batcher(partial(answer_batch, partial(found, **USES[kind].options)), BATCH, self.turn)
            for kind, found in self.pipelines.items()
            if kind != "retrieve"  # an index is searched by one call
        }

    @property
    def device(self) -> torch.device:
        """Return where the model computes."""
        return next(iter(self.pipelines.values())).settings.device

    @property
    def options(self) -> list[str]:
        """Return the options by which a command loads the same model."""
        given = {"--tokenizer": self.tokenizer, "--answers": self.answers}
        given["--dtype"] = None if self.dtype == FLOAT else self.dtype
        told = [part for name, value in given.items() if value is not None for part in (name, value)]
        return ["--model", self.source, *told]

    def answer(self, kind: str, **item: object) -> Any:  # noqa: ANN401 (the pipeline's result)
        """Answer one request, in a batch with others of its kind that wait at the same time.

        Raises:
            UserError: the model has no head for it, or the input is wrong.
        """
        self.pipeline(kind)
        return self.batchers[kind](item)

    def answer_all(self, kind: str, items: Sequence[dict[str, object]]) -> list[Any]:
        """Answer several requests of one visitor in a row of batches.

        Raises:
            UserError: as `answer` does.
        """
        found: Callable[..., list[Any]] = self.pipeline(kind)
        return self.alone(lambda: found(items, **USES[kind].options))

    def alone(self, compute: Callable[[], ResultT]) -> ResultT:
        """Compute something while no batch of this model is computed."""
        with self.turn:
            return compute()

    def pipeline(self, kind: str) -> Pipeline:
        """Return a pipeline.

        Raises:
            UserError: the model has no head for it.
        """
        if kind not in self.pipelines:
            raise UserError(f"The model {self.name} has no head for {USES[kind].told}: choose another model.")
        return self.pipelines[kind]


class Models:
    """All models of the page, by name."""

    def __init__(self, models: Iterable[Model]) -> None:
        self.by_name = {model.name: model for model in models}

    def serving(self, kind: str) -> list[str]:
        """Return the names of the models that have a head for a kind."""
        return [name for name, model in self.by_name.items() if kind in model.pipelines]

    def find(self, name: str | None) -> Model:
        """Return a model.

        Raises:
            UserError: the page has none of that name.
        """
        if name is None or name not in self.by_name:
            raise UserError("No model of this name is loaded: choose one of the list.")
        return self.by_name[name]

    @staticmethod
    def missing(kind: str) -> str:
        """Say, for a page, that no model has a head, and how to get one."""
        use = USES[kind]
        return (
            f"None of the models has a head for {use.told}.\n\nHow to get one: {use.make}. Then start the demo with "
            'it: `make demo MODEL="... NEW"`.'
        )


def answer_batch(ask: Callable[[object], Any], items: Sequence[Mapping[str, object]]) -> list[Any]:
    """Ask a pipeline for several items; a single one is asked for as such, so that messages do not number it."""
    return [ask(items[0])] if len(items) == 1 else list(ask(list(items)))


def short_names(sources: Sequence[str]) -> list[str]:
    """Name sources by the end of their path, as long as it takes to tell them apart."""
    parts = [Path(source).parts for source in sources]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = [str(Path(*part[-length:])) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"a model is named twice: {', '.join(sources)}; name each once")


def share_weights(kept: Backbone, other: Backbone) -> None:
    """Let a second encoder read the weights of the first one, where they are equal, and free its own."""
    first = dict(kept.named_parameters())
    for name, weight in other.named_parameters():
        twin = first.get(name)
        if twin is not None and twin.shape == weight.shape and torch.equal(twin, weight):
            weight.data = twin.data
