"""Pipelines on one picture and one text: VQA, ITM, PBC, MLM and features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.hub.pretrained import from_pretrained, read_pretrained
from vle_lightning.inference.base import Pipeline, Settings, load_task
from vle_lightning.inference.items import Item, check_count
from vle_lightning.inference.pictures import OPACITY, draw_heat, stretch
from vle_lightning.inference.runs import run_settings
from vle_lightning.inference.vectors import HEAD, DualEncoder
from vle_lightning.objectives.itm import ImageTextMatching
from vle_lightning.objectives.mlm import MaskedLanguageModelling
from vle_lightning.objectives.pbc import PatchBoxClassification
from vle_lightning.streams import Fused
from vle_lightning.tasks.looks import patch_heat
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.vqa import VQATask

MASK = "[MASK]"  # in texts, whatever the tokenizer calls it
DRAWN = ("probabilities", "heatmap")


class VQAPipeline(Pipeline):
    """Answers questions about pictures."""

    text_name = "question"

    def __init__(self, settings: Settings) -> None:
        """Load a VQA model; answers are named by the source, or numbered where it has no names."""
        self.task = load_task(VQATask, settings.source, "vqa_classifier")
        super().__init__(settings, self.task, self.task.model)
        run = None if settings.tokenizer else run_settings(settings.source)
        count = int(self.task.options["answers"])
        named = settings.answers or (run and run.answers) or self.task.labels
        self.answers = list(named) if named else [str(number) for number in range(count)]
        if len(self.answers) != count:
            raise UserError(f"{settings.source} names {len(self.answers)} answers, its head has {count}")

    def __call__(
        self,
        items: object = None,
        *,
        image: object = None,
        question: object = None,
        top_k: int = 5,
        attention: bool = False,
        batch_size: int | None = None,
    ) -> Any:  # noqa: ANN401 (one result or many)
        """Return, for each question, the ``top_k`` best answers: [{"answer", "score"}, ...].

        Scores are the softmax over all answers, as in the published pipeline. With ``attention`` a result is
        {"answers": these, "attention": rows of the patch grid}: the share of the last fusion layer's attention that
        each patch gets from the pooled state, all heads averaged.
        """
        check_count("top_k", top_k)
        respond = self._answer_and_watch if attention else self._answer
        return self._run(items, partial(respond, top_k), batch_size, image=image, question=question)

    def _answer_and_watch(self, top_k: int, items: Sequence[Item]) -> list[dict[str, object]]:
        seen = self.look(items)
        with self.encoder.watch() as weights:
            fused = self.fuse(seen, self.texts(items))
        heat = patch_heat(weights[0], self.encoder.layout, seen.pixel_values)
        watched = [None] * len(items) if heat is None else heat.float().tolist()
        return [
            {"answers": answers, "attention": rows}
            for answers, rows in zip(self._best(top_k, fused), watched, strict=True)
        ]

    def _answer(self, top_k: int, items: Sequence[Item]) -> list[list[dict[str, object]]]:
        return self._best(top_k, self.fuse(self.look(items), self.texts(items)))

    def _best(self, top_k: int, fused: Fused) -> list[list[dict[str, object]]]:
        best = self.finite(self.task.head(fused.pooled)).float().softmax(-1).topk(min(top_k, len(self.answers)))
        return [
            [{"answer": self.answers[answer], "score": score} for score, answer in zip(*row, strict=True)]
            for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


class ITMPipeline(Pipeline):
    """Says whether a text describes a picture."""

    def __init__(self, settings: Settings) -> None:
        """Load a model with an image-text matching head."""
        task = load_task(PretrainTask, settings.source, "itm_score", objectives={"itm": 1.0})
        super().__init__(settings, task, task.model)
        objective = task.objectives["itm"]
        assert isinstance(objective, ImageTextMatching)
        self.head = objective.head

    def __call__(
        self, items: object = None, *, image: object = None, text: object = None, batch_size: int | None = None
    ) -> Any:  # noqa: ANN401 (one result or many)
        """Return, for each pair, {"score": [no, yes], "match": bool}; the scores sum to 1."""
        return self._run(items, self._answer, batch_size, image=image, text=text)

    def _answer(self, items: Sequence[Item]) -> list[dict[str, object]]:
        logits = self.finite(self.head(self.fuse(self.look(items), self.texts(items)).pooled))
        scores = logits.float().softmax(-1)
        return [{"score": score, "match": score[1] > score[0]} for score in scores.tolist()]


class PBCPipeline(Pipeline):
    """Says which patches of a picture belong to what a text mentions."""

    def __init__(self, settings: Settings) -> None:
        """Load a model with a patch-box classification head."""
        task = load_task(PretrainTask, settings.source, "pbc_classifier", objectives={"pbc": 1.0})
        super().__init__(settings, task, task.model)
        objective = task.objectives["pbc"]
        assert isinstance(objective, PatchBoxClassification)
        self.head = objective.head

    def __call__(
        self,
        items: object = None,
        *,
        image: object = None,
        text: object = None,
        draw: str | None = "probabilities",
        zoom: int = 1,
        opacity: float = OPACITY,
        batch_size: int | None = None,
    ) -> Any:  # noqa: ANN401 (one result or many)
        """Return, for each pair, {"probabilities", "heatmap", "picture"}.

        Probabilities are rows of the patch grid: the patch belongs to something that the text mentions. The heat map
        is of the same shape: the softmax of that class over the patches, sum 1, as in the published pipeline. The
        picture (PIL, RGB) is ``zoom`` times as large as the given one; over what the model saw of it lies what
        ``draw`` names: the probabilities as they are, or the heat map stretched between its ends, as published. The
        hottest patches cover the picture with this ``opacity``. Without ``draw`` (None) there is no picture.
        """
        if draw is not None and draw not in DRAWN:
            raise UserError(f"draw is {draw!r}; choose {' or '.join(DRAWN)}")
        check_count("zoom", zoom)
        if not 0 <= opacity <= 1:
            raise UserError(f"opacity is {opacity}; give a share from 0 to 1")
        return self._run(items, partial(self._answer, draw, zoom, opacity), batch_size, image=image, text=text)

    def _answer(self, draw: str | None, zoom: int, opacity: float, items: Sequence[Item]) -> list[dict[str, object]]:
        seen = self.look(items)
        grid = self.encoder.layout.grid(seen.pixel_values)
        logits = self.finite(self.head(self.fuse(seen, self.texts(items)).image[:, 1:])).float()
        probabilities = logits.softmax(-1)[..., 1].unflatten(1, grid).cpu().numpy()
        heats = logits[..., 1].softmax(-1).unflatten(1, grid).cpu().numpy()
        drawn = probabilities if draw == "probabilities" else [stretch(heat) for heat in heats]
        results: list[dict[str, object]] = [
            {"probabilities": probable.tolist(), "heatmap": heat.tolist()}
            for probable, heat in zip(probabilities, heats, strict=True)
        ]
        if draw is not None:
            pictures = [seen.pictures[row] for row in seen.rows.tolist()]
            for result, laid, picture in zip(results, drawn, pictures, strict=True):
                result["picture"] = draw_heat(picture, laid, self.processor.view(picture.size), zoom, opacity)
        return results


class MLMPipeline(Pipeline):
    """Restores the masked words of a text about a picture."""

    def __init__(self, settings: Settings) -> None:
        """Load a model with a masked language modelling head."""
        task = load_task(PretrainTask, settings.source, "mlm_score", objectives={"mlm": 1.0})
        super().__init__(settings, task, task.model)
        objective = task.objectives["mlm"]
        assert isinstance(objective, MaskedLanguageModelling)
        self.objective = objective

    def __call__(
        self,
        items: object = None,
        *,
        image: object = None,
        text: object = None,
        top_k: int = 5,
        batch_size: int | None = None,
    ) -> Any:  # noqa: ANN401 (one result or many)
        """Return, for each text, a list for each [MASK] in it: [{"word", "score"}, ...], ``top_k`` best first.

        ``[MASK]`` stands for the mask of every tokenizer, such as RoBERTa's ``<mask>``. A word is a piece of the
        vocabulary, without the mark of a word's start.
        """
        check_count("top_k", top_k)
        return self._run(items, partial(self._answer, top_k), batch_size, image=image, text=text)

    def _answer(self, top_k: int, items: Sequence[Item]) -> list[list[list[dict[str, object]]]]:
        tokenizer = self.processor.tokenizer
        texts = [text.replace(MASK, tokenizer.mask_token) for text in self.texts(items)]
        input_ids, _ = self.tokenize(texts)
        masked = input_ids == tokenizer.mask_token_id
        for item, found in zip(items, masked.any(1).tolist(), strict=True):
            if not found:
                raise UserError(f"{item.place}the text has no {MASK}: {item.text!r}")
        logits = self.finite(self.objective.logits(self.fuse(self.look(items), texts).text[masked]))
        scores = logits.float().softmax(-1)[:, : len(tokenizer)]  # published tables have rows without a word
        best = scores.topk(min(top_k, scores.shape[1]))
        words = [
            [{"word": self._word(number), "score": score} for score, number in zip(*row, strict=True)]
            for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        ends = masked.sum(1).cumsum(0).tolist()
        return [words[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _word(self, number: int) -> str:
        tokenizer = self.processor.tokenizer
        return str(tokenizer.convert_tokens_to_string([tokenizer.convert_ids_to_tokens(number)])).strip()


class FeaturesPipeline(Pipeline):
    """Gives the states of the towers, of their fusion, and the vectors that contrast compares."""

    def __init__(self, settings: Settings) -> None:
        """Load an encoder from any model, and its contrastive head where it has one."""
        pretrained = read_pretrained(settings.source)
        self.dual = DualEncoder(pretrained) if HEAD in pretrained.heads else None
        if self.dual is None:
            encoder, self.load_report = from_pretrained(settings.source)
            super().__init__(settings, encoder, encoder)
        else:
            self.load_report = self.dual.load_report
            super().__init__(settings, self.dual, self.dual.model)

    def __call__(
        self, items: object = None, *, image: object = None, text: object = None, batch_size: int | None = None
    ) -> Any:  # noqa: ANN401 (one result or many)
        """Return, for each item, a dictionary of float32 arrays without padding; T tokens, P patches.

        ``image`` (1 + P, width of the image tower) and ``text`` (T, width of the text tower), whichever is given.
        With both also ``fused_image`` (1 + P, D), ``fused_text`` (T, D) and ``pooled`` (2 D,), text then image.
        Of a model with a contrastive head also ``image_vector`` and ``text_vector`` (C,), of length one: their product
        is what `RetrievePipeline` ranks by.
        """
        return self._run(items, self._answer, batch_size, image=image, text=text)

    def _answer(self, items: Sequence[Item]) -> list[dict[str, NDArray[np.float32]]]:
        given = {(item.image is not None, item.text is not None) for item in items}
        if len(given) > 1:
            raise UserError("some items have an image or a text that others lack; ask for these apart")
        (with_image, with_text), encoder = given.pop(), self.encoder
        if not (with_image or with_text):
            raise UserError(f"{items[0].place}there is neither image nor text; give one or both")
        features: dict[str, Tensor] = {}
        lengths = torch.ones(len(items), dtype=torch.long)
        tokens = self.tokenize(self.texts(items)) if with_text else None
        seen = self.look(items) if with_image else None
        text, image, fused = encoder.features(tokens, seen and seen.pixel_values, seen and seen.rows)
        if text is not None:
            features["text"], lengths = text.states, text.mask.sum(1)
        if image is not None:
            features["image"] = image.states
        if fused is not None:
            features |= {"fused_text": fused.text, "fused_image": fused.image, "pooled": fused.pooled}
        if self.dual is not None and tokens is not None:
            features["text_vector"] = self.dual.embed_texts(*tokens)
        if self.dual is not None and seen is not None:
            features["image_vector"] = self.dual.embed_images(seen.pixel_values)[seen.rows]
        rows = {name: states.float().cpu().numpy() for name, states in features.items()}
        found = [
            {name: states[row, :length] if name.endswith("text") else states[row] for name, states in rows.items()}
            for row, length in enumerate(lengths.tolist())
        ]
        for states in (states for row in found for states in row.values()):
            self.finite(torch.from_numpy(states))
        return found
