"""VCR texts, token types and regions, worked by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from datamodules.dataset import BatchHead
from datamodules.records import Record, TaggedText, VCRItem
from datamodules.shards import RawSample, SampleError
from datamodules.tagged import NEUTRAL_NAMES, Rendered, nouns, render
from datamodules.transforms import View
from datamodules.vcr import IMAGE_TYPE, TEXT_TYPE, Mode, VCRBuilder, VCRDataModule
from tests.datamodules.shard_factory import ANSWERS, QUESTION, RATIONALES, make_record
from vle_lightning.batch import IGNORED, VCRBatch
from vle_lightning.models import backbone

WHOLE = View(48, 48, 0, 0, 48, 48)


def raw(record: Record) -> RawSample:
    return RawSample(f"{record.image_id}/0", b"", record, 0, "train/000000.tar, sample 0")


def collate(builder: VCRBuilder, records: list[Record], view: View = WHOLE) -> VCRBatch:
    count = len(records)
    head = BatchHead(("x",) * count, torch.ones(count, dtype=torch.bool), 3, 1, (), torch.zeros(count, 3, 8, 8))
    samples = [builder.parse(raw(record), view) for record in records]
    return builder.collate(head, samples, np.random.default_rng(0))


def changed(**fields: object) -> Record:
    record = make_record(0)
    return replace(record, vcr=(replace(record.vcr[0], **fields),))  # type: ignore[arg-type]


def test_persons_get_neutral_names_in_order() -> None:
    names = ["dog", "person", "car", "person"]
    assert nouns(names) == ["dog", NEUTRAL_NAMES[0], "car", NEUTRAL_NAMES[1]]
    assert len(set(NEUTRAL_NAMES)) == 15
    assert nouns(["person"] * 16)[15] == NEUTRAL_NAMES[0]


@pytest.mark.parametrize(
    ("parts", "text", "mentions"),
    [
        (("Why", "is", (0,), "near", (1,), "?"), "Why is dog near Alex ?", ((7, 10, 0), (16, 20, 1))),
        (((0, 1), "do", "n't", "run", "."), "dog and Alex do n't run .", ((0, 3, 0), (8, 12, 1))),
        (((1,), "'s", "hat", ",", "he", "said"), "Alex 's hat , he said", ((0, 4, 1),)),
        (("yes", "."), "yes .", ()),
    ],
)
def test_tags_become_nouns(parts: TaggedText, text: str, mentions: tuple[tuple[int, int, int], ...]) -> None:
    assert render(parts, ["dog", "Alex"]) == Rendered(text, mentions)


def words_of(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor) -> str:
    return str(tokenizer.decode(ids[ids != tokenizer.pad_token_id], skip_special_tokens=False))


def test_question_and_answers_are_pairs_with_types(tokenizer: PreTrainedTokenizerBase) -> None:
    record = make_record(0)  # objects: "red circle", "person" (called Casey), ""
    batch = collate(VCRBuilder(tokenizer, 40), [record])
    assert batch.input_ids.shape[:2] == (1, 4)
    assert batch.attention_mask.dtype == torch.bool
    assert (
        words_of(tokenizer, batch.input_ids[0, 1]) == "[CLS] what colour is red circle ?[SEP] red circle is green[SEP]"
    )
    assert batch.texts[0].startswith("what colour is red circle ? | red circle is red / red circle is green")
    assert batch.targets.tolist() == [0]
    assert (batch.families, batch.question_ids) == (("colour",), ("0",))
    # only object 0 is tagged, in question and answer: type 2 on both mentions, 0 elsewhere
    for row in range(4):
        types, ids = batch.token_types[0, row], batch.input_ids[0, row]
        assert set(types.tolist()) == {0, 2}
        assert words_of(tokenizer, ids[types == 2]) == "red circle red circle"
    assert batch.regions.shape == (1, 4, 1, 4)
    assert batch.regions[0, 2, 0].tolist() == [0.0, 0.0, 0.25, 0.25]
    assert set(batch.region_types.flatten().tolist()) == {2}
    assert batch.region_valid.all()


def test_rationales_follow_question_and_right_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    batch = collate(VCRBuilder(tokenizer, 60, "qa2r"), [make_record(1)])  # answer 1 is right, rationale 2
    text = (
        "[CLS] what colour is green square ?[SEP] green square is green[SEP] Casey and green square are yellow .[SEP]"
    )
    assert words_of(tokenizer, batch.input_ids[0, 3]) == text
    assert batch.targets.tolist() == [2]
    types, ids = batch.token_types[0, 3], batch.input_ids[0, 3]
    assert words_of(tokenizer, ids[types == 2]) == "green square green square green square"
    assert words_of(tokenizer, ids[types == 3]) == "Casey"
    assert batch.region_types[0, 3].tolist() == [2, 3]  # sorted by number, though the text names 1 first
    assert batch.regions[0, 3].tolist() == [[0.0, 0.0, 0.25, 0.25], [0.5, 0.5, 1.0, 1.0]]


def test_choices_with_fewer_objects_are_padded(tokenizer: PreTrainedTokenizerBase) -> None:
    choices = (("yes",), ((1,), "is", "red"), ((2,), "is", "red"), ("no",))
    record = replace(make_record(0), names=("cat", "person", "cross"))
    record = replace(record, vcr=(replace(record.vcr[0], question=("is", "it", "?"), answer_choices=choices),))
    batch = collate(VCRBuilder(tokenizer, 40), [record])
    assert batch.region_valid[0].tolist() == [[False], [True], [True], [False]]
    assert batch.region_types[0].tolist() == [[0], [2], [2], [0]]  # numbered within each pair
    assert batch.regions[0, 2, 0].tolist() == [0.25, 0.0, 0.5, 0.25]


def test_objects_beyond_the_last_type_stay_words_and_are_counted(tokenizer: PreTrainedTokenizerBase) -> None:
    batch = collate(VCRBuilder(tokenizer, 60, "qa2r", max_objects=1), [make_record(1)])
    assert set(batch.token_types.flatten().tolist()) == {0, 2}
    assert batch.regions.shape == (1, 4, 1, 4)
    assert "Casey" in words_of(tokenizer, batch.input_ids[0, 0])
    assert len(batch.skipped) == 4
    assert batch.skipped[0].kind == "object beyond data.max_objects"
    assert "choice 0: object 1" in batch.skipped[0].where


def test_without_object_types_regions_join_but_nothing_ties_them_to_mentions(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    typed = collate(VCRBuilder(tokenizer, 60, "qa2r"), [make_record(1)])
    plain = collate(VCRBuilder(tokenizer, 60, "qa2r", object_types=False), [make_record(1)])
    assert {2, 3} <= set(typed.token_types.flatten().tolist())
    assert set(plain.token_types.flatten().tolist()) == {TEXT_TYPE}
    assert set(plain.region_types[plain.region_valid].tolist()) == {IMAGE_TYPE}
    assert (TEXT_TYPE, IMAGE_TYPE) == (backbone.TEXT_TYPE, backbone.IMAGE_TYPE)
    for name in ("input_ids", "regions", "region_valid", "targets"):
        assert torch.equal(getattr(typed, name), getattr(plain, name))


def test_too_long_pairs_are_cut_from_the_longer_part(tokenizer: PreTrainedTokenizerBase) -> None:
    choices = (("red",) * 30, ("red",), ("blue",), ("green",))
    batch = collate(VCRBuilder(tokenizer, 20), [changed(answer_choices=choices)])
    ids = batch.input_ids[0]
    assert ids.shape == (4, 20)
    assert (ids == tokenizer.sep_token_id).sum(1).tolist() == [2, 2, 2, 2]
    first = words_of(tokenizer, ids[0])
    assert first.startswith("[CLS] what colour is red circle ?[SEP] red red")
    assert first.endswith("red[SEP]")
    assert words_of(tokenizer, ids[1]) == "[CLS] what colour is red circle ?[SEP] red[SEP]"


def test_a_crop_hides_the_region_but_keeps_the_mention(tokenizer: PreTrainedTokenizerBase) -> None:
    batch = collate(VCRBuilder(tokenizer, 40), [make_record(0)], View(48, 48, 12, 0, 48, 48))
    assert not batch.region_valid.any()
    assert 2 in batch.token_types


def test_hidden_labels_are_ignored_or_named(tokenizer: PreTrainedTokenizerBase) -> None:
    record = changed(answer_label=None, rationale_label=None)
    assert collate(VCRBuilder(tokenizer, 40), [record]).targets.tolist() == [IGNORED]
    with pytest.raises(SampleError, match="hidden answer"):
        VCRBuilder(tokenizer, 40, "qa2r").parse(raw(record), WHOLE)


def test_rationales_given_each_answer_are_sixteen_choices(tokenizer: PreTrainedTokenizerBase) -> None:
    record = make_record(1)  # answer 1 is right, rationale 2
    right, hidden = collate(VCRBuilder(tokenizer, 60, "qa2r"), [record]), replace(record.vcr[0], answer_label=None)
    builder = VCRBuilder(tokenizer, 60, "qa2r", conditions="all")
    batch = collate(builder, [record, replace(record, vcr=(hidden,))])
    assert batch.input_ids.shape[:2] == batch.regions.shape[:2] == batch.token_types.shape[:2] == (2, 16)
    assert batch.targets.tolist() == [1 * 4 + 2, IGNORED]
    assert torch.equal(batch.input_ids[0], batch.input_ids[1])
    for name in ("input_ids", "token_types", "regions", "region_types", "region_valid"):
        assert torch.equal(getattr(batch, name)[0, 4:8], getattr(right, name)[0]), name
    assert words_of(tokenizer, batch.input_ids[0, 15]) == (
        "[CLS] what colour is green square ?[SEP] green square is yellow[SEP] Casey and green square are yellow .[SEP]"
    )


def test_all_conditions_are_for_evaluation_and_rationales_alone(shards: Path, tokenizer_folder: Path) -> None:
    options: dict[str, Any] = {
        "root": str(shards),
        "sources": {"vcr": 1.0},
        "tokenizer": str(tokenizer_folder),
        "conditions": "all",
    }
    module = VCRDataModule(mode="qa2r", image_size=32, workers=0, batch_size=2, global_batch_size=2, **options)
    module.setup("predict")
    assert next(iter(module.predict_dataloader())).input_ids.shape[:2] == (2, 16)
    assert module.builder().conditions == "right"
    with pytest.raises(ValueError, match=r"data\.conditions is all, but data\.mode q2a"):
        VCRDataModule(mode="q2a", **options).check()
    plain = VCRDataModule(mode="q2a", object_types=False, **{**options, "conditions": "right"})
    assert not plain.eval_builder().object_types
    assert plain.facts().token_types == 2  # a model without rows for objects will do


@pytest.mark.parametrize(
    ("fields", "mode", "kind"),
    [
        ({"question": ("is", (3,), "?")}, "q2a", "bad tag"),
        ({"question": ()}, "q2a", "empty text"),
        ({"answer_choices": ANSWERS[:3]}, "q2a", "bad choices"),
        ({"answer_label": 4}, "q2a", "bad choices"),
        ({"answer_label": 4}, "qa2r", "bad choices"),
        ({"rationale_choices": (*RATIONALES[:3], ())}, "qa2r", "empty text"),
    ],
)
def test_defects_are_named(
    tokenizer: PreTrainedTokenizerBase, fields: dict[str, object], mode: Mode, kind: str
) -> None:
    with pytest.raises(SampleError) as error:
        VCRBuilder(tokenizer, 40, mode).parse(raw(changed(**fields)), WHOLE)
    assert error.value.kind == kind
    assert "train/000000.tar" in error.value.where


def test_all_words_count_for_mirroring(tokenizer: PreTrainedTokenizerBase) -> None:
    item = VCRItem("0", QUESTION, ANSWERS, 0, (*RATIONALES[:3], ("left", "of", (1,))), 0, "")
    record = replace(make_record(0), vcr=(item,))
    assert "left" in list(VCRBuilder(tokenizer, 40).words(raw(record)))
