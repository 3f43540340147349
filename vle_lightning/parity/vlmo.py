"""Cases of VLMo, run through our backbone, heads and tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vle_lightning.batch import IGNORED
from vle_lightning.encoders.positions import resize_position_table
from vle_lightning.hub.pretrained import from_pretrained, load_pretrained
from vle_lightning.hub.vlmo import HEADS, VLMO_KEYS
from vle_lightning.models.backbone import Backbone, Modality
from vle_lightning.models.contrastive import ContrastiveHead
from vle_lightning.models.mome import MoME
from vle_lightning.models.relative_bias import image_index, joint_index, resize_bias_table, text_index
from vle_lightning.objectives.mlm import MaskedLanguageModelling
from vle_lightning.parity.checks import EXACT, OUTPUT, POSITIONS, Bound, Check, compare
from vle_lightning.parity.fixtures import Case
from vle_lightning.parity.intermediates import VLMO_TABLES, Pass
from vle_lightning.parity.judging import Answer, Network, judge, named_parameters
from vle_lightning.parity.meter import statements, texts
from vle_lightning.parity.questions import soft_targets
from vle_lightning.streams import Stream
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.nlvr2 import NLVR2Task
from vle_lightning.tasks.vqa import VQATask

SPLINE = Bound(1e-5)  # of the resized bias table, as the fixtures' README has it
MLM_WEIGHT = 0.25  # which VLMo multiplies MLM's loss on pairs by


class Heads(nn.Module):
    """The two contrasts of VLMo: after the modality's own experts, and after the vision-language experts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.single = ContrastiveHead(width, 0.02, width)
        self.pair = ContrastiveHead(width, 0.02, width)


def network(encoder: Backbone, **heads: nn.Module) -> Network:
    """Put an encoder and heads in eval mode and show them by VLMo's names."""
    for module in (encoder, *heads.values()):
        module.eval()

    def parameters(published: str) -> list[Tensor]:
        for name, head in heads.items():
            if found := named_parameters(head, published, HEADS[name].keys):
                return found
        return named_parameters(encoder, published, VLMO_KEYS)

    return Network(encoder, heads, parameters, VLMO_TABLES)


def load(case: Case, **heads: nn.Module) -> MoME:
    """Build the encoder of the case's folder, and fill it and the heads."""
    encoder, _ = from_pretrained(case.folder.path)
    assert isinstance(encoder, MoME)
    if heads:
        load_pretrained(case.folder.path, encoder, heads)
    return encoder


def pixels(case: Case) -> Tensor:
    """Return the case's images."""
    return case.group("input")["image.0"]


def run_infer(case: Case) -> Iterator[Check]:
    """VLMo.infer: the pair, at the checkpoint's size of pictures or at another one."""
    encoder = load(case)
    if "image_size" in case.content:
        encoder.resize_images(int(case.content["image_size"]))

    def answer() -> Answer:
        words = texts(case)
        fused = encoder.fuse(encoder.encode_text(*words), encoder.encode_image(pixels(case)))
        outputs = {"text_feats": fused.text, "image_feats": fused.image, "cls_feats": fused.pooled}
        return Answer(outputs | {"raw_cls_feats": fused.text[:, 0]})

    yield from judge(case, network(encoder), Pass(texts(case).mask), answer)


def run_alone(modality: Modality, case: Case) -> Iterator[Check]:
    """VLMo.infer_text and infer_image: both contrasts of one modality."""
    heads = Heads(load(case).width)
    encoder = load(case, itc=heads.single, itc_pair=heads.pair)

    def answer() -> Answer:
        stream = stream_of(encoder, modality, case)
        single, pair = encoder.encode_alone(stream, modality)
        raw = encoder.encode_single(stream, modality)
        ours = {
            f"{modality}_feats": encoder.norm(raw),
            "cls_feats": vector(heads.single, modality, single),
            "cls_vlffn_feats": vector(heads.pair, modality, pair),
            "raw_cls_feats": raw[:, 0],
        }
        return Answer(ours)

    mask = torch.ones(len(stream_of(encoder, modality, case).mask), 1, dtype=torch.bool)
    with torch.no_grad():
        yield from judge(case, network(encoder, itc=heads.single, itc_pair=heads.pair), Pass(mask), answer)


def run_single(modality: Modality, case: Case) -> Iterator[Check]:
    """VLMo.infer_text_ft and infer_image_ft: one modality by its own experts alone."""
    heads = Heads(load(case).width)
    encoder = load(case, itc=heads.single, itc_pair=heads.pair)

    def answer() -> Answer:
        stream = stream_of(encoder, modality, case)
        raw = encoder.encode_single(stream, modality)
        states = encoder.norm(raw)
        outputs = {f"{modality}_feats": states, "raw_cls_feats": raw[:, 0]}
        return Answer(outputs | {"cls_feats": vector(heads.single, modality, Stream(states, stream.mask))})

    yield from judge(case, network(encoder), Pass(torch.ones(1, 1, dtype=torch.bool)), answer)


