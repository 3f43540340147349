"""The published VCR conversion: rules worked by hand, and all recorded cases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from datamodules.tokenizers import load_tokenizer, train_tokenizer
from tests.factories import dual, vcr_batch
from vle_lightning.errors import UserError
from vle_lightning.inference.vcr_compatible import NAMES, PatchBox, PersonNames, VCRInputs, convert, patch_box, score
from vle_lightning.inference.vcr_layout import Mode
from vle_lightning.inference.vcr_texts import MAX_LENGTH
from vle_lightning.tasks.vcr import VCRTask

ROOT = Path(__file__).parents[2]
FIXTURES = next(
    (
        folder
        for base in (ROOT.parent / "shared" / "fixtures", ROOT / "tests" / "fixtures")
        if (folder := base / "vle_preprocess").is_dir()
    ),
    None,
)
MODES: tuple[Mode, Mode] = ("q2a", "qa2r")
WHERE = ["red", "blue", "green", "dog", "is", "near", "where", "?", "."]
GRID = (4, 4)
SIZE = (80, 40)  # patches of 20 x 10 pixels
CORNER: list[float] = [0, 0, 19, 9, 0.9]  # with a score behind
BEYOND: list[float] = [80, 0, 95, 10, 0.9]


def word_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Make one token for each word that these tests use."""
    train_tokenizer([" ".join((*WHERE, "and", *NAMES))], folder, 250)
    return load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return word_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def annotate(question: list[Any], answers: list[list[Any]], **fields: object) -> dict[str, Any]:
    choices = [*answers, *[["."]] * (4 - len(answers))]
    objects = ["person", "dog", *["person"] * 8]
    return {"objects": objects, "question": question, "answer_choices": choices, "answer_label": 1, **fields}


def run(
    annotation: dict[str, Any], tokenizer: PreTrainedTokenizerBase, task: Mode = "q2a", boxes: list[Any] | None = None
) -> VCRInputs:
    metadata = {"boxes": boxes or [CORNER] * 10}
    return convert(annotation, metadata, SIZE, task, tokenizer, grid=GRID, names=PersonNames())


def lengths(inputs: VCRInputs) -> list[list[int]]:
    """Return how many tokens each part of the four texts kept."""
    return [
        [len(part.split()) for part in " ".join(text.tokens).replace("[SEP]", "|").split("|")] for text in inputs.texts
    ]


def test_persons_take_the_next_of_fifteen_names_and_the_count_runs_on() -> None:
    names = PersonNames()
    assert names.call(["person", "dog", "person"]) == ["Casey", "dog", "Riley"]
    assert names.position == 2
    assert names.call(["person"] * 14)[-2:] == ["Quinn", "Casey"]
    assert names.position == 1


def test_tags_become_nouns_joined_by_and(tokenizer: PreTrainedTokenizerBase) -> None:
    inputs = run(annotate(["where", "is", [1, 2], "?"], [["near", [0], "."]]), tokenizer)
    text = inputs.texts[0]
    assert " ".join(text.tokens).replace("▁", "") == "where is dog and Riley ? [SEP] near Casey ."
    assert text.tags == [-1, -1, 1, -1, 2, -1, -1, -1, 0, -1]
    assert text.raw == ["where", " is", " dog", " and", " Riley", " ?", "near", " Casey", " ."]
    assert inputs.text_types[0] == [0, 0, 0, 3, 0, 4, 0, 0, 0, 2, 0, 0]  # objects 0, 1, 2; CLS and SEP around
    assert inputs.region_types[0] == [2, 3, 4]
    assert inputs.region_types[1] == [2, 3]
    assert inputs.input_ids.shape == (4, MAX_LENGTH)
    assert inputs.attention_mask.sum(1).tolist() == [12, 10, 10, 10]
    ids = inputs.input_ids[0]
    special = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    assert (ids[0], ids[7], ids[11], ids[12]) == special
    assert not inputs.token_type_ids.any()
    assert inputs.label == 1


@pytest.mark.parametrize("long", range(4))
def test_one_long_choice_shortens_the_question_of_all_four(tokenizer: PreTrainedTokenizerBase, long: int) -> None:
    answers = [["red"] * (60 if choice == long else 5) for choice in range(4)]
    inputs = run(annotate(["blue"] * 50, answers), tokenizer)  # 80 less CLS and two SEP: 77 = 39 + 38
    assert lengths(inputs) == [[39, 38 if choice == long else 5] for choice in range(4)]
    assert inputs.attention_mask[long].all()


@pytest.mark.parametrize(
    ("question", "answer", "rationale", "kept"),
    [
        (47, 52, 81, [1, 37, 38]),  # the question is gone but for a token, then the answer gives
        (60, 5, 40, [33, 5, 38]),  # question and answer together are kept as long as the rationale
        (10, 10, 70, [10, 10, 56]),  # only the rationale is too long
    ],
)
def test_rationales_balance_with_question_and_answer(
    tokenizer: PreTrainedTokenizerBase, question: int, answer: int, rationale: int, kept: list[int]
) -> None:
    annotation = annotate(
        ["blue"] * question,
        [["."], ["red"] * answer],
        rationale_choices=[["green"] * rationale, *[["."]] * 3],
        rationale_label=3,
    )
    inputs = run(annotation, tokenizer, "qa2r")
    assert lengths(inputs)[0] == kept
    assert lengths(inputs)[3] == [*kept[:2], 1]
    assert inputs.label == 3


