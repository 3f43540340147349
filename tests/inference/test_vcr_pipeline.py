from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from tests.factories import OLD_PILLOW
from tests.inference.conftest import count_looks
from vle_lightning.errors import UserError
from vle_lightning.inference import Processor, pipeline
from vle_lightning.inference.vcr import VCRPipeline

Exported = Callable[[str], Path]
ATOL = 5e-5 if OLD_PILLOW else 2e-6
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8))
METADATA: dict[str, Any] = {
    "boxes": [[0, 0, 40, 40, 0.9], [48, 8, 90, 48, 0.8], [10, 10, 20, 20, 0.7]],
    "width": 96,
    "height": 48,
}
ANNOTATION: dict[str, Any] = {
    "objects": ["person", "dog", "car"],
    "question": ["Why", "is", [0], "near", [1], "?"],
    "answer_choices": [[[0], "sit"], ["No", ",", [1]], ["the", [0, 1], "."], ["a", "visitor"]],
    "answer_label": 2,
    "rationale_choices": [["a", "dog"], [[2]], ["the", [1], "stands"], ["two", "people"]],
    "rationale_label": 0,
}


def changed(**fields: object) -> dict[str, Any]:
    return {**ANNOTATION, **fields}


def load(exported: Exported, mode: Literal["q2a", "qa2r"] = "q2a") -> VCRPipeline:
    found = pipeline(f"vcr-{mode}", exported(f"vcr-{mode}"))
    assert isinstance(found, VCRPipeline)
    return found


@pytest.mark.parametrize("mode", ["q2a", "qa2r"])
@pytest.mark.parametrize("compatible", [False, True])
def test_the_best_of_four_choices_is_told(mode: Literal["q2a", "qa2r"], compatible: bool, exported: Exported) -> None:
    choose = load(exported, mode)
    result = choose(image=PICTURE, annotation=ANNOTATION, metadata=METADATA, compatible=compatible)
    assert len(set(result["score"])) == 4
    assert sum(result["score"]) == pytest.approx(1)
    assert result["prediction"] == int(np.argmax(result["score"]))


def test_boxes_may_lie_in_the_annotation(exported: Exported) -> None:
    choose = load(exported)
    wanted = choose(image=PICTURE, annotation=ANNOTATION, metadata=METADATA)
    assert choose(image=PICTURE, annotation=changed(metadata=METADATA)) == wanted
    assert choose(image=PICTURE, annotation=changed(**METADATA)) == wanted
    items = [{"image": PICTURE, "annotation": ANNOTATION, "metadata": METADATA}]
    assert choose(items) == [wanted]


def test_boxes_refer_to_the_size_that_the_metadata_tell(exported: Exported) -> None:
    choose = load(exported)
    wanted = choose(image=PICTURE, annotation=ANNOTATION, metadata=METADATA)
    doubled = {"boxes": (2 * np.array(METADATA["boxes"])).tolist(), "width": 192, "height": 96}
    assert choose(image=PICTURE, annotation=ANNOTATION, metadata=doubled) == wanted
    unsized = {"boxes": METADATA["boxes"]}
    assert choose(image=PICTURE, annotation=ANNOTATION, metadata=unsized) == wanted


def test_a_batch_gives_what_single_questions_give(exported: Exported) -> None:
    choose = load(exported)
    long = changed(question=["Why", "is", "the", "old", "car", "near", "the", "dog", "and", [2], "?"])
    both = choose(image=PICTURE, annotation=[ANNOTATION, long], metadata=METADATA)
    for annotation, result in zip((ANNOTATION, long), both, strict=True):
        alone = choose(image=PICTURE, annotation=annotation, metadata=METADATA)
        assert result["score"] == pytest.approx(alone["score"], abs=1e-5)


