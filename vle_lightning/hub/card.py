"""The model card: README.md with the hub's metadata, of a folder that is handed on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from vle_lightning.hub.run_facts import Origin
from vle_lightning.records import TASKS, data_of, name_data, scores_of, split_of, without_paths

CARD = "README.md"
SEAL = re.compile(r"<!-- card of vle_lightning, sha256 ([0-9a-f]{64}) -->\n\Z")
LIBRARY = "vle-lightning"
UNKNOWN = "unknown"  # the hub's word for a licence that is not stated
LICENCES = {
    "hfl/vle-": "apache-2.0"
}  # of published checkpoints by the start of their names (checkpoints/manifest.yaml)
TAGS = {  # the hub's pipeline_tag of a task; of the others, the suite's pipelines give features
    "vqa": "visual-question-answering",
    "vcr": "visual-question-answering",
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "pretrain_images": "image-feature-extraction",
}
FAMILIES = {"dual_stream": "two towers under a fusion (VLE, METER)", "mome": "a transformer with experts (VLMo)"}
KINDS = {  # head -> the pipeline that uses it
    "vqa_classifier": "vqa",
    "vcr_q2a_logit": "vcr-q2a",
    "vcr_qa2r_logit": "vcr-qa2r",
    "classification": "classify",
    "itm_score": "itm",
    "pbc_classifier": "pbc",
    "mlm_score": "mlm",
    "itc": "retrieve",
}
USED = {  # pipeline -> what it is called with, and its shell command, without --model
    "vqa": ('image="cat.jpg", question="What is on the sofa?"', 'ask cat.jpg "What is on the sofa?"'),
    "vcr-q2a": ('image="scene.jpg", annotation=annotation', "vcr scene.jpg annotation.json --task q2a"),
    "vcr-qa2r": ('image="scene.jpg", annotation=annotation', "vcr scene.jpg annotation.json --task qa2r"),
    "classify": ('image="cat.jpg"', None),
    "itm": ('image="cat.jpg", text="a cat on a sofa"', 'match cat.jpg "a cat on a sofa"'),
    "pbc": ('image="cat.jpg", text="the sofa"', 'heatmap cat.jpg "the sofa" --out heat.png'),
    "retrieve": (
        'index=model.index_images("photos"), text="a cat on a sofa"',
        'retrieve --images photos --text "a cat on a sofa"',
    ),
}
TOY = "toy"  # root of the embedded world's shards
DRAWN = {  # what a model of the embedded world is asked instead
    "What is on the sofa?": "what colour is the circle",
    "a cat on a sofa": "a red circle",
    "the sofa": "red circle",
    "cat.jpg": "scene.jpg",
    "photos": "data/toy/raw/coco/images",
}


@dataclass(frozen=True)
class Model:
    """What a card says of the model itself."""

    name: str  # OWNER/NAME on the hub, or a folder
    task: str
    backbone: str  # kind of the architecture
    layout: str
    parameters: int
    heads: tuple[str, ...] = ()  # that were trained
    answers: int | None = None
    tokenizer: bool = True  # the folder holds tokenizer and image settings
    license: str | None = None  # as it was given
    origin: Origin = field(default_factory=Origin)


def write_card(folder: Path, model: Model) -> None:
    """Write README.md; it overwrites, so ask `is_by_hand` of what is there first."""
    head = f"---\n{metadata(model).to_yaml()}\n---\n\n"
    text = head + "\n".join(_body(model)) + "\n\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / CARD).write_text(f"{text}<!-- card of vle_lightning, sha256 {digest} -->\n", encoding="utf-8")


def is_by_hand(card: Path) -> bool:
    """Is there a card that a person has written, or changed since it was made here?"""
    if not card.is_file():
        return False
    text = card.read_bytes().decode("utf-8", "replace")
    seal = SEAL.search(text)
    return seal is None or hashlib.sha256(text[: seal.start()].encode()).hexdigest() != seal[1]


def metadata(model: Model) -> ModelCardData:
    """Make the hub's metadata; what is not known is left out, an unknown licence is said to be so."""
    origin, bases = model.origin, list(model.origin.bases)
    stated = next((licence for base in bases for start, licence in LICENCES.items() if base.startswith(start)), UNKNOWN)
    names = [
        f"{root}-{source}" if root else source for root, found in data_of(origin.record).items() for source in found
    ]
    results = list(_results(model))
    return ModelCardData(
        license=model.license or stated,
        library_name=LIBRARY,
        pipeline_tag=TAGS.get(model.task, "feature-extraction"),
        base_model=bases or None,
        datasets=names or None,
        tags=["vision-language", model.task.replace("_", "-"), model.backbone.replace("_", "-")],
        model_name=_title(model) if results else None,
        eval_results=results or None,
    )


