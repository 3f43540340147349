"""The texts of the published VCR pipelines (iflytek/VLE): tags to nouns, tokens, truncation, tokenising again."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from vle_lightning.errors import UserError

Mode = Literal["q2a", "qa2r"]

CHOICES = 4
MAX_LENGTH = 80  # tokens of a text, special ones included
UNTAGGED = -1  # the tag of a token that mentions no object
PRIVATE_USE = "Co"  # Unicode category; the published pipelines leave out words with such a character


class Words(NamedTuple):
    """A text (or part of one) as tokens; truncation shortens the two token lists in place."""

    tokens: list[str]
    tags: list[int]  # number of the object that each token names, or UNTAGGED
    raw: list[str]  # words before tokenising and truncation


def build_texts(
    annotation: Mapping[str, Any], task: Mode, tokenizer: PreTrainedTokenizerBase, called: Sequence[str]
) -> tuple[tuple[Words, ...], int | None]:
    """Return the four texts, their parts joined by SEP and truncated, and the number of the right choice if known.

    The parts that the choices share are truncated once for all: one long choice shortens them in all four texts.

    Args:
        annotation: in VCR's official layout.
        task: q2a gives the question, qa2r the question and the right answer.
        tokenizer: of the checkpoint.
        called: the noun of each object.

    Raises:
        UserError: a key is missing, a label or a tag is out of range, or there are not four choices.
    """
    answers, label = _choices(annotation, "answer")
    given, choices = [look_up(annotation, "question")], answers
    if task == "qa2r":
        if label is None:
            raise UserError("'answer_label' is missing; qa2r needs the right answer")
        given.append(answers[label])
        choices, label = _choices(annotation, "rationale")
    shared = [words(text, called, tokenizer) for text in given]
    own = [words(text, called, tokenizer) for text in choices]
    for choice in own:
        truncate(shared, choice)
    return tuple(_join([*shared, choice], str(tokenizer.sep_token)) for choice in own), label


def words(text: Sequence[str | list[int]], called: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Words:
    """Tokenise a text word by word; the objects of one tag are joined by "and".

    Raises:
        UserError: a tag names no object.
    """
    found = Words([], [], [])
    for position, part in enumerate(text):
        pieces: list[tuple[str, int]] = [(part, UNTAGGED)] if isinstance(part, str) else []
        for number, tag in enumerate(() if isinstance(part, str) else part):
            if not 0 <= tag < len(called):
                raise UserError(f"the text {list(text)} tags object {tag} of {len(called)}; mend the annotation")
            pieces += [("and", UNTAGGED)] * (number > 0) + [(called[tag], tag)]
        if any(unicodedata.category(letter) == PRIVATE_USE for word, _ in pieces for letter in word):
            continue
        for number, (word, tag) in enumerate(pieces):
            tokens = tokenizer.tokenize(word)
            if number and tag == UNTAGGED:
                tokens = tokens[:1]  # of "and", as published
            found.tokens.extend(tokens)
            found.tags.extend([tag] * len(tokens))
            found.raw.append(f" {word}" if position or number else word)
    return found


def truncate(shared: Sequence[Words], choice: Words) -> None:
    """Shorten, in place, what is given and the choice until they fit with CLS and a SEP behind each.

    Token by token, the longer side loses its last one; if both are equal, the choice beside a question, but a
    question and its answer beside a rationale, and of these the question first, down to one token.
    """
    room = MAX_LENGTH - 2 - len(shared)
    while (given := sum(len(part.tokens) for part in shared)) + len(choice.tokens) > room:
        side = choice
        if given > len(choice.tokens) or (given == len(choice.tokens) and len(shared) > 1):
            side = next((part for part in shared if len(part.tokens) > 1), shared[-1])
        side.tokens.pop()
        side.tags.pop()


def retokenise(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Write ids as text and tokenise that again, as published, with CLS and SEP around.

    What is not in the vocabulary comes back as the unknown token, and the rest of its word as a new word.
    """
    special = set(tokenizer.all_special_ids)
    row: list[int] = []
    run: list[int] = []
    for index in (*ids, tokenizer.sep_token_id):
        if index not in special:
            run.append(index)
            continue
        row += tokenizer.convert_tokens_to_ids(tokenizer.tokenize("".join(tokenizer.convert_ids_to_tokens(run))))
        row.append(index)
        run = []
    return [tokenizer.cls_token_id, *row[:-1][: MAX_LENGTH - 2], tokenizer.sep_token_id]


def look_up(source: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 (parsed JSON)
    """Return a value of VCR's official layout.

    Raises:
        UserError: the key is missing.
    """
    if key not in source:
        raise UserError(f"{key!r} is missing; VCR's official layout has it, here are {sorted(source)}")
    return source[key]


def _choices(annotation: Mapping[str, Any], kind: str) -> tuple[Sequence[Any], int | None]:
    choices, label = look_up(annotation, f"{kind}_choices"), annotation.get(f"{kind}_label")
    if len(choices) != CHOICES or label not in (None, *range(CHOICES)):
        raise UserError(f"{kind}_choices has {len(choices)} entries, {kind}_label is {label}; give four, and 0 to 3")
    return choices, label


def _join(parts: Sequence[Words], separator: str) -> Words:
    joined = Words([], [], [])
    for number, part in enumerate(parts):
        joined.tokens.extend([separator] * (number > 0) + part.tokens)
        joined.tags.extend([UNTAGGED] * (number > 0) + part.tags)
        joined.raw.extend(part.raw)
    return joined
