"""Statements about drawn scenes: what they mean, and that their texts tell nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest

from datamodules.nlvr_world import box_properties as boxes
from datamodules.nlvr_world import statements
from datamodules.nlvr_world import tower_properties as towers
from datamodules.nlvr_world.build import draw_chunk
from datamodules.nlvr_world.chunks import Chunk
from datamodules.nlvr_world.phrases import Kind, draw_number
from datamodules.nlvr_world.property import Property
from datamodules.nlvr_world.scenes import COLOURS, SHAPES, SIZES, Box, Item, Scene, draw_scene
from datamodules.nlvr_world.statements import Statement

BLOCKS = {"y": "yellow", "k": "black", "b": "blue"}


def tower(colours: str) -> Box:
    return tuple(Item(40, 80 - 21 * level, 20, "square", BLOCKS[c]) for level, c in enumerate(colours))


def spelled(draw: Callable[[np.random.Generator], Property], words: str) -> Property:
    """Return the property that draws of a form give these words."""
    return next(p for seed in range(20_000) if (p := draw(np.random.default_rng(seed))).words == words)


def stated(draw: Callable[[np.random.Generator], Statement], text: str) -> Statement:
    return next(s for seed in range(20_000) if (s := draw(np.random.default_rng(seed))).text == text)


@pytest.mark.parametrize(
    ("form", "words", "true", "false"),
    [
        (towers.block_at, "a blue block at the base", "by", "yb"),
        (towers.block_at, "a blue block at the top", "yb", "by"),
        (towers.block_at, "a black block as the second block from the base", "ykb", "kbk"),
        (towers.stacked, "a blue block above a black block", "ykb", "kyb"),
        (towers.stacked, "a blue block under a black block", "bk", "kb"),
        (towers.together, "two yellow blocks stacked together", "kyy", "yky"),
        (towers.only_blocks, "only black blocks", "kkk", "kkb"),
        (towers.block_colours, "2 different colors", "kyk", "kyb"),
        (towers.between, "a yellow block between two black blocks", "bkyk", "kybk"),
        (towers.together, "two yellow blocks stacked together", "yyky", "kyyy"),
        (towers.together, "at least two yellow blocks stacked together", "kyyy", "yky"),
        (towers.run_at_end, "two black blocks at the base", "kkb", "bkk"),
        (towers.run_at_end, "two black blocks at the base", "kkbk", "kkk"),
        (towers.run_at_end, "at least two black blocks at the top", "kkk", "kkb"),
    ],
)
def test_what_towers_have(form: Callable[[np.random.Generator], Property], words: str, true: str, false: str) -> None:
    prop = spelled(form, words)
    assert prop.holds(tower(true))
    assert not prop.holds(tower(false))


@pytest.mark.parametrize(
    ("form", "text", "true", "false"),
    [
        (statements.base_of, "there is a blue block as the base of a tower", "y,by,k", "y,yb,k"),
        (statements.base_of, "there is a black block at the top of a tower with 3 blocks", "y,byk,k", "yk,byb,k"),
        (statements.base_of, "there are two black blocks at the base of a tower", "kk,b,y", "kkk,b,bkk"),
        (statements.base_of, "there are at least two black blocks at the base of a tower", "kkk,b,y", "k,b,bkk"),
        (statements.ends_of_all, "all three bases are black", "k,ky,kb", "k,ky,bk"),
        (statements.tower_of_colour, "there is a blue tower", "y,bb,k", "y,by,k"),
        (statements.same_height, "two towers have the same number of blocks", "y,by,k", "y,by,kkk"),
        (statements.same_height, "two towers have the same number of blocks", "y,by,k", "y,b,k"),
        (statements.block_on_block, "there is exactly one blue block on a black block", "kb,y,k", "kb,y,kb"),
        (statements.block_exists, "there is a blue block", "y,yb,k", "y,k,yk"),
        (statements.total_blocks, "there are two blue blocks", "kb,y,b", "kb,bb,k"),
    ],
)
def test_what_is_said_of_three_towers(
    form: Callable[[np.random.Generator], Statement], text: str, true: str, false: str
) -> None:
    statement = stated(form, text)
    assert statement.holds(tuple(map(tower, true.split(","))))
    assert not statement.holds(tuple(map(tower, false.split(","))))


def test_what_touches_a_wall_has_no_pixel_between() -> None:
    def scene(x: int) -> Scene:
        return ((Item(x, 40, 20, "circle", "blue"),), (Item(30, 0, 20, "square", "blue"),), ())

    statement = stated(statements.at_walls, "there is a blue circle touching the wall")
    assert [statement.holds(scene(x)) for x in (79, 80)] == [False, True]
    corner = stated(statements.at_walls, "there is a blue square touching a corner")
    assert not corner.holds(scene(80))
    assert corner.holds(((Item(80, 0, 20, "square", "blue"),), (), ()))


def test_kinds_side_by_side_are_different_objects() -> None:
    circle, black = Kind(None, "circle", None, "circle"), Kind("black", None, None, "black item")
    assert not circle.excludes(black)
    assert Kind("black", "circle", None, "black circle").excludes(Kind("blue", None, None, "blue item"))
    assert Kind("black", None, "big", "big black item").excludes(Kind(None, None, "small", "small item"))
    for seed in range(300):
        prop = boxes.counted_kinds(np.random.default_rng(seed))
        if prop.words.split()[0] == "a" and prop.words.count(" a ") == 1 and " and a " in prop.words:
            items = (
                Item(0, 0, pixels, shape, colour) for pixels in SIZES.values() for shape in SHAPES for colour in COLOURS
            )
            assert not any(prop.holds((item,)) for item in items)


@pytest.mark.parametrize(
    ("other", "decides", "holds"),
    [
        (Item(40, 30, 10, "circle", "black"), True, True),
        (Item(40, 20, 10, "circle", "black"), False, None),  # the same edge
        (Item(40, 25, 10, "circle", "black"), False, None),  # the same centre
        (Item(40, 15, 30, "circle", "black"), False, None),  # the higher edge of two, with the same centre
        (Item(40, 18, 30, "circle", "black"), False, None),  # the higher edge, with the lower centre
        (Item(40, 5, 10, "circle", "black"), True, False),
        (None, False, None),
    ],
)
def test_one_object_is_above_the_others_by_its_centre_and_by_its_edge(
    other: Item | None, decides: bool, holds: bool | None
) -> None:
    box = (Item(0, 20, 20, "circle", "blue"), *([other] if other else []))
    prop = spelled(boxes.topmost, "a blue circle above all the others")
    assert prop.about(box) == decides
    assert not decides or prop.holds(box) == holds


def test_a_statement_is_about_scenes_whose_boxes_all_decide_it() -> None:
    decided = (Item(0, 20, 20, "circle", "blue"), Item(40, 30, 10, "circle", "black"))
    prop = spelled(boxes.topmost, "a blue circle above all the others")
    statement = statements.quantified(np.random.default_rng(0), "box", "boxes", prop)
    assert statement.about((decided, decided, decided))
    assert not statement.about((decided, decided[:1], decided))


@pytest.mark.parametrize(
    ("text", "truths"),  # of none to three towers
    [
        ("one of the towers has a top", [False, True, False, False]),
        ("at least one tower has a top", [False, True, True, True]),
        ("there is a tower with a top", [False, True, True, True]),
        ("there are two towers with a top", [False, False, True, False]),
        ("each tower has a top", [False, False, False, True]),
        ("none of the towers have a top", [True, False, False, False]),
    ],
)
def test_how_many_towers_have_a_property(text: str, truths: list[bool]) -> None:
    prop = Property("a top", lambda box: len(box) > 1)
    statement = stated(lambda rng: statements.quantified(rng, "tower", "towers", prop), text)
    scenes = [tuple(tower("ky" if place < count else "k") for place in range(3)) for count in range(4)]
    assert [statement.holds(scene) for scene in scenes] == truths


@pytest.mark.parametrize(
    ("words", "truths"),  # of none to four
    [
        ("a", [False, True, True, True, True]),
        ("2", [False, False, True, False, False]),
        ("exactly 2", [False, False, True, False, False]),
        ("only 2", [False, False, True, False, False]),
        ("at least 2", [False, False, True, True, True]),
        ("2 or more", [False, False, True, True, True]),
        ("at most 2", [True, True, True, False, False]),
        ("2 or fewer", [True, True, True, False, False]),
        ("more than 2", [False, False, False, True, True]),
    ],
)
def test_numbers_mean_what_they_say(words: str, truths: list[bool]) -> None:
    rng = np.random.default_rng(0)
    number = next(n for n in (draw_number(rng, 4) for _ in range(20_000)) if n.words == words)
    assert [number.test(count) for count in range(5)] == truths


@pytest.mark.parametrize("form", [towers.ends, boxes.same_form, boxes.colours, towers.block_colours])
def test_no_statement_seems_to_compare_boxes_where_one_box_is_meant(
    form: Callable[[np.random.Generator], Property],
) -> None:
    rng = np.random.default_rng(4)
    props = [prop for prop in (form(rng) for _ in range(300)) if "same" in prop.words or form is not towers.ends]
    texts = [statements.quantified(rng, "tower", "towers", prop).text for prop in props]
    verbs = {text.partition("towers ")[2].split()[0] for text in texts if "towers" in text}
    assert verbs  # of "one of the towers has"
    assert verbs <= {"has", "contains", "holds"}


def items(text: str) -> Box:
    """Return items of the colours that are named, all circles of a size."""
    return tuple(Item(30 * place, 0, 20, "circle", BLOCKS[c]) for place, c in enumerate(text))


@pytest.mark.parametrize(
    ("form", "words", "one"),
    [
        (towers.ends, "a blue base and a blue top", False),
        (towers.ends, "the same color at top and bottom", False),
        (boxes.colours, "items of the same color", False),
        (boxes.colours, "only one color", True),
        (boxes.same_form, "items of the same shape", False),
        (boxes.same_form, "items of the same size", False),
        (boxes.only, "items of only blue colour", False),
        (boxes.only, "only blue items", True),
    ],
)
def test_a_plural_and_two_ends_are_of_more_than_one_object(
    form: Callable[[np.random.Generator], Property], words: str, one: bool
) -> None:
    prop = spelled(form, words)
    assert [prop.holds(items("b")), prop.holds(items("bb"))] == [one, True]


def test_the_tower_of_a_height_is_the_only_one() -> None:
    scenes = [tuple(map(tower, text.split(","))) for text in ("y,k,kkk", "y,kk,k", "kk,yy,k")]
    rng = np.random.default_rng(5)
    drawn = [s for s in (statements.of_height(rng) for _ in range(400)) if "tower with 2 block" in s.text]
    the = [s for s in drawn if s.text.startswith("the ")]
    some = [s for s in drawn if s.text.startswith("there ")]
    assert the
    assert some
    assert all([s.about(scene) for scene in scenes] == [False, True, False] for s in the)
    assert all([s.about(scene) for scene in scenes] == [False, True, True] for s in some)


def test_none_of_the_objects_is_said_where_there_are_some() -> None:
    rng = np.random.default_rng(6)
    drawn = [s for s in (statements.at_walls(rng) for _ in range(2000)) if "none of the blue circles" in s.text]
    assert drawn
    assert all(s.about((items("b"), (), ())) and not s.about((items("k"), (), ())) for s in drawn)


def test_not_touching_is_said_of_any_wall_or_a_named_one() -> None:
    rng = np.random.default_rng(7)
    texts = [s.text for s in (statements.at_walls(rng) for _ in range(3000)) if "not touching" in s.text]
    places = {text.partition("not touching ")[2] for text in texts}
    assert {"any wall", "any corner", "the wall"} <= places
    assert not places & {"a wall", "an edge", "a side", "a corner", "the corner", "one of the corners"}


def test_each_text_is_as_often_true_as_false() -> None:
    labels: dict[tuple[str, object], Counter[object]] = defaultdict(Counter)
    for drawn in draw_chunk(Chunk("nlvr", "train", 0, 60, (0,))):
        identifier = str(drawn.row["identifier"]).partition("-")[0]
        labels[identifier, drawn.row["sentence"]][drawn.row["label"]] += 1
    assert len(labels) == 60
    assert all(counts == {"true": 1, "false": 1} for counts in labels.values())


def test_both_layouts_have_statements_of_all_forms_that_scenes_can_decide() -> None:
    rng = np.random.default_rng(3)
    for layout, forms in (*statements.FORMS.items(), *statements.EASY.items()):
        scenes = [draw_scene(layout, rng) for _ in range(300)]
        for _, form in forms:
            decided = [len({s.holds(scene) for scene in scenes}) == 2 for s in (form(rng) for _ in range(20))]
            assert sum(decided) >= 5, form.__name__
