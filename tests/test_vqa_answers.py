"""The official normalisation, slip by slip, by hand, and against a restatement that walks over the characters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vle_lightning.vqa_answers import CONTRACTIONS, normalise, process_punctuation, strip_answer

MARKS = (";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!")
WORDS_AS_WRITTEN = {  # enough of each kind of word to tell whether and when words are looked up
    **{"none": "0", "zero": "0", "one": "1", "two": "2", "ten": "10", "eleven": "eleven"},
    **{"dont": "don't", "don't": "don't", "somebody'd": "somebodyd", "id've": "id've", "its": "its", "twas": "'twas"},
}


def walked(answer: str) -> str:
    """Normalise, character by character."""
    text = "".join(" " if letter in "\n\t" else letter for letter in answer).strip()
    padded = f"\0{text}\0"
    around = [(padded[i], letter, padded[i + 2]) for i, letter in enumerate(text)]
    digit_comma = any(before.isdecimal() and letter == "," and after.isdecimal() for before, letter, after in around)
    spaced = {letter for before, letter, after in around if " " in (before, after)}
    unmarked = ""
    for letter in text:
        if letter not in MARKS:
            unmarked += letter
        elif not digit_comma and letter not in spaced:
            unmarked += " "
    kept, taken = "", 0
    for place, letter in enumerate(unmarked):
        if letter == "." and taken < 32 and not unmarked[place + 1 : place + 2].isdecimal():
            taken += 1
        else:
            kept += letter
    words = [WORDS_AS_WRITTEN.get(word, word) for word in kept.lower().split()]
    return " ".join(word for word in words if word not in ("a", "an", "the"))


PIECES = st.one_of(  # no pieces together make a word of the tables that is not listed above
    st.sampled_from(
        [*WORDS_AS_WRITTEN, *(word.upper() for word in WORDS_AS_WRITTEN), "a", "An", "the", "kiwi", "7", "٣"]
    ),
    st.sampled_from([*MARKS, " ", " ", " ", "\n", "\t", "\r", ".", ".", ",", "'", ":", "." * 33]),
)


@given(st.lists(PIECES, max_size=12).map("".join))
@settings(max_examples=300, deadline=None)
def test_the_normalisation_equals_a_walk_over_the_characters(answer: str) -> None:
    assert normalise(answer) == walked(answer)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        # a mark beside a space anywhere is taken out, everywhere; beside none it becomes a space
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("red,blue, green", "redblue green"),
        ("red ,blue,green", "red bluegreen"),
        ("black-and-white", "black and white"),
        ("black-and -white", "blackand white"),
        ("yes/no", "yes no"),
        # each mark is judged by itself, and by the answer as it came: "?" stands beside a comma there, not a space
        ("x-ray (big)", "x ray big"),
        ("why?,who", "why who"),
        ("?", ""),
        ("stop!", "stop"),
        # what an edge is: the mark next to it stands beside no space and becomes one, which splitting removes
        ("(left)", "left"),
        # a comma between digits anywhere: every mark is taken out
        ("1,000", "1000"),
        ("1,000-dollar/bill", "1000dollarbill"),
        ("1,a 2", "1 2"),
        ("1,,2", "1 2"),
        # neither colon nor apostrophe is a mark
        ("10:30", "10:30"),
        ("men's", "men's"),
        # a period goes unless a digit follows it
        ("u.s. flag", "us flag"),
        ("3.5", "3.5"),
        ("3.", "3"),
        (".5", ".5"),
        ("v.2", "v.2"),
        ("..5", ".5"),
        ("yes . no", "yes no"),
        ("3 .", "3"),
        # the flag passed as a count: the 33rd period and later ones stay
        ("." * 32 + "x", "x"),
        ("." * 33 + "x", ".x"),
        ("." * 40, "." * 8),
        # number words, whole words only, after the marks are gone
        ("none", "0"),
        ("Zero", "0"),
        ("two-three", "2 3"),
        ("ten.", "10"),
        ("eleven", "eleven"),
        ("someone", "someone"),
        ("one two three four five six seven eight nine", "1 2 3 4 5 6 7 8 9"),
        # articles
        ("A man on the  moon", "man on moon"),
        ("an", ""),
        ("a.", ""),
        ("theater", "theater"),
        # contractions, in lower case, after the articles
        ("Dont know", "don't know"),
        ("don't", "don't"),
        ("somebody'd", "somebodyd"),
        ("somebodyd've", "somebody'd've"),
        ("twas", "'twas"),
        ("'ow'sat", "'ow's'at"),
        ("oclock", "o'clock"),
        ("Im", "im"),
        ("Id've", "id've"),
        ("hell", "hell"),
        # white space
        ("\tred\nwine ", "red wine"),
        ("red,\nblue", "red blue"),
        ("red\r\nwine", "red wine"),
    ],
)
def test_by_hand(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


def test_marks_leave_spaces_and_case_as_they_are() -> None:
    assert process_punctuation("Red/Blue") == "Red Blue"
    assert process_punctuation("(Red) hat") == " Red hat"  # ")" stands beside a space, "(" does not


def test_only_line_breaks_and_tabs_inside_are_replaced() -> None:
    assert strip_answer(" \ta\tb\nc  d\r ") == "a b c  d"


def test_every_mark_is_one() -> None:
    for mark in MARKS:
        assert normalise(f"x{mark}y") == "x y", mark
        assert normalise(f"x{mark} y") == "x y", mark
        assert normalise(f"x{mark}y z{mark} z") == "xy z z", mark


def test_the_table_of_contractions() -> None:
    assert len(CONTRACTIONS) == 120
    letters_changed = {key for key, word in CONTRACTIONS.items() if key.replace("'", "") != word.replace("'", "")}
    assert not letters_changed
    assert {key for key, word in CONTRACTIONS.items() if key == word} == {"let's", "she's"}
    assert {key for key, word in CONTRACTIONS.items() if key.count("'") > word.count("'")} == {"somebody'd"}
    assert {key for key in CONTRACTIONS if key != key.lower()} == {"Id've", "I'dve", "Im", "Ive"}
