"""The list of answers that a classifier of questions chooses from: ``answers.json`` beside the shards."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from datamodules.prepare.rows import read_json

NAME = "answers.json"


def frequent(answers: Iterable[str], min_count: int) -> list[str]:
    """Return the answers that occur at least ``min_count`` times, the most frequent first, then by alphabet."""
    ranked = sorted(Counter(answers).items(), key=lambda pair: (-pair[1], pair[0]))
    return [answer for answer, count in ranked if count >= min_count]


def given(path: Path) -> list[str]:
    """Read a list of answers.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not JSON list of texts.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: --answers must name a JSON list of answers")
    answers = read_json(path)
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"{path}: a JSON list of answers is needed (--answers)")
    return answers


def write(out: Path, answers: list[str]) -> None:
    """Write the list beside the shards of all splits."""
    text = json.dumps(answers, ensure_ascii=False, indent=0)
    (out / NAME).write_text(f"{text}\n", encoding="utf-8")