@pytest.mark.parametrize("compatible", [False, True])
def test_four_choices_take_one_look(compatible: bool, exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = load(exported)
    rows = count_looks(monkeypatch, choose.encoder)
    choose(image=PICTURE, annotation=ANNOTATION, metadata=METADATA, compatible=compatible)
    assert rows == [1]


def test_a_box_beyond_the_edge_is_nan_as_published_and_left_out_by_default(exported: Exported) -> None:
    choose = load(exported)
    beyond = {**METADATA, "boxes": [*METADATA["boxes"][:1], [96, 0, 120, 20], METADATA["boxes"][2]]}
    published = choose(image=PICTURE, annotation=ANNOTATION, metadata=beyond, compatible=True)
    assert all(math.isnan(score) for score in published["score"])
    assert all(math.isfinite(s) for s in choose(image=PICTURE, annotation=ANNOTATION, metadata=beyond)["score"])


def test_names_run_on_between_calls_in_compatible_mode_only(exported: Exported) -> None:
    choose = load(exported)
    first, second = (choose(image=PICTURE, annotation=ANNOTATION, metadata=METADATA, compatible=True) for _ in range(2))
    assert first["score"] != second["score"]
    first, second = (choose(image=PICTURE, annotation=ANNOTATION, metadata=METADATA) for _ in range(2))
    assert first == second


def test_a_hidden_answer_label_is_no_hindrance_to_answers(exported: Exported) -> None:
    hidden = {key: value for key, value in ANNOTATION.items() if not key.endswith("label")}
    wanted = load(exported)(image=PICTURE, annotation=ANNOTATION, metadata=METADATA)
    assert load(exported)(image=PICTURE, annotation=hidden, metadata=METADATA) == wanted
    with pytest.raises(UserError, match="hidden answer"):
        load(exported, "qa2r")(image=PICTURE, annotation=hidden, metadata=METADATA)


BOXES = METADATA["boxes"]
MALFORMED = [
    (["no", "dictionary"], METADATA, "the annotation is missing or no dictionary"),
    ([ANNOTATION], None, "the metadata are missing"),
    ([ANNOTATION], {"boxes": "abc"}, "boxes is 'abc'; give a list"),
    ([ANNOTATION], {"boxes": ["abc", *BOXES[1:]]}, r"boxes\[0\] is 'abc'; give four numbers"),
    ([ANNOTATION], {"boxes": [*BOXES[:2], [1, 2, 3]]}, r"boxes\[2\] is \[1, 2, 3\]"),
    ([ANNOTATION], {"boxes": [*BOXES[:2], [1, 2, 3, None]]}, r"boxes\[2\] is"),
    ([ANNOTATION], {"boxes": [*BOXES[:2], [1, 2, 3, float("nan")]]}, r"boxes\[2\] is"),
    ([changed(objects=[1, 2, 3])], METADATA, r"objects is \[1, 2, 3\]; give a list with the class"),
    ([changed(objects="person")], METADATA, "objects is 'person'"),
    ([changed(question=[[7]])], METADATA, "question tags object 7 of 3"),
    ([changed(question=[[-1]])], METADATA, "question tags object -1 of 3"),
    ([changed(question="Why")], METADATA, "question: 'Why' is not a tagged text"),
    ([changed(question=[3])], METADATA, "question: 3 is neither a word nor a list"),
    ([changed(question=[["0"]])], METADATA, r"question: \['0'\] is neither"),
    ([changed(question=[[True]])], METADATA, r"question: \[True\] is neither"),
    ([changed(answer_choices=[["No"]])], METADATA, "answer_choices has 1 entries; give four"),
    ([changed(answer_choices="four")], METADATA, "answer_choices is 'four'; give a list of four"),
    ([changed(answer_choices=[["a"], ["b"], ["c"], "d"])], METADATA, r"answer_choices\[3\]: 'd' is not a tagged text"),
    ([changed(answer_choices=[["a"], [[3]], ["c"], ["d"]])], METADATA, r"answer_choices\[1\] tags object 3 of 3"),
    ([changed(answer_label=4)], METADATA, "answer_label is 4; give 0 to 3"),
    ([changed(answer_label="2")], METADATA, "answer_label is '2'"),
    ([changed(answer_label=True)], METADATA, "answer_label is True"),
    ([{"question": []}], METADATA, "'objects' is missing"),
]


@pytest.mark.parametrize("compatible", [False, True])
@pytest.mark.parametrize(("annotation", "metadata", "message"), MALFORMED)
def test_a_malformed_annotation_is_named_by_its_field(
    annotation: object, metadata: object, message: str, compatible: bool, exported: Exported
) -> None:
    with pytest.raises(UserError, match=f"^item 0: {message}"):
        load(exported)(image=PICTURE, annotation=annotation, metadata=metadata, compatible=compatible)


@pytest.mark.parametrize(
    ("annotation", "metadata", "message"),
    [
        (changed(question=[]), METADATA, "question: an empty text"),
        (changed(answer_choices=[["a"], [], ["c"], ["d"]]), METADATA, r"answer_choices\[1\]: an empty text"),
        (ANNOTATION, {"boxes": BOXES[:2]}, "there are 3 objects, but 2 boxes"),
        (ANNOTATION, {**METADATA, "width": "96"}, "width is '96'; give the picture's width in pixels"),
        (ANNOTATION, {**METADATA, "height": 0}, "height is 0"),
    ],
)
def test_the_default_refuses_what_published_pipelines_let_pass(
    annotation: object, metadata: object, message: str, exported: Exported
) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        load(exported)(image=PICTURE, annotation=annotation, metadata=metadata)


@pytest.mark.parametrize("compatible", [False, True])
def test_rationales_are_looked_at_where_they_are_asked_for(compatible: bool, exported: Exported) -> None:
    broken = changed(rationale_choices=[["a"], ["b"], ["c"], "d"])
    wanted = load(exported)(image=PICTURE, annotation=ANNOTATION, metadata=METADATA, compatible=compatible)
    assert load(exported)(image=PICTURE, annotation=broken, metadata=METADATA, compatible=compatible) == wanted
    with pytest.raises(UserError, match=r"^rationale_choices\[3\]: 'd' is not a tagged text"):
        load(exported, "qa2r")(image=PICTURE, annotation=broken, metadata=METADATA, compatible=compatible)


def test_boxes_may_be_an_array(exported: Exported) -> None:
    wanted = load(exported)(image=PICTURE, annotation=ANNOTATION, metadata=METADATA)
    array = {**METADATA, "boxes": np.array(BOXES)}
    assert load(exported)(image=PICTURE, annotation=ANNOTATION, metadata=array) == wanted


@pytest.mark.parametrize("mode", ["q2a", "qa2r"])
def test_the_published_pipelines_are_matched(mode: Literal["q2a", "qa2r"], fixtures: Path) -> None:
    folder, model = fixtures / "vle_preprocess", fixtures / f"vle_vcr_{mode}"
    if not model.is_dir():
        pytest.skip(f"{fixtures} has no model for {mode}")
    annotations = json.loads((folder / "cases" / "vcr_annotations.json").read_text())
    compared = 0
    for name, annotation in annotations.items():
        file = folder / "cases" / f"vcr_{mode}_{name}.json"
        if not file.is_file():
            continue
        processor = Processor.from_pretrained(folder)
        choose = pipeline(f"vcr-{mode}", model, processor=processor)
        recorded = json.loads(file.read_text())
        metadata = json.loads((folder / "images" / annotation["metadata_fn"]).read_text())
        result = choose(
            image=folder / "images" / annotation["img_fn"], annotation=annotation, metadata=metadata, compatible=True
        )
        wanted = torch.tensor(recorded["fresh_pipeline"]["logits"]).flatten().softmax(0)
        assert result["prediction"] == recorded["pipeline_pred"]
        torch.testing.assert_close(torch.tensor(result["score"]), wanted, atol=ATOL, rtol=1e-5)
        compared += 1
    assert compared


def test_a_head_that_overflows_chooses_nothing(exported: Exported) -> None:
    choose = load(exported)
    with torch.no_grad():
        for weight in choose.task.head.parameters():
            weight.fill_(3e38)  # finite, and overflows
    with pytest.raises(UserError, match="computes no finite numbers in torch.float32"):
        choose(image=PICTURE, annotation=ANNOTATION, metadata=METADATA)
