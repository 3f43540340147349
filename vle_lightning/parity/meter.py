"""Cases of METERTransformerSS, run through our tasks.

Each of METER's objectives is a function of a batch; a case is named for what ran. Class orders that differ are put back
into METER's order before they are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import IGNORED, StatementBatch, VQABatch
from vle_lightning.encoders.positions import resize_position_table
from vle_lightning.hub.meter import METER_HEADS, METER_KEYS
from vle_lightning.hub.pretrained import from_pretrained
from vle_lightning.models.backbone import Backbone
from vle_lightning.objectives.base import Objective
from vle_lightning.objectives.mlm import MaskedLanguageModelling
from vle_lightning.parity.checks import EXACT, POSITIONS, Check, compare
from vle_lightning.parity.fixtures import Case
from vle_lightning.parity.intermediates import METER_TABLES, Pass
from vle_lightning.parity.judging import Answer, Network, judge, named_parameters
from vle_lightning.parity.questions import soft_targets
from vle_lightning.streams import Fused
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.nlvr2 import NLVR2Task
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.retrieval import RetrievalTask
from vle_lightning.tasks.snli_ve import SNLIVETask
from vle_lightning.tasks.vqa import VQATask

SPLIT = ("q_proj", "k_proj", "v_proj")  # of what is one fused projection there


class Texts(NamedTuple):
    """B texts of a case."""

    ids: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) bool


def texts(case: Case, name: str = "text") -> Texts:
    """Return the texts that a case calls ``name``."""
    inputs = case.group("input")
    mask = inputs.get(f"{name}_masks", inputs["text_masks"])
    return Texts(inputs[f"{name}_ids"], mask.bool())


def network(module: nn.Module, encoder: Backbone, **heads: nn.Module) -> Network:
    """Put a module in eval mode and show its parts by METER's names."""
    module.eval()
    parts = {METER_HEADS[name].name: head for name, head in heads.items()}

    def parameters(published: str) -> list[Tensor]:
        head, _, rest = published.partition(".")
        if head in METER_HEADS:
            owner = parts.get(METER_HEADS[head].name)
            return [] if owner is None else named_parameters(owner, rest, METER_HEADS[head].keys)
        if ".attn.in_proj_" in published:
            stem, kind = published.rsplit(".attn.in_proj_", 1)
            return [p for part in SPLIT for p in named_parameters(encoder, f"{stem}.attn.{part}.{kind}", METER_KEYS)]
        return named_parameters(encoder, published, METER_KEYS)

    return Network(encoder, parts, parameters, METER_TABLES)


def fuse(encoder: Backbone, words: Texts, pixels: Tensor, image_type: int | None = None) -> Fused:
    """Encode and fuse B pairs; the image's row of the token-type table is 1 by default."""
    image = encoder.encode_image(pixels)
    types = None if image_type is None else torch.full(image.mask.shape, image_type)
    return encoder.fuse(encoder.encode_text(*words), image, image_types=types)


def run_infer(case: Case) -> Iterator[Check]:
    """METERTransformerSS.infer, at the checkpoint's size of pictures or at another one."""
    source = from_pretrained(case.folder.path)[0]
    if "image_size" in case.content:
        source.resize_images(int(case.content["image_size"]))
    second = case.name.endswith("_1")  # NLVR2's second picture
    pixels = case.group("input")["image_1.0" if second else "image.0"]

    def answer() -> Answer:
        fused = fuse(source, texts(case), pixels, 2 if second else None)
        return Answer(
            {"text_feats": fused.text, "image_feats": fused.image, "cls_feats": fused.pooled}, None, ("text_feats",)
        )

    yield from judge(case, network(source, source), Pass(texts(case).mask), answer)