def test_a_tag_that_truncation_cuts_off_has_no_region(tokenizer: PreTrainedTokenizerBase) -> None:
    inputs = run(annotate(["where", [0], "?"], [["red"] * 80 + [[1]]]), tokenizer)
    assert inputs.region_types[0] == [2]


def test_an_unknown_character_splits_its_word_and_shifts_the_types(tokenizer: PreTrainedTokenizerBase) -> None:
    inputs = run(annotate(["where"], [["red§red", [0]]]), tokenizer)
    unknown, known = tokenizer.unk_token_id, dict(zip(inputs.texts[0].tokens, inputs.text_ids[0], strict=True))
    length = int(inputs.attention_mask[0].sum())
    answer = inputs.input_ids[0, 3 : length - 1].tolist()
    assert answer[: answer.index(unknown)] == [known["▁red"]]
    assert answer[answer.index(unknown) + 1 :] == [known["▁red"], known["▁Casey"]]  # a word of its own
    assert len(inputs.text_types[0]) == len(inputs.texts[0].tokens) + 2  # counted before: may differ from `length`
    assert inputs.text_types[0][-2] == 2


def test_the_private_use_character_is_left_out(tokenizer: PreTrainedTokenizerBase) -> None:
    inputs = run(annotate(["where", "\ue000", "?"], [["\ue000"]]), tokenizer)
    assert lengths(inputs)[0] == [2, 0]
    assert inputs.texts[0].raw == ["where", " ?"]


def test_regions_stand_in_the_order_of_a_python_set(tokenizer: PreTrainedTokenizerBase) -> None:
    boxes = [CORNER] * 8 + [[60, 30, 80, 40, 1.0]] + [CORNER]
    inputs = run(annotate([[8], "is", [0], "?"], [["."]]), tokenizer, boxes=boxes)
    assert inputs.patch_ids[0] == [[15], [0]]  # 8 and 0 share a slot of the set's table; 8 came first
    assert inputs.text_types[0][1:4] == [2, 0, 3]


@pytest.mark.parametrize(
    ("box", "grown", "patches"),
    [
        ([20, 10, 40, 20], (20, 10, 60, 30), [5, 6, 9, 10]),  # far edges on borders take the patches behind
        ([20, 10, 39, 19], (20, 10, 40, 20), [5]),
        ([19.9, 10, 40.1, 19], (0, 10, 60, 20), [4, 5, 6]),
        ([-7, -3, 5, 95], (0, 0, 20, 40), [0, 4, 8, 12]),  # clipped to the picture
        ([30, 15, 30, 15], (20, 10, 40, 20), [5]),  # a point inside of a patch
        ([80, 0, 95, 10], (80, 0, 80, 20), []),  # beyond the right edge
        ([0, -20, 20, -1], (0, 0, 40, 0), []),
    ],
)
def test_boxes_grow_to_whole_patches(box: list[float], grown: tuple[float, ...], patches: list[int]) -> None:
    assert patch_box(box, SIZE, GRID) == PatchBox(grown, patches)  # type: ignore[arg-type]


def test_a_choice_with_a_box_beyond_the_edge_is_nan(tokenizer: PreTrainedTokenizerBase) -> None:
    annotation = annotate(["where", "is", [1], "?"], [["near", [0], "."]])
    inputs = run(annotation, tokenizer, boxes=[BEYOND, *[CORNER] * 9])
    logits = score(VCRTask("tiny").eval(), [inputs], torch.randn(1, 3, 32, 32))
    assert logits.isnan().tolist() == [[True, False, False, False]]


def test_the_corrected_default_leaves_a_region_without_patches_out() -> None:
    task, batch = VCRTask("tiny").eval(), vcr_batch(rows=2)
    boxes, valid = batch.regions.clone(), batch.region_valid.clone()
    boxes[0, 2, 1], valid[0, 2, 1] = torch.tensor([1.0, 0.2, 1.2, 0.4]), False
    hidden = task(replace(batch, region_valid=valid))
    torch.testing.assert_close(task(replace(batch, regions=boxes)), hidden)
    assert hidden.isfinite().all()


