"""The list of published checkpoints, and the table of them in the docs: ``python -m vle_lightning.hub.manifest``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from vle_lightning.entry import enter
from vle_lightning.errors import UserError
from vle_lightning.yaml_limits import read_yaml

MANIFEST, PAGE = Path("checkpoints/manifest.yaml"), Path("docs/checkpoints.md")
BEGIN, END = "<!-- made from checkpoints/manifest.yaml -->", "<!-- end of the table -->"
TASKS = {  # task -> the class that loads it, and its pipelines
    "pretrain": ("PretrainTask", ("itm", "pbc", "mlm", "features")),
    "vqa": ("VQATask", ("vqa", "features")),
    "vcr-q2a": ("VCRTask", ("vcr-q2a", "features")),
    "vcr-qa2r": ("VCRTask", ("vcr-qa2r", "features")),
    "meter-pretrain": ("PretrainTask", ("itm", "mlm", "features")),
    "vlmo-pretrain": ("PretrainTask", ("itm", "mlm", "retrieve", "features")),
    "vlmo-texts": ("PretrainTextsTask", ()),
    "nlvr2": ("NLVR2Task", ("features",)),
    "snli_ve": ("SNLIVETask", ("features",)),
    "retrieval": ("RetrievalTask", ("features",)),
    "dual_retrieval": ("DualRetrievalTask", ("retrieve", "features")),
}


@dataclass(frozen=True)
class Entry:
    """A published checkpoint."""

    name: str
    source: str  # on the hub, or the address of a file
    task: str
    parameters: str
    licence: str
    sha256: str | None  # of the weights; None until somebody has read it off a downloaded file


def read_manifest(file: Path = MANIFEST) -> list[Entry]:
    """Read the list.

    Raises:
        UserError: an entry lacks a field, has an unknown one, or names an unknown task.
    """
    known = {field.name for field in fields(Entry)}
    entries = []
    listed: Any = read_yaml(file)
    for content in listed:
        if set(content) != known or content["task"] not in TASKS:
            raise UserError(f"{file}: {content} must hold {', '.join(sorted(known))}; task one of {', '.join(TASKS)}")
        entries.append(Entry(**content))
    return entries


def table(entries: Iterable[Entry]) -> str:
    """Write the list as a Markdown table."""
    lines = [
        "| checkpoint | parameters, as published | load it for training | pipelines | licence | SHA-256 |",
        "|---|---|---|---|---|---|",
    ]
    for entry in entries:
        loader, pipelines = TASKS[entry.task]
        is_file = entry.source.startswith("https://")
        shown = entry.source.rsplit("/", 1)[-1] if is_file else entry.source  # of a file: as it is called once fetched
        load = f'`{loader}.from_pretrained("{shown}")`'
        kinds = ", ".join(f"`{name}`" for name in pipelines)
        link = f"[{shown}]({entry.source if is_file else f'https://huggingface.co/{entry.source}'})"
        digest = entry.sha256 or "not read yet"
        lines.append(f"| {link} | {entry.parameters} | {load} | {kinds} | {entry.licence} | {digest} |")
    return "\n".join(lines)


def with_table(page: str, entries: Iterable[Entry]) -> str:
    """Put the table between the two marks of a page.

    Raises:
        UserError: the page lacks a mark.
    """
    if BEGIN not in page or END not in page:
        raise UserError(f"{PAGE} lacks the marks {BEGIN} and {END}, between which the table stands")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n\n{table(entries)}\n\n{END}{after}"


def main() -> None:
    """Renew the table of the page."""
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), read_manifest()), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(enter("python -m vle_lightning.hub.manifest", main))