def stream_of(encoder: MoME, modality: Modality, case: Case) -> Stream:
    """Embed the case's texts or images."""
    return encoder.encode_text(*texts(case)) if modality == "text" else encoder.encode_image(pixels(case))


def vector(head: ContrastiveHead, modality: Modality, stream: Stream) -> Tensor:
    """Return the unit vectors (B, D) of a contrast."""
    embed = head.embed_texts if modality == "text" else head.embed_images
    return embed(stream)


def contrast(head: ContrastiveHead, images: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Return similarities (B, B), images x texts, and the mean of the cross entropies of both directions ()."""
    scores = head(images, words)
    targets = torch.arange(len(scores))
    return scores, (F.cross_entropy(scores, targets) + F.cross_entropy(scores.T, targets)) / 2


def run_itc(case: Case) -> Iterator[Check]:
    """objectives.compute_itc in a single process: the mean of two contrasts."""
    heads = Heads(load(case).width)
    encoder = load(case, itc=heads.single, itc_pair=heads.pair)

    def answer() -> Answer:
        sides: tuple[Modality, ...] = ("image", "text")
        alone = [encoder.encode_alone(stream_of(encoder, side, case), side) for side in sides]
        found = [
            contrast(head, *(vector(head, side, stream) for side, stream in zip(sides, streams, strict=True)))
            for head, *streams in zip((heads.single, heads.pair), *alone, strict=True)
        ]
        scores, loss = found[0][0], (found[0][1] + found[1][1]) / 2
        outputs = {
            "itc_i2t_logits": scores,
            "itc_t2i_logits": scores.T,
            "itc_logit_scale": heads.single.log_scale[0].exp(),
            "itc_logit_vl_scale": heads.pair.log_scale[0].exp(),
        }
        return Answer(outputs, lambda: loss, (), "itc_loss")

    yield from judge(case, network(encoder, itc=heads.single, itc_pair=heads.pair), Pass(texts(case).mask), answer)


def run_irtr(case: Case) -> Iterator[Check]:
    """objectives.compute_irtr: the first contrast alone."""
    heads = Heads(load(case).width)
    encoder = load(case, itc=heads.single, itc_pair=heads.pair)

    def answer() -> Answer:
        vectors = []
        for modality in ("image", "text"):
            stream = stream_of(encoder, modality, case)
            states = encoder.norm(encoder.encode_single(stream, modality))
            vectors.append(vector(heads.single, modality, Stream(states, stream.mask)))
        scores, loss = contrast(heads.single, *vectors)
        outputs = {"irtr_i2t_logits": scores, "irtr_t2i_logits": scores.T}
        return Answer(outputs | {"irtr_logit_scale": heads.single.log_scale[0].exp()}, lambda: loss, (), "irtr_loss")

    yield from judge(case, network(encoder, itc=heads.single, itc_pair=heads.pair), Pass(texts(case).mask), answer)


def run_itm(case: Case) -> Iterator[Check]:
    """objectives.compute_itm_hardneg with the negatives that were drawn: matches, other images, other texts."""
    head = nn.Linear(load(case).width, 2)
    encoder = load(case, itm_score=head)
    drawn = case.group("output")

    def answer() -> Answer:
        text, image = encoder.encode_text(*texts(case)), encoder.encode_image(pixels(case))
        rows = torch.arange(len(text.mask))
        sides = (torch.cat([rows, rows, drawn["neg_text_idx"]]), torch.cat([rows, drawn["neg_image_idx"], rows]))
        logits = head(encoder.fuse(text.select(sides[0]), image.select(sides[1])).pooled)
        labels = (torch.arange(len(logits)) < len(rows)).long()
        outputs = {"itm_logits": logits, "itm_labels": labels.float()}
        return Answer(
            outputs | {name: drawn[name] for name in ("neg_text_idx", "neg_image_idx")},
            partial(F.cross_entropy, logits, labels),
            (),
            "itm_loss",
        )

    yield from judge(case, network(encoder, itm_score=head), Pass(texts(case).mask), answer)


def run_mlm(case: Case) -> Iterator[Check]:
    """objectives.compute_mlm and compute_textonly_mlm: on the pair, weighted; on the text by its own experts."""
    inputs, alone = case.group("input"), case.name.startswith("textonly")
    head = MaskedLanguageModelling(load(case), tied=False)
    encoder = load(case, mlm_score=head)
    labels = inputs["text_labels_mlm"]

    def answer() -> Answer:
        text = encoder.encode_text(inputs["text_ids_mlm"], texts(case).mask)
        if alone:
            states = encoder.norm(encoder.encode_single(text, "text"))
        else:
            states = encoder.fuse(text, encoder.encode_image(pixels(case))).text
        logits = head.logits(states)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        weighed = loss if alone else MLM_WEIGHT * loss
        return Answer({"mlm_logits": logits}, lambda: weighed, (), "mlm_loss")

    yield from judge(case, network(encoder, mlm_score=head), Pass(texts(case).mask), answer)


def run_vqa(case: Case) -> Iterator[Check]:
    """objectives.compute_vqa: binary cross entropy, summed over the answers."""
    task = VQATask.from_pretrained(case.folder.path).eval()
    answers, arguments = int(task.options["answers"]), case.arguments
    targets = soft_targets(arguments["vqa_labels"], arguments["vqa_scores"], (len(texts(case).ids), answers))

    def answer() -> Answer:
        fused = task.model.fuse(task.model.encode_text(*texts(case)), task.model.encode_image(pixels(case)))
        logits = task.head(fused.pooled)
        loss = partial(F.binary_cross_entropy_with_logits, logits, targets)
        return Answer({"vqa_logits": logits, "vqa_targets": targets}, lambda: answers * loss(), (), "vqa_loss")

    yield from judge(case, network(task.model, vqa_classifier=task.head), Pass(texts(case).mask), answer)


def run_nlvr2(case: Case) -> Iterator[Check]:
    """objectives.compute_nlvr2: class 1 is true; each text meets both pictures in one call here."""
    task = NLVR2Task.from_pretrained(case.folder.path).eval()
    inputs = case.group("input")
    labels = torch.tensor([int(answer) for answer in case.arguments["answers"]])
    batch = statements(case, torch.stack([inputs["image_0.0"], inputs["image_1.0"]], dim=1), 1 - labels)

    def answer() -> Answer:
        return Answer({"nlvr2_logits": task(batch).flip(1)}, partial(task.step, batch, Stage.VAL), (), "nlvr2_loss")

    yield from judge(case, network(task.model, nlvr2=task.head), Pass(texts(case).mask), answer)


def run_bias_table(case: Case) -> Iterator[Check]:
    """load_pretrained_weight: the table of relative positions at another image size."""
    sides = [int(case.content[f"image_size_{when}"]) // int(case.content["patch_size"]) for when in ("before", "after")]
    table = resize_bias_table(case.group("input")["before"], *sides)
    yield compare("output.after", table, case.group("output")["after"], SPLINE)


def run_positions(case: Case) -> Iterator[Check]:
    """load_pretrained_weight: the absolute table at another image size."""
    side = int(case.content["image_size_after"]) // int(case.content["patch_size"])
    table = resize_position_table(case.group("input")["before"][0], (side, side))
    yield compare("output.after", table[None], case.group("output")["after"], POSITIONS)


def run_relative(case: Case) -> Iterator[Check]:
    """build_relative_position_embed: which row of the table each query and key reads, and the biases of some layers."""
    encoder = load(case)
    window, known = int(case.content["window_size"][0]), encoder.config.text_positions
    outputs = case.group("output")
    tokens = len(outputs["text_relative_position_index"])
    indices = {
        "": image_index(window),
        "text_": text_index(window, tokens, known),
        "text_imag_": joint_index(window, tokens, known),
    }
    for name, index in indices.items():
        yield compare(f"output.{name}relative_position_index", index, outputs[f"{name}relative_position_index"], EXACT)
    names = {"bias_image": "", "bias_text": "text_", "bias_text_imag": "text_imag_"}
    for name, reference in outputs.items():
        kind, _, layer = name.partition(".layer")
        if layer:
            biases = encoder.biases(indices[names[kind]])
            assert biases is not None
            yield compare(f"output.{name}", biases[int(layer)], reference, OUTPUT)


RUNNERS: Mapping[str, Callable[[Case], Iterator[Check]]] = {  # by the case's name
    "infer": run_infer,
    "infer_larger_image": run_infer,
    "infer_shorter_text": run_infer,
    "infer_text": partial(run_alone, "text"),
    "infer_image": partial(run_alone, "image"),
    "infer_text_ft": partial(run_single, "text"),
    "infer_image_ft": partial(run_single, "image"),
    "itc": run_itc,
    "irtr": run_irtr,
    "itm_hardneg": run_itm,
    "mlm": run_mlm,
    "textonly_mlm": run_mlm,
    "vqa": run_vqa,
    "nlvr2": run_nlvr2,
    "interpolate_relative_position_bias_table": run_bias_table,
    "interpolate_pos_embed": run_positions,
    "relative_position": run_relative,
}
