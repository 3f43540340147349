"""What an inspection found, as text for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datamodules.inspect.statistics import Statistics
from datamodules.inspect.verify import Problem
from datamodules.manifest import Manifest

CLASSES, PLACES = 40, 3  # told to people; all are in the JSON
WIDTH = 118


@dataclass(frozen=True)
class Inspection:
    """What was found in one folder."""

    folder: str
    manifest: Manifest
    statistics: Statistics
    problems: list[Problem]
    left_out: int  # records and samples with a fault, which are in no number
    quick: bool
    sheet: str | None  # path of the contact sheet

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain JSON."""
        manifest, found = self.manifest, self.statistics
        return {
            "folder": self.folder,
            "source": manifest.source,
            "split": manifest.split,
            "kind": manifest.kind,
            "shards": len(manifest.shards),
            "bytes": sum(entry.bytes for entry in manifest.shards),
            "images": found.images,
            "samples": dict(found.samples),
            "texts_with_known_boxes": found.with_known_boxes,
            "boxes": found.boxes,
            "classes": dict(found.classes.most_common()),
            "skipped": manifest.skipped,
            "skips": list(manifest.skips),
            "statistics": {name: summary._asdict() for name, summary in found.summaries().items()},
            "left_out": self.left_out,
            "quick": self.quick,
            "problems": [asdict(problem) for problem in self.problems],
            "sheet": self.sheet,
        }

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        manifest, found = self.manifest, self.statistics
        size = sum(entry.bytes for entry in manifest.shards)
        yield f"{self.folder}: {manifest.source}, {manifest.split}"
        yield f"  shards: {len(manifest.shards):,}, {size / 1e6:,.1f} MB"
        samples = ", ".join(f"{count:,} {kind}" for kind, count in found.samples.items() if count)
        pictured = manifest.kind != "passages"
        yield (f"  images: {found.images:,}; " if pictured else "  ") + f"samples: {samples or 'none'}"
        if pictured:
            yield from self._boxes()
        yield from self._skipped()
        yield from self._statistics()
        if self.sheet:
            yield f"  contact sheet: {self.sheet}"
        if self.problems:
            yield from problem_lines(self.problems, self.left_out)
        elif self.quick:
            yield "  no problem found (quick: nothing was hashed or decoded)"
        else:
            yield f"  no problem found: hashes, index{', records and images' if pictured else ' and records'} are sound"

    def _boxes(self) -> Iterator[str]:
        found = self.statistics
        if found.samples["texts"]:
            yield f"  texts of which it is known which boxes they mention: {found.with_known_boxes:,}"
        nameless = found.boxes - found.classes.total()
        yield f"  boxes: {found.boxes:,}" + (f", {nameless:,} of them without a name" if nameless else "")
        yield from self._classes()

    def _classes(self) -> Iterator[str]:
        counts = self.statistics.classes.most_common()
        parts = [f"{name} {count:,}" for name, count in counts[:CLASSES]]
        if len(counts) > CLASSES:
            parts.append(f"and {len(counts) - CLASSES:,} more names (--json tells all)")
        line = ""
        for part in parts:
            if line and len(line) + len(part) > WIDTH:
                yield f"    {line},"
                line = ""
            line += f", {part}" if line else part
        if line:
            yield f"    {line}"

    def _skipped(self) -> Iterator[str]:
        yield f"  left out by the conversion: {sum(self.manifest.skipped.values()):,}"
        for kind, count in sorted(self.manifest.skipped.items()):
            places = [skip["where"] for skip in self.manifest.skips if skip["kind"] == kind][:PLACES]
            more = "; ..." if count > len(places) else ""
            yield f"    {count:,} x {kind}: {'; '.join(places)}{more}"

    def _statistics(self) -> Iterator[str]:
        summaries = self.statistics.summaries()
        width = max(map(len, summaries), default=0)
        if summaries:
            yield f"  {'':{width}}{'min':>10}{'median':>10}{'90 %':>10}{'max':>10}"
        for name, summary in summaries.items():
            yield f"  {name:{width}}" + "".join(f"{number(value):>10}" for value in summary)


@dataclass(frozen=True)
class Unopened:
    """A folder whose manifest cannot be read."""

    folder: str
    problems: list[Problem]

    def to_json(self) -> dict[str, Any]:
        """Return what there is to say as plain JSON."""
        return {"folder": self.folder, "problems": [asdict(problem) for problem in self.problems]}

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        yield f"{self.folder}:"
        yield from problem_lines(self.problems, 0)


def problem_lines(problems: Sequence[Problem], left_out: int) -> Iterator[str]:
    """Yield a line for each problem."""
    told = f"; {left_out:,} broken records or samples are in no number above" if left_out else ""
    yield f"  PROBLEMS: {len(problems):,}{told}"
    for problem in problems:
        yield f"    {problem}"


def number(value: float) -> str:
    """Write a number with four digits, whole ones in full."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"