def _results(model: Model) -> Iterator[EvalResult]:
    """Yield the scores of the run, as metrics.json has them."""
    metrics, data = model.origin.metrics, name_data(model.origin.record) or "not recorded"
    for score in scores_of(model.task, metrics):
        split = split_of(score, metrics)
        yield EvalResult(
            task_type=TAGS.get(model.task, "feature-extraction"),
            task_name=TASKS.get(model.task, model.task),
            dataset_type=re.sub(r"[^\w.-]+", "-", data),
            dataset_name=data,
            dataset_split=split,
            metric_type=score,
            metric_name=score,
            metric_value=metrics[f"{split}/{score}"],
        )


def _body(model: Model) -> Iterator[str]:
    title = TASKS.get(model.task, model.task)
    yield from (f"# {_title(model)}", "")
    yield f"{title}: a model of VLE-Lightning (task `{model.task}`), {FAMILIES.get(model.backbone, model.backbone)},"
    yield f"with {model.parameters:,} parameters, in the layout `{model.layout}`."
    yield from ("", "## How to run it", "", *_usage(model))
    yield from ("", "## Data and training", "", *_training(model.origin))
    yield from ("", "## Scores", "", *_scores(model))
    yield from ("", "## Limits", "", *(f"- {limit}" for limit in _limits(model)))


def _usage(model: Model) -> Iterator[str]:
    kinds = [kind for head, kind in KINDS.items() if head in model.heads]
    needs = "" if model.tokenizer else ', tokenizer="TOKENIZER"'
    if not model.tokenizer and kinds != ["classify"]:
        yield from ("The folder holds no tokenizer: name the one that the model was trained with.", "")
    shown = [kind for kind in kinds if kind in USED]
    if model.task == "pretrain_texts":
        yield f"It has no pipeline: start a training from it with `--model.init {model.name}`."
        return
    words = DRAWN if TOY in data_of(model.origin.record) else {}
    yield from ("Install VLE-Lightning first: `pip install .` in a clone of its repository.", "")
    yield from ("```python", "from vle_lightning.inference import pipeline", "")
    for kind in shown or ["features"]:
        call = _replaced(USED[kind][0] if kind in USED else 'image="cat.jpg"', words)
        yield from (f'model = pipeline("{kind}", "{model.name}"{needs})', f"print(model({call}))")
    yield "```"
    commands = [_replaced(told, words) for kind in shown if (told := USED[kind][1])]
    if commands:
        more = "" if model.tokenizer else " --tokenizer TOKENIZER"
        lines = [f"python -m vle_lightning {command} --model {model.name}{more}" for command in commands]
        yield from ("", "```", *lines, "```")
    yield from ("", f"Pipelines: {', '.join(f'`{kind}`' for kind in dict.fromkeys([*kinds, 'features']))}.")


def _replaced(text: str, words: Mapping[str, str]) -> str:
    for old, new in words.items():
        text = text.replace(old, new)
    return text


def _training(origin: Origin) -> Iterator[str]:
    record = origin.record
    if origin.bases:
        yield f"It started from {', '.join(f'[{base}](https://huggingface.co/{base})' for base in origin.bases)}."
    if not record:
        yield "The data and the training are not recorded beside the checkpoint."
        return
    yield f"- data: {name_data(record) or 'not recorded'}"
    for name in ("steps", "samples_seen", "seed", "precision", "commit", "rule"):
        if record.get(name) is not None:
            yield f"- {name.replace('_', ' ')}: {without_paths(str(record[name]))}"
    if record.get("command"):
        yield f"- command: `{without_paths(str(record['command']))}`"


def _scores(model: Model) -> Iterator[str]:
    metrics = model.origin.metrics
    names = scores_of(model.task, metrics)
    if not names:
        yield "No scores are known of this checkpoint."
        return
    yield from ("| score | split | value | floor | ceiling |", "|---|---|---|---|---|")
    for name in names:
        split = split_of(name, metrics)
        cells = [metrics.get(f"{place}/{name}") for place in (split, "floor", "ceiling")]
        yield f"| {name} | {split} | {' | '.join('' if cell is None else f'{cell:.4f}' for cell in cells)} |"
    yield from (
        "",
        "The floor is the best without looking at the picture, the ceiling the best there is; both come with",
    )
    yield "the data. Empty: the data does not tell."


def _limits(model: Model) -> Iterator[str]:
    metrics = model.origin.metrics
    if model.answers:
        yield f"It chooses among {model.answers} answers, whatever is asked."
    if TOY in data_of(model.origin.record):
        yield "It was trained on the embedded toy world, which is drawn: it knows no photographs."
    if any(split_of(score, metrics) == "val" for score in scores_of(model.task, metrics)):
        yield "The split `val` both selected the checkpoint and is reported."
    yield "Scores hold for the data named here; on other pictures and texts it is untested. Biases of the data remain."


def _title(model: Model) -> str:
    return next(iter(reversed([part for part in re.split(r"[/\\]", model.name) if part])), model.name)