def run_mlm(case: Case) -> Iterator[Check]:
    """objectives.compute_mlm: a score for every word at every token."""
    task = PretrainTask.from_pretrained(case.folder.path, objectives={"mlm": 1.0})
    objective = task.objectives["mlm"]
    assert isinstance(objective, MaskedLanguageModelling)
    words, labels = texts(case, "text"), case.group("input")["text_labels_mlm"]
    masked = Texts(case.group("input")["text_ids_mlm"], words.mask)

    def answer() -> Answer:
        logits = objective.logits(fuse(task.model, masked, case.group("input")["image.0"]).text)
        loss = partial(F.cross_entropy, logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return Answer({"mlm_logits": logits}, loss, ("mlm_logits",), "mlm_loss")

    yield from judge(case, network(task, task.model, mlm_score=objective), Pass(words.mask), answer)


def run_itm(case: Case) -> Iterator[Check]:
    """objectives.compute_itm: where the label is 0, another image stands beside the text."""
    task = PretrainTask.from_pretrained(case.folder.path, objectives={"itm": 1.0})
    objective, inputs = task.objectives["itm"], case.group("input")
    assert isinstance(objective, Objective)
    head = objective.get_submodule("head")
    if case.folder.config["config"].get("loss_names", {}).get("irtr"):  # METER freezes the head where it learns to rank
        head.requires_grad_(False)
    labels = case.group("output")["itm_labels"].long()
    pixels = torch.where(labels.bool()[:, None, None, None], inputs["image.0"], inputs["false_image_0.0"])

    def answer() -> Answer:
        logits = head(fuse(task.model, texts(case), pixels).pooled)
        outputs = {"itm_logits": logits, "itm_labels": labels.float()}
        return Answer(outputs, partial(F.cross_entropy, logits, labels), (), "itm_loss")

    yield from judge(case, network(task, task.model, itm_score=head), Pass(texts(case).mask), answer)


def run_vqa(case: Case) -> Iterator[Check]:
    """objectives.compute_vqa: soft targets from labels and scores; a question without any counts."""
    task = VQATask.from_pretrained(case.folder.path)
    answers, inputs, arguments = int(task.options["answers"]), case.group("input"), case.arguments
    task.labels = [str(number) for number in range(answers)]  # the cases give numbers, and ask for no names
    rows = len(inputs["text_ids"])
    targets = soft_targets(arguments["vqa_labels"], arguments["vqa_scores"], (rows, answers))

    def answer() -> Answer:
        batch = VQABatch(
            sample_ids=("",) * rows,
            valid=torch.ones(rows, dtype=torch.bool),
            step=0,
            number=0,
            pixel_values=inputs["image.0"],
            input_ids=texts(case).ids,
            attention_mask=texts(case).mask,
            texts=("",) * rows,
            targets=targets,
            question_ids=("",) * rows,
            answers=(("",),) * rows,  # not hidden: the loss is taken over all questions
            answer_types=("",) * rows,
            question_types=("",) * rows,
        )
        outputs = {"vqa_logits": task(batch), "vqa_targets": targets}
        return Answer(outputs, partial(task.step, batch, Stage.VAL), (), "vqa_loss")

    yield from judge(case, network(task, task.model, vqa_classifier=task.head), Pass(texts(case).mask), answer)


def run_snli(case: Case) -> Iterator[Check]:
    """objectives.compute_snli; its classes are contradiction, neutral, entailment."""
    task = SNLIVETask.from_pretrained(case.folder.path)
    labels = torch.tensor(case.arguments["labels"])
    batch = statements(case, case.group("input")["image.0"], len(task.classes) - 1 - labels)

    def answer() -> Answer:
        return Answer({"snli_logits": task(batch).flip(1)}, partial(task.step, batch, Stage.VAL), (), "snli_loss")

    yield from judge(case, network(task, task.model, snli_classifier=task.head), Pass(texts(case).mask), answer)


def run_nlvr2(case: Case) -> Iterator[Check]:
    """objectives.compute_nlvr2: class 1 is true; each text meets both pictures in one call here."""
    task = NLVR2Task.from_pretrained(case.folder.path)
    inputs = case.group("input")
    labels = torch.tensor([int(answer) for answer in case.arguments["answers"]])
    batch = statements(case, torch.stack([inputs["image_0.0"], inputs["image_1.0"]], dim=1), 1 - labels)

    def answer() -> Answer:
        outputs = {"nlvr2_logits": task(batch).flip(1), "nlvr2_labels": labels}
        return Answer(outputs, partial(task.step, batch, Stage.VAL), (), "nlvr2_loss")

    yield from judge(case, network(task, task.model, nlvr2_classifier=task.head), Pass(texts(case).mask), answer)


def statements(case: Case, pixels: Tensor, targets: Tensor) -> StatementBatch:
    """Make a batch of B statements whose class is known."""
    rows = len(targets)
    return StatementBatch(
        sample_ids=tuple(map(str, range(rows))),
        valid=torch.ones(rows, dtype=torch.bool),
        step=0,
        number=0,
        pixel_values=pixels,
        input_ids=texts(case).ids,
        attention_mask=texts(case).mask,
        texts=("",) * rows,
        targets=targets,
        statement_ids=tuple(map(str, range(rows))),
        groups=("",) * rows,
    )


def run_irtr(case: Case) -> Iterator[Check]:
    """objectives.compute_irtr: the true text of each image, then false ones; the matching head stays as it is."""
    task = RetrievalTask.from_pretrained(case.folder.path)
    assert task.rank is not None
    inputs = case.group("input")
    count = len([name for name in inputs if name.startswith("false_text_") and name.endswith("_ids")])
    candidates = [texts(case), *(texts(case, f"false_text_{number}") for number in range(count))]
    ids, mask = (torch.stack(parts, dim=1) for parts in zip(*candidates, strict=True))  # (B, 1 + N, T)

    def answer() -> Answer:
        text = task.model.encode_text(ids.flatten(0, 1), mask.flatten(0, 1))
        image = task.model.encode_image(inputs["image.0"]).repeat(1 + count)
        scores = task.match(text, image).view(-1, 1 + count)
        loss = partial(F.cross_entropy, scores, torch.zeros(len(scores), dtype=torch.long))
        return Answer({"rank_scores": scores}, loss, (), "irtr_loss")

    heads = {"rank_output": task.rank, "itm_score": task.head}
    yield from judge(case, network(task, task.model, **heads), Pass(mask), answer)


def run_positions(case: Case) -> Iterator[Check]:
    """adapt_position_encoding: the table at other image sizes."""
    before, patch = case.group("input")["before"], int(case.content["patch_size"])
    for name, reference in case.group("output").items():
        side = int(name.removeprefix("after_")) // patch
        yield compare(f"output.{name}", resize_position_table(before, (side, side)), reference, POSITIONS)


def run_token_types(case: Case) -> Iterator[Check]:
    """How NLVR2 begins: the second image's row of the table is a copy of the first one's."""
    before, after = case.group("input"), case.group("output")
    (table,), ((name, reference),) = before.values(), after.items()
    ours = torch.cat([table[:2], table[1:2]])
    yield compare(f"output.{name}", ours, reference, EXACT)


RUNNERS: dict[str, Callable[[Case], Iterator[Check]]] = {  # by the case's name, or the function that it calls
    "infer": run_infer,
    "infer_larger_image": run_infer,
    "infer_image_1": run_infer,
    "mlm": run_mlm,
    "itm": run_itm,
    "vqa": run_vqa,
    "snli": run_snli,
    "nlvr2": run_nlvr2,
    "irtr": run_irtr,
    "adapt_position_encoding": run_positions,
    "token_type_extension": run_token_types,
}
