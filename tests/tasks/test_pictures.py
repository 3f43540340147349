"""Drawings say the right thing: which answer is chosen, which is true, where objects are, who was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from tests.factories import ANSWERS, CLASSES, SIZE, pretrain_batch, statement_batch, vcr_batch, vqa_batch
from vle_lightning.batch import IGNORED, RetrievalBatch, VCRBatch
from vle_lightning.errors import UserError
from vle_lightning.tasks.drawings import draw_answers, draw_choices, draw_statements, find_objects, read_choices
from vle_lightning.tasks.pictures import OTHER, RIGHT, WRONG, Names, Picture, draw_attention, to_picture, wrapped
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.sheets import draw_confusion, gallery, retrieval_sheet

WORDS = ["[PAD]", "[CLS]", "[SEP]", "dog", "cat", "sees", "runs", "left"]
NAMES = Names(lambda ids: " ".join(WORDS[number] for number in ids), ("ball", "box"))
ABOVE = [f"answer {number}" for number in range(ANSWERS)]


def axes_of(picture: Picture, columns: int) -> list[list[Axes]]:
    axes = picture.figure.axes
    return [axes[start : start + columns] for start in range(0, len(axes), columns)]


def bars(axes: Axes) -> list[tuple[str, float, str]]:
    """Return text, length and colour of each bar, from top to bottom."""
    texts = [text.get_text() for text in axes.texts if not text.get_text().endswith("%")]
    bodies = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    colours = [to_hex(body.get_facecolor()) for body in bodies]
    return list(zip(texts, [round(body.get_width(), 4) for body in bodies], colours, strict=True))


def test_answers_are_ranked_and_the_truth_is_marked() -> None:
    batch = vqa_batch(rows=2)  # answer 0 has full credit in row 0, answer 1 has 0.3
    probabilities = torch.tensor([[0.2, 0.1, 0.9, 0, 0, 0, 0.3], [0.0, 0.8, 0.1, 0, 0, 0, 0.3]])
    heat = torch.rand(2, 1, 6, 6)
    first, second = axes_of(draw_answers(batch, probabilities, heat, ABOVE), 3)
    assert bars(first[2])[:4] == [
        ("answer 2", 0.9, WRONG),
        ("answer 6", 0.3, OTHER),
        ("answer 0", 0.2, RIGHT),
        ("answer 1", 0.1, RIGHT),
    ]
    assert bars(second[2])[0] == ("answer 1", 0.8, RIGHT)
    assert first[2].get_title() == "truth: answer 0 (1.0), answer 1 (0.3)"
    assert first[0].get_title() == "question 0"
    assert first[2].get_ylim() == (4.5, -0.5)  # the best on top


def test_answers_without_names_are_numbers_and_hidden_ones_are_not_known() -> None:
    batch = vqa_batch(rows=1)
    batch = replace(batch, targets=torch.zeros_like(batch.targets), answers=((),))
    (row,) = axes_of(draw_answers(batch, torch.eye(ANSWERS)[:1], None), 3)
    assert bars(row[2])[0] == ("0", 1.0, WRONG)
    assert row[2].get_title() == "truth: not known"
    assert row[1].get_title() == "the model sees no picture"


def test_a_statement_about_two_pictures_shows_both_with_their_own_attention() -> None:
    batch = statement_batch(rows=2, images=2)
    heat = torch.zeros(2, 2, 6, 6)
    heat[0, 0, 1, 2], heat[0, 1, 4, 5] = 0.5, 0.25
    shares = torch.tensor([[0.7, 0.3], [0.6, 0.4]])
    first, second = axes_of(draw_statements(batch, shares, heat, ("true", "false")), 5)
    for column, values in ((0, batch.pixel_values[0, 0]), (2, batch.pixel_values[0, 1])):
        assert (first[column].images[0].get_array() == to_picture(values)).all()  # type: ignore[union-attr]
    assert first[1].images[1].get_array()[1, 2] == 1  # type: ignore[index]
    assert first[3].images[1].get_array()[4, 5] == 1  # type: ignore[index]
    assert first[3].get_title() == "attention: 25% on patches, at most 25.0%"
    assert bars(first[4]) == [("true (chosen)", 0.7, RIGHT), ("false", 0.3, OTHER)]
    assert bars(second[4]) == [("true (chosen)", 0.6, WRONG), ("false", 0.4, RIGHT)]


def test_a_hidden_class_is_neither_right_nor_wrong() -> None:
    batch = replace(statement_batch(rows=1), targets=torch.tensor([IGNORED]))
    (row,) = axes_of(draw_statements(batch, torch.tensor([[0.1, 0.9]]), None, ("true", "false")), 3)
    assert bars(row[2]) == [("true", 0.1, OTHER), ("false (chosen)", 0.9, OTHER)]
    assert row[2].get_title() == "truth: not known"


def choices_batch(choices: int = 4) -> VCRBatch:
    """Make a question about a dog (object one) with choices about the dog, or about a cat that sees it."""
    batch = vcr_batch(rows=1)
    question = [1, 3, 6, 2]  # [CLS] dog runs [SEP]
    ids = torch.tensor([[[*question, 3, 7, 2, 0], [*question, 4, 5, 3, 2]] * (choices // 2)])
    types = torch.tensor([[[0, 2, 0, 0, 2, 0, 0, 0], [0, 3, 0, 0, 2, 0, 3, 0]] * (choices // 2)])
    dog, cat = [0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]
    return replace(
        batch,
        input_ids=ids,
        attention_mask=ids != 0,
        token_types=types,
        regions=torch.tensor([[[dog, [0.0] * 4], [cat, dog]] * (choices // 2)]),
        region_valid=torch.tensor([[[True, False], [True, True]] * (choices // 2)]),
        region_types=torch.tensor([[[2, 0], [2, 3]] * (choices // 2)]),
        targets=torch.tensor([1]),
    )


def test_an_object_has_one_number_in_all_choices_whatever_its_token_type() -> None:
    batch = choices_batch()
    objects = find_objects(batch, 0)
    assert [box.tolist() for box in objects.boxes] == [[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]
    given, choices = read_choices(batch, 0, range(2), NAMES, objects)
    assert given == "dog[1] runs"
    assert choices == ["A: dog[1] left", "B: cat[2] sees dog[1]"]


def test_choices_stand_with_their_shares_and_boxes_lie_on_objects() -> None:
    heat = torch.zeros(1, 4, 6, 6)
    heat[0, 2, 3, 3] = 0.1  # of the chosen one
    shares = torch.tensor([[0.1, 0.2, 0.6, 0.1]])
    (row,) = axes_of(draw_choices(choices_batch(), shares, heat, NAMES), 3)
    assert bars(row[2]) == [
        ("A: dog[1] left", 0.1, OTHER),
        ("B: cat[2] sees dog[1]", 0.2, RIGHT),
        ("C: dog[1] left (chosen)", 0.6, WRONG),
        ("D: cat[2] sees dog[1]", 0.1, OTHER),
    ]
    assert row[2].get_title() == "chosen: C; B is right"
    assert row[1].images[1].get_array()[3, 3] == 1  # type: ignore[index]
    drawn = [(*box.get_xy(), box.get_width(), box.get_height()) for box in row[0].patches if isinstance(box, Rectangle)]
    half = SIZE / 2
    assert drawn == [(-0.5, -0.5, half, half), (half - 0.5, half - 0.5, half, half)]
    assert [(text.get_text(), text.xy) for text in row[0].texts] == [  # type: ignore[attr-defined]
        ("1", (-0.5, -0.5)),
        ("2", (half - 0.5, half - 0.5)),
    ]


def test_of_sixteen_rationales_those_given_the_right_answer_are_drawn() -> None:
    batch = replace(choices_batch(16), targets=torch.tensor([2 * 4 + 3]))
    shares = torch.full((1, 16), 0.1)
    shares[0, 0], shares[0, 8] = 0.99, 0.7
    (row,) = axes_of(draw_choices(batch, shares, None, NAMES), 3)
    assert [(length, colour) for _, length, colour in bars(row[2])] == [
        (0.7, WRONG),
        (0.1, OTHER),
        (0.1, OTHER),
        (0.1, RIGHT),
    ]
    assert row[2].get_title() == "chosen: A; D is right"


def test_a_confusion_matrix_has_true_classes_in_rows() -> None:
    axes = draw_confusion([[8, 2], [0, 0]], ("yes", "no")).figure.axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "8\n80%", (1, 0): "2\n20%", (0, 1): "0\n0%", (1, 1): "0\n0%"}  # (predicted, true)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert axes.get_title() == "8 of 10 right; shares of each row"


def test_a_confusion_matrix_of_other_classes_is_refused() -> None:
    with pytest.raises(UserError, match="2 classes"):
        draw_confusion([[1, 0, 0], [0, 1, 0]], ("yes", "no"))


def test_a_retrieval_sheet_ranks_images_and_frames_the_right_one() -> None:
    pictures = torch.randn(6, 3, 8, 8)
    scores = torch.zeros(6, 6)
    scores[:, 0] = torch.tensor([2.0, 5.0, 2.0, 1.0, 0.0, -1.0])  # the right image of text 0 ties for second place
    owners = torch.arange(6)
    figure = retrieval_sheet(pictures, [f"text {n}" for n in range(6)], scores, owners).figure
    found = figure.axes[1:6]
    shown = [
        next(n for n in range(6) if (axis.images[0].get_array() == to_picture(pictures[n])).all())  # type: ignore[union-attr]
        for axis in found
    ]
    assert shown[0] == 1
    assert set(shown[1:3]) == {0, 2}
    framed = [to_hex(axis.spines["left"].get_edgecolor()) for axis in found]
    assert [image for image, colour in zip(shown, framed, strict=True) if colour == RIGHT] == [0]
    told = figure.axes[0].texts[0].get_text()
    assert "text 0" in told
    assert "number 3 of 6" in told  # a tie counts against us


def test_a_retrieval_sheet_lists_the_texts_of_an_image() -> None:
    scores = torch.tensor([[0.5, 3.0, 1.0, 0.0]])
    figure = retrieval_sheet(torch.randn(1, 3, 8, 8), ["a", "b", "c", "d"], scores, torch.zeros(4, dtype=torch.long))
    texts = [text.get_text() for text in figure.figure.axes[-1].texts]
    assert texts == ["3.00", "b", "1.00", "c", "0.50", "a", "0.00", "d"]


def test_a_sheet_of_other_sizes_is_refused() -> None:
    with pytest.raises(UserError, match="scores 2 x 1 and 1 owners, not"):
        retrieval_sheet(torch.zeros(2, 3, 8, 8), ["a"], torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))


def test_a_gallery_keeps_images_with_their_texts() -> None:
    batch = RetrievalBatch(
        sample_ids=("i0", "i1", "i2"),
        valid=torch.tensor([False, True, True]),
        step=0,
        number=0,
        pixel_values=torch.arange(3.0)[:, None, None, None].expand(3, 3, 8, 8),
        input_ids=torch.arange(5)[:, None],
        attention_mask=torch.ones(5, 1, dtype=torch.bool),
        keys=torch.arange(3)[:, None].expand(-1, 3),
        owners=torch.tensor([2, 0, 1, 2, 1]),
        image_ids=("i0", "i1", "i2"),
        text_ids=tuple("abcde"),
        texts=tuple("ABCDE"),
        shifts=torch.zeros(0, dtype=torch.long),
    )
    kept = gallery(batch, 1)
    assert (kept.image_ids, kept.text_ids, kept.owners.tolist()) == (("i1",), ("c", "e"), [0, 0])
    assert kept.input_ids.flatten().tolist() == [2, 4]
    assert kept.pixel_values[0, 0, 0, 0] == 1
    whole = gallery(batch)
    assert (whole.text_ids, whole.owners.tolist()) == (("a", "c", "d", "e"), [1, 0, 1, 0])
    fillers = gallery(replace(batch, valid=torch.zeros(3, dtype=torch.bool)))  # a rank that has no more draws along
    assert (fillers.image_ids, fillers.text_ids, fillers.valid.tolist()) == (("i0",), ("b",), [False])


@pytest.mark.parametrize(("objectives", "told"), [(["pbc", "mlm"], "PBC"), (["itm"], "attention")])
def test_pretraining_shows_where_it_looked_with_or_without_pbc(objectives: Sequence[str], told: str) -> None:
    task = PretrainTask("tiny", objectives=dict.fromkeys(objectives, 1.0), classes=CLASSES).eval()
    (picture,) = task.pictures(pretrain_batch(rows=2), Names(str, ()))
    assert axes_of(picture, 3)[0][1].get_title().startswith(told)


def test_attention_is_drawn_relative_to_its_strongest_patch() -> None:
    (row,) = axes_of(draw_answers(vqa_batch(rows=1), torch.eye(ANSWERS)[:1], torch.full((1, 1, 2, 2), 0.05)), 3)
    draw_attention(row[1], to_picture(torch.zeros(3, 8, 8)), torch.tensor([[0.1, 0.05], [0.0, 0.0]]))
    assert row[1].images[-1].get_array().tolist() == [[1.0, 0.5], [0.0, 0.0]]  # type: ignore[union-attr]
    assert row[1].get_title() == "attention: 15% on patches, at most 10.0%"


def test_long_texts_are_cut_with_dots() -> None:
    assert wrapped("one two three four", width=8, lines=2) == "one two\n..."
    assert wrapped("one two", width=8) == "one two"