def test_both_conversions_run_through_the_same_scores(tokenizer: PreTrainedTokenizerBase) -> None:
    annotation = annotate(["where", "is", [1], "?"], [["near", [0], "."], [[2, 3]], ["red"]])
    boxes: list[list[float]] = [CORNER, [20, 10, 59, 39], [40, 0, 79, 19], [0, 20, 79, 39], *[CORNER] * 6]
    inputs = run(annotation, tokenizer, boxes=boxes)
    corners = torch.tensor([[box[:4] for box in boxes]]) / torch.tensor([80, 40, 80, 40])
    numbers = torch.tensor([[0, 1, 0], [1, 2, 3], [1, 0, 0], [1, 0, 0]])
    types = torch.zeros(1, 4, MAX_LENGTH, dtype=torch.long)
    for choice, row in enumerate(inputs.text_types):
        types[0, choice, : len(row)] = torch.tensor(row)
    task, pixels = VCRTask("tiny").eval(), torch.randn(1, 3, 32, 32)
    batch = replace(
        vcr_batch(rows=1),
        pixel_values=pixels,
        input_ids=inputs.input_ids[None],
        attention_mask=inputs.attention_mask[None],
        token_types=types,
        regions=corners[0, numbers][None],
        region_valid=torch.tensor([[[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0]]]).bool(),
        region_types=torch.tensor([2, 3, 4]).repeat(1, 4, 1),
    )
    encoder = dual(task.model).image
    with patch.object(encoder, "forward", wraps=encoder.forward) as image:
        logits = score(task, [inputs, inputs], pixels.repeat(2, 1, 1, 1))
    assert [len(call.args[0]) for call in image.call_args_list] == [2]  # one image a question, not one a choice
    torch.testing.assert_close(logits, task(batch).repeat(2, 1))


@pytest.mark.parametrize(
    ("fields", "task", "told"),
    [
        ({"question": [[10]]}, "q2a", "tags object 10 of 10"),
        ({"answer_choices": [["."]] * 3}, "q2a", "answer_choices has 3 entries"),
        ({"answer_label": 4}, "q2a", "answer_label is 4"),
        ({}, "qa2r", "'rationale_choices' is missing"),
        ({"answer_label": None}, "qa2r", "'answer_label' is missing"),
    ],
)
def test_defects_of_an_annotation_are_named(
    tokenizer: PreTrainedTokenizerBase, fields: dict[str, Any], task: Mode, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        run(annotate(["where"], []) | fields, tokenizer, task)


def test_objects_without_boxes_or_types_are_named(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"objects \[9\] are tagged, but the metadata have 9 boxes"):
        run(annotate([[9]], []), tokenizer, boxes=[CORNER] * 9)
    many = annotate([list(range(11))], [], objects=["dog"] * 11)
    inputs = run(many, tokenizer, boxes=[CORNER] * 11)
    with pytest.raises(UserError, match="tags 11 objects, the model has token types for 10"):
        score(VCRTask("tiny"), [inputs], torch.randn(1, 3, 32, 32))


def test_a_hidden_answer_is_no_label(tokenizer: PreTrainedTokenizerBase) -> None:
    assert run(annotate(["where"], [], answer_label=None), tokenizer).label is None


def read(name: str) -> Any:  # noqa: ANN401 (parsed JSON)
    assert FIXTURES is not None
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))


@pytest.mark.skipif(FIXTURES is None, reason="the recorded cases of the published pipelines are not here")
@pytest.mark.parametrize("part", ["fresh_pipeline", "same_pipeline_in_file_order"])
@pytest.mark.parametrize("task", MODES)
def test_recorded_pipelines_are_reproduced(task: Mode, part: str) -> None:
    assert FIXTURES is not None
    files = {file.name for file in (FIXTURES / "cases").iterdir()}
    stored = read("cases/vcr_annotations.json")
    annotations = {name: stored[name] for name in stored if f"vcr_{task}_{name}.json" in files}
    recorded = {name: read(f"cases/vcr_{task}_{name}.json") for name in annotations}
    known = load_tokenizer(str(FIXTURES))
    names = PersonNames(next(iter(recorded.values()))[part]["person_name_id_before"])
    for name, annotation in annotations.items():
        wanted = recorded[name][part]
        names = PersonNames() if part == "fresh_pipeline" else names
        assert names.position == wanted["person_name_id_before"]
        metadata, size = read(f"images/{annotation['metadata_fn']}"), recorded[name]["image_size"]
        inputs = convert(annotation, metadata, tuple(size), task, known, grid=GRID, names=names)
        assert as_recorded(inputs) == {key: wanted[key] for key in as_recorded(inputs)}, name
        assert [[list(found.box), found.patches] for found in inputs.patch_boxes] == recorded[name]["patch_boxes"]
        assert names.position == wanted["person_name_id_after"]


def as_recorded(inputs: VCRInputs) -> dict[str, object]:
    """Lay inputs out as the published ``preprocess`` does: with a batch of one."""
    return {
        "build_text": {
            "text_tokens": [text.tokens for text in inputs.texts],
            "text_ids": list(inputs.text_ids),
            "obj_tags": [text.tags for text in inputs.texts],
            "text_raw": [text.raw for text in inputs.texts],
        },
        "input_ids": inputs.input_ids[:, None].tolist(),
        "attention_mask": inputs.attention_mask[:, None].long().tolist(),
        "token_type_ids": inputs.token_type_ids[:, None].tolist(),
        "patch_ids": [[choice] for choice in inputs.patch_ids],
        "extend_token_type_ids": [
            [[image], [text]] for image, text in zip(inputs.region_types, inputs.text_types, strict=True)
        ],
        "vcr_labels": [inputs.label],
    }
