"""The pipeline that searches: pictures are indexed once, then found by a text; or texts, found by a picture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vle_lightning.errors import UserError
from vle_lightning.hub.pretrained import read_pretrained
from vle_lightning.inference.base import Pipeline, Settings
from vle_lightning.inference.index import Changes, File, Index, Kind, list_pictures
from vle_lightning.inference.items import Item, check_count
from vle_lightning.inference.pictures import open_picture
from vle_lightning.inference.vectors import DualEncoder

ASKED_BY = {"images": "text", "texts": "image"}  # kind of an index -> what is looked for in it
NO_TURN: AbstractContextManager[object] = nullcontext()


class RetrievePipeline(Pipeline):
    """Finds the pictures that a text describes, and the texts that describe a picture, by the cosine of vectors."""

    def __init__(self, settings: Settings) -> None:
        """Load a model with a contrastive head."""
        self.dual = DualEncoder(read_pretrained(settings.source))
        self.digest = self.dual.digest  # of the weights as they came, whatever float type they run in
        super().__init__(settings, self.dual, self.dual.model)

    def __call__(
        self,
        items: object = None,
        *,
        index: Index | str | Path,
        text: object = None,
        image: object = None,
        top_k: int = 10,
        batch_size: int | None = None,
    ) -> Any:  # noqa: ANN401 (one result or many)
        """Return, for each item, the best of an index: [{"image" or "text", "score"}, ...], the best first.

        An index of pictures is asked with texts, one of texts with pictures. The score is the cosine of two vectors; of
        equal ones the first name of a folder, or the first text, comes first.
        """
        check_count("top_k", top_k)
        opened = self.check(index) if isinstance(index, Index) else self.open_index(index)
        return self._run(items, partial(self._answer, opened, top_k), batch_size, text=text, image=image)

    def open_index(self, file: str | Path) -> Index:
        """Read an index that this model has made.

        Raises:
            UserError: there is none, it is damaged, or another model has made it.
        """
        return self.check(Index.load(file), f"the index {file}")

    def check(self, index: Index, told: str = "the index") -> Index:
        """Return an index if its vectors are this model's.

        Raises:
            UserError: another model has made it.
        """
        index.check(self.digest, told)
        return index

    def index_images(
        self,
        images: str | Path | Iterable[str | Path],
        file: str | Path | None = None,
        batch_size: int | None = None,
        turn: AbstractContextManager[object] = NO_TURN,
    ) -> Index:
        """Encode the pictures of a folder and of the folders in it, or of a list of files.

        Only what is new or has changed in size or time is encoded where ``file`` holds the index already; pictures that
        are gone leave it. One that cannot be read is listed in ``broken`` with its reason.

        Args:
            images: a folder, or paths.
            file: of the index: read where it is there, and written.
            batch_size: pictures at a time; the pipeline's by default.
            turn: held while a batch is computed and free between batches, such as a lock of the model's other users.

        Raises:
            UserError: there is no readable picture, or ``file`` is of another model, folder or kind.
        """
        root, names = list_pictures(images)
        old = self._earlier(file, "images", root)
        facts = [_about(Path(root) / name) for name in names]
        known = {} if old is None else {name: row for row, name in enumerate(old.names)}
        rows = [known.get(name, -1) for name in names]
        stored = [] if old is None else old.files.tolist()
        fresh = [
            place
            for place, (row, fact) in enumerate(zip(rows, facts, strict=True))
            if row < 0 or fact is None or list(fact) != stored[row]
        ]
        vectors, broken = self._vectors_of(root, names, fresh, rows, old, batch_size, turn)
        readable = [place for place, name in enumerate(names) if name not in broken]
        if not readable:
            name, told = next(iter(broken.items()))
            raise UserError(f"none of {len(names)} pictures can be read, {name} for one: {told}")
        files = torch.tensor([facts[place] or File(0, 0) for place in readable], dtype=torch.int64)
        encoded, kept = len(fresh) - len(broken), len(names) - len(fresh)
        dropped = len(known.keys() - {names[place] for place in readable})
        found = Index(
            kind="images",
            model=self.digest,
            names=tuple(names[place] for place in readable),
            vectors=vectors[readable] if broken else vectors,
            files=files,
            root=root,
            broken=broken,
            changes=Changes(encoded, kept, dropped),
        )
        return _saved(found, old, file)

    def index_texts(
        self, texts: str | Path | Iterable[str], file: str | Path | None = None, batch_size: int | None = None
    ) -> Index:
        """Encode texts, each once; where ``file`` holds the index already, only those that are new.

        Args:
            texts: these, or a file of UTF-8 with a text a line.
            file: of the index: read where it is there, and written.
            batch_size: texts at a time; the pipeline's by default.

        Raises:
            UserError: there is no text, one is empty or too long, or ``file`` is of another model or kind.
        """
        names = _read_texts(texts)
        old = self._earlier(file, "texts", "")
        known = {} if old is None else {name: row for row, name in enumerate(old.names)}
        fresh = [place for place, name in enumerate(names) if name not in known]
        kept = [place for place, name in enumerate(names) if name in known]
        vectors = torch.empty(len(names), self.dual.width)
        if old is not None:
            vectors[kept] = old.vectors[[known[names[place]] for place in kept]]
        for part in self._parts(fresh, batch_size):
            vectors[part] = self._of_texts([names[place] for place in part])
        changes = Changes(len(fresh), len(kept), len(known) - len(kept))
        files = torch.zeros(len(names), 2, dtype=torch.int64)
        return _saved(Index("texts", self.digest, names, vectors, files, changes=changes), old, file)

    def _answer(self, index: Index, top_k: int, items: Sequence[Item]) -> list[list[dict[str, object]]]:
        asked = ASKED_BY[index.kind]
        for item in items:
            given = "image" if item.image is not None else "text"
            if given != asked or (item.image is not None and item.text is not None):
                raise UserError(f"{item.place}an index of {index.kind} is asked with one {asked}, and nothing else")
        if asked == "text":
            vectors = self._of_texts(self.texts(items))
        else:
            seen = self.look(items)
            vectors = self.finite(self.dual.embed_images(seen.pixel_values))[seen.rows]
        best, name = index.search(vectors, top_k), index.kind.removesuffix("s")
        return [
            [{name: index.place(row), "score": score} for score, row in zip(*pair, strict=True)]
            for pair in zip(best.scores.tolist(), best.rows.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def _of_texts(self, texts: Sequence[str]) -> Tensor:
        """Return vectors (B, C) on the host."""
        return self.finite(self.dual.embed_texts(*self.tokenize(texts))).cpu()

    @torch.inference_mode()
    def _vectors_of(
        self,
        root: str,
        names: Sequence[str],
        fresh: Sequence[int],
        rows: Sequence[int],
        old: Index | None,
        batch_size: int | None,
        turn: AbstractContextManager[object],
    ) -> tuple[Tensor, dict[str, str]]:
        """Return vectors (N, C) of N pictures, from an earlier index or new; and what is broken."""
        vectors = torch.zeros(len(names), self.dual.width)
        if old is not None:
            waiting = set(fresh)
            kept = [place for place in range(len(names)) if place not in waiting]
            vectors[kept] = old.vectors[[rows[place] for place in kept]]
        broken: dict[str, str] = {}
        for part in self._parts(fresh, batch_size):
            pictures, places = [], []
            for place in part:
                try:
                    pictures.append(open_picture(Path(root) / names[place]))
                    places.append(place)
                except UserError as error:
                    broken[names[place]] = str(error)
            if pictures:
                pixels = self.processor.pixels(pictures)
                with turn:
                    embedded = self.dual.embed_images(pixels.to(self.settings.device, self.settings.dtype))
                    vectors[places] = self.finite(embedded).cpu()
        return vectors, broken

    def _parts(self, places: Sequence[int], batch_size: int | None) -> list[Sequence[int]]:
        size = self.settings.batch_size if batch_size is None else batch_size
        check_count("batch_size", size)
        return [places[start : start + size] for start in range(0, len(places), size)]

    def _earlier(self, file: str | Path | None, kind: Kind, root: str) -> Index | None:
        """Read the index that is to be brought up to date, if there is one."""
        if file is None or not Path(file).exists():
            return None
        old = self.open_index(file)
        if old.kind != kind:
            raise UserError(f"the index {file} holds {old.kind}, not {kind}; name another file")
        if old.root != root and os.path.realpath(old.root) != os.path.realpath(root) and os.path.isdir(old.root):
            raise UserError(f"the index {file} is that of the folder {old.root}, not of {root}; name another file")
        return old


def _about(path: Path) -> File | None:
    """Return size and time of a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return File(found.st_size, found.st_mtime_ns)


def _read_texts(texts: str | Path | Iterable[str]) -> tuple[str, ...]:
    if isinstance(texts, str | os.PathLike):
        try:
            texts = Path(texts).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"the file of texts {texts} cannot be read: {error}") from error
        texts = [text for text in texts if text.strip()]
    found = tuple(dict.fromkeys(texts))
    if not found:
        raise UserError("there are no texts to index; give some")
    for number, text in enumerate(found):
        Item(f"text {number}: ", text=text).read_text("text")
    return found


def _saved(index: Index, old: Index | None, file: str | Path | None) -> Index:
    """Write an index where it is new, or other than before."""
    same = old is not None and (old.names, old.root, old.broken) == (index.names, index.root, index.broken)
    if file is not None and not (same and index.changes.encoded == 0):
        index.save(file)
    return index
