from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from vle_lightning.errors import UserError
from vle_lightning.inference.items import Amount, Item, amount_of, check_count, gather

FIELDS = {"image": "image", "question": "text"}


def told(items: Sequence[Item]) -> list[tuple[object, object]]:
    return [(item.image, item.text) for item in items]


@pytest.mark.parametrize("value", ["a.png", b"bytes", np.zeros((2, 2)), {"a": 1}, 3, io.BytesIO(b"two\nlines")])
def test_a_picture_in_any_form_is_one(value: object) -> None:
    assert amount_of(value) is Amount.ONE


def test_one_item_gives_one_result_and_a_list_gives_a_list() -> None:
    assert gather(None, FIELDS, image="a", question="why").answer(8, told) == ("a", "why")
    assert gather(None, FIELDS, image=["a"], question=["why"]).answer(8, told) == [("a", "why")]
    assert gather(None, FIELDS, image=[], question=[]).answer(8, told) == []


def test_a_single_value_goes_with_every_item() -> None:
    assert gather(None, FIELDS, image="a", question=("x", "y")).answer(8, told) == [("a", "x"), ("a", "y")]


def test_dictionaries_give_the_same_as_keywords() -> None:
    items = [{"image": "a", "question": "x"}, {"image": "b", "question": "y"}]
    assert gather(items, FIELDS).answer(8, told) == [("a", "x"), ("b", "y")]
    assert gather(items[0], FIELDS).answer(8, told) == ("a", "x")


def test_batches_are_as_large_as_asked() -> None:
    sizes: list[int] = []

    def respond(items: Sequence[Item]) -> list[str]:
        sizes.append(len(items))
        return [item.text for item in items]

    assert gather(None, FIELDS, image="a", question=list("abcde")).answer(2, respond) == list("abcde")
    assert sizes == [2, 2, 1]
    with pytest.raises(UserError, match="batch_size is -1"):
        gather(None, FIELDS, image="a", question="b").answer(-1, respond)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("2", "top_k is '2', a str; give a whole number"),
        (1.5, "top_k is 1.5, a float"),
        (True, "top_k is True, a bool"),
        (None, "top_k is None"),
        (0, "top_k is 0; it must be at least 1"),
    ],
)
def test_a_count_is_a_whole_number_above_zero(value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_count("top_k", value)
    check_count("top_k", 1)
    check_count("top_k", np.int64(3))


def test_a_stream_is_read_as_results_are_taken() -> None:
    read: list[str] = []

    def questions() -> Iterator[str]:
        for letter in "abcd":
            read.append(letter)
            yield letter

    results = gather(None, FIELDS, image="i", question=questions()).answer(2, told)
    assert read == []
    assert next(results) == ("i", "a")
    assert read == ["a", "b"]
    assert list(results) == [("i", "b"), ("i", "c"), ("i", "d")]


def test_items_carry_their_number_for_messages() -> None:
    assert [item.place for item in gather(None, FIELDS, image="a", question=["x", "y"]).items] == [
        "item 0: ",
        "item 1: ",
    ]
    assert [item.place for item in gather(None, FIELDS, image="a", question="x").items] == [""]


def test_lists_of_unequal_length_are_refused_at_the_missing_item() -> None:
    with pytest.raises(UserError, match="item 1: there is no text for it"):
        gather(None, FIELDS, image=["a", "b"], question=["x"]).answer(8, told)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            [{"image": "a"}, {"picture": "b"}],
            "item 1: an item is a dictionary with image, question; this one has picture",
        ),
        ([3], "item 0: an item is a dictionary with image, question; this one is a int"),
    ],
)
def test_items_of_another_form_are_named(items: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gather(items, FIELDS).answer(8, told)


def test_nothing_and_both_forms_at_once_are_refused() -> None:
    for items, image in ((None, None), ([], "a")):
        with pytest.raises(UserError, match="give one of two"):
            gather(items, FIELDS, image=image)


@pytest.mark.parametrize(("text", "message"), [(" ", "is empty"), (None, "is missing"), (3, "is a int")])
def test_a_text_that_is_none_is_an_error(text: object, message: str) -> None:
    with pytest.raises(UserError, match=f"item 4: the question {message}"):
        Item("item 4: ", text=text).read_text("question")
