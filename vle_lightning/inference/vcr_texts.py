"""The texts of the published VCR pipelines (iflytek/VLE): tags to nouns, tokens, truncation, tokenising again."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from datamodules.records import TaggedText
from vle_lightning.inference.vcr_layout import Annotation, Mode

MAX_LENGTH = 80  # tokens of a text, special ones included
UNTAGGED = -1  # the tag of a token that mentions no object
PRIVATE_USE = "Co"  # Unicode category; the published pipelines leave out words with such a character


class Words(NamedTuple):
    """A text (or part of one) as tokens; truncation shortens the two token lists in place."""

    tokens: list[str]
    tags: list[int]  # number of the object that each token names, or UNTAGGED
    raw: list[str]  # words before tokenising and truncation


def build_texts(
    annotation: Annotation, task: Mode, tokenizer: PreTrainedTokenizerBase, called: Sequence[str]
) -> tuple[Words, ...]:
    """Return the four texts, their parts joined by SEP and truncated.

    The parts that the choices share are truncated once for all: one long choice shortens them in all four texts.

    Args:
        annotation: read for the same task.
        task: q2a gives the question, qa2r the question and the right answer.
        tokenizer: of the checkpoint.
        called: the noun of each object.
    """
    given, choices = [annotation.question], annotation.answer_choices
    if task == "qa2r":
        assert annotation.answer_label is not None
        given.append(choices[annotation.answer_label])
        choices = annotation.rationale_choices
    shared = [words(text, called, tokenizer) for text in given]
    own = [words(text, called, tokenizer) for text in choices]
    for choice in own:
        truncate(shared, choice)
    return tuple(_join([*shared, choice], str(tokenizer.sep_token)) for choice in own)


def words(text: TaggedText, called: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Words:
    """Tokenise a text word by word; the objects of one tag are joined by "and"."""
    found = Words([], [], [])
    for position, part in enumerate(text):
        pieces: list[tuple[str, int]] = [(part, UNTAGGED)] if isinstance(part, str) else []
        for number, tag in enumerate(() if isinstance(part, str) else part):
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


def _join(parts: Sequence[Words], separator: str) -> Words:
    joined = Words([], [], [])
    for number, part in enumerate(parts):
        joined.tokens.extend([separator] * (number > 0) + part.tokens)
        joined.tags.extend([UNTAGGED] * (number > 0) + part.tags)
        joined.raw.extend(part.raw)
    return joined
