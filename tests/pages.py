"""What a page in Markdown holds: code blocks, commands, links, anchors, tables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
VARIABLE = re.compile(r"[A-Z]+=")
PREFIXES = ("make ", "python -m ", ".venv/bin/python -m ")

Row = dict[str, str]  # of a table: its cells by the column's title


class Command(NamedTuple):
    """A command of a page, as a shell would split it."""

    words: Sequence[str]

    @property
    def module(self) -> str | None:
        """Return what stands behind ``python -m``."""
        return self.words[2] if self.words[1:2] == ["-m"] else None

    @property
    def variables(self) -> dict[str, str]:
        """Return what make is given."""
        return dict(word.split("=", 1) for word in self.words[1:] if VARIABLE.match(word))

    @property
    def options(self) -> list[str]:
        """Return the names of the options, without the dashes."""
        return [word[2:].split("=")[0] for word in self.words if word.startswith("--")]


def blocks(text: str, language: str = "") -> list[str]:
    """Return the code blocks of a language; those without one are shell commands, files or output."""
    return [content for kind, content in BLOCK.findall(text) if kind == language]


def commands(text: str) -> list[Command]:
    """Return every make and python command, of blocks and of code in sentences."""
    lines = [line for block in blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    spans = SPAN.findall(BLOCK.sub("", text))
    return [Command(shlex.split(line, comments=True)) for line in (*lines, *spans) if line.startswith(PREFIXES)]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(BLOCK.sub("", text)))
    return {heading.replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> list[str]:
    """Return the relative links whose file or anchor does not exist."""
    broken = []
    for link in LINK.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if re.match(r"https?:|mailto:", link):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


def tables(text: str) -> Iterator[list[Row]]:
    """Yield each table as its rows."""
    for match in re.finditer(r"(?:^\|.*\|\n)+", BLOCK.sub("", text), re.MULTILINE):
        titles, _, *rows = [cells(line) for line in match[0].splitlines()]
        yield [dict(zip(titles, row, strict=True)) for row in rows]


def cells(line: str) -> list[str]:
    """Return the cells of a table's line."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
