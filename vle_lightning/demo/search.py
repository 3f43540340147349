"""The tab Search: a folder of pictures, indexed once and found by a text; and texts, found by a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import gradio as gr
from PIL import Image

from vle_lightning.demo.limits import read_lines, read_picture, read_text
from vle_lightning.demo.models import Model
from vle_lightning.demo.page import (
    Answer,
    Desk,
    attempt,
    command,
    connect,
    missing_note,
    model_field,
    outcome_fields,
    picture_field,
)
from vle_lightning.demo.show import readable
from vle_lightning.errors import UserError
from vle_lightning.inference.index import Index, list_pictures
from vle_lightning.inference.pictures import open_picture
from vle_lightning.inference.retrieve import RetrievePipeline

BEST = 9  # pictures of a result
LONGEST = 10  # letters of a picture's name below it
TEXTS = "texts.txt"
Key = tuple[str, str]  # digest of a model, folder: as the file of an index


class Indexes:
    """The indexes of folders, each made once; kept in files from start to start where there is a place for them."""

    def __init__(self, desk: Desk) -> None:
        self.desk, self.made = desk, dict[Key, Index]()
        self.turns, self.lock = dict[Key, Lock](), Lock()

    def open(self, model: Model, folder: str, again: bool = False) -> Index:
        """Return the index of a folder; made where there is none yet, brought up to date with ``again``.

        Raises:
            UserError: the page may not read the folder, it holds no picture or too many, or the model makes no vectors.
        """
        place, find = self.check(folder), retriever(model)
        key = (find.digest, str(place.resolve()))
        if key in self.made and not again:
            return self.made[key]
        with self.lock:
            turn = self.turns.setdefault(key, Lock())
        with turn:
            if again or key not in self.made:  # another visitor may have asked for it meanwhile
                self._count(place)
                self.made[key] = find.index_images(place, self._file(find, place), turn=model.turn)
            return self.made[key]

    def check(self, folder: str) -> Path:
        """Return a folder that the page may read.

        Raises:
            UserError: none is named, or visitors may not name this one.
        """
        if not folder.strip():
            raise UserError("No folder is named: name one with pictures.")
        place = Path(folder.strip()).expanduser()
        if not self.desk.folders and place != self.desk.photos:
            raise UserError("This page searches the folder that it was started with (--photos), and no other.")
        return place

    def _count(self, place: Path) -> None:
        count, most = len(list_pictures(place)[1]), self.desk.limits.pictures
        if count > most:
            raise UserError(f"The folder {place} holds {count:,} pictures; this page searches up to {most:,}.")

    def _file(self, find: RetrievePipeline, place: Path) -> Path | None:
        if self.desk.cache is None:
            return None
        digest = hashlib.sha256(f"{find.digest} {place.resolve()}".encode()).hexdigest()
        return self.desk.cache / f"{digest[:32]}.index"


def retriever(model: Model) -> RetrievePipeline:
    """Return the pipeline that makes vectors; raises UserError where the model has none."""
    found = model.pipeline("retrieve")
    assert isinstance(found, RetrievePipeline)
    return found


def index_folder(desk: Desk, indexes: Indexes, model: str, folder: str) -> str:
    """Bring the index of a folder up to date, and say what was done."""

    def make() -> str:
        index = indexes.open(desk.models.find(model), folder, again=True)
        told = f"{len(index)} pictures: {index.changes.encoded} new, {index.changes.kept} known before"
        return told + (f", {len(index.broken)} that cannot be read." if index.broken else ".")

    return str(attempt(make))


def search_pictures(desk: Desk, indexes: Indexes, model: str, folder: str, text: str) -> Answer:
    """Find the pictures of a folder that a text describes."""
    found, asked = desk.models.find(model), read_text(text, "text", desk.limits)
    index, find = indexes.open(found, folder), retriever(found)
    best = found.alone(lambda: find(index=index, text=asked, top_k=BEST))
    try:
        pictures = open_best(best)
    except UserError:  # some have gone since the folder was indexed, or are damaged
        index = indexes.open(found, folder, again=True)
        best = found.alone(lambda: find(index=index, text=asked, top_k=BEST))
        pictures = open_best(best)
    shell = command("retrieve", "--images", index.root, "--text", asked, "--top_k", str(BEST), model=found)
    return Answer(found, best, shell, kept=pictures)


def open_best(best: Sequence[Mapping[str, Any]]) -> list[tuple[Image.Image, str]]:
    """Return the pictures of a result with their captions.

    Raises:
        UserError: one cannot be read.
    """
    return [(readable(open_picture(row["image"])), f"{row['score']:.2f} {short_name(row['image'])}") for row in best]


def short_name(place: str) -> str:
    """Return the name of a picture without its ending; of a long one, the end, which tells it from others."""
    name = Path(place).stem
    return name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"


def search_texts(desk: Desk, model: str, picture: str | None, texts: str) -> Answer:
    """Find the texts that describe a picture."""
    found, lines = desk.models.find(model), read_lines(texts, "text", desk.limits)
    image, find = read_picture(picture, desk.limits), retriever(found)
    best = found.alone(lambda: find(index=find.index_texts(lines), image=image, top_k=len(lines)))
    shell = command("retrieve", "--texts", TEXTS, "--image", desk.examples.locate(picture), model=found)
    return Answer(found, best, shell)


def build(desk: Desk) -> None:
    """Lay out the tab."""
    names = desk.models.serving("retrieve")
    if not names:
        return missing_note(desk, "retrieve")
    indexes = Indexes(desk)
    model = model_field(names)
    gr.Markdown("### Pictures that a text describes")
    with gr.Row():
        with gr.Column(scale=2):
            folder = gr.Textbox(str(desk.photos or ""), label="Folder of pictures", interactive=desk.folders)
            index = gr.Button("Index the folder", size="sm")
            told = gr.Markdown("", elem_classes="told", container=False)
            text = gr.Textbox(label="Text", placeholder="two dogs on a sofa")
            button = gr.Button("Search the pictures", variant="primary")
            if desk.examples.captions():
                gr.Examples(
                    [[caption] for caption in desk.examples.captions()], text, label="Examples of the toy world"
                )
        with gr.Column(scale=3):
            gallery = gr.Gallery(label="Best first", columns=3, height=640, object_fit="contain", elem_id="found")
            outcome = outcome_fields()
    index.click(partial(index_folder, desk, indexes), [model, folder], told, api_name="index")
    connect(
        [button.click, text.submit],
        partial(search_pictures, desk, indexes),
        lambda answer: (answer.kept,),
        [model, folder, text],
        [gallery],
        outcome,
        desk,
        "search_pictures",
    )
    _build_reverse(desk, model)
    return None


def _build_reverse(desk: Desk, model: gr.Dropdown) -> None:
    captions = "\n".join(desk.examples.captions())
    gr.Markdown("### Texts that describe a picture")
    with gr.Row():
        with gr.Column(scale=2):
            picture = picture_field()
            texts = gr.Textbox(captions, label="Texts, one a line", lines=5, max_lines=10)
            button = gr.Button("Search the texts", variant="primary")
            gr.Markdown(f"The command below a result reads the texts from `{TEXTS}`, one a line.", elem_classes="hint")
            if desk.examples.scenes:
                rows = [[scene.picture] for scene in desk.examples.scenes]
                gr.Examples(rows, picture, label="Examples of the toy world")
        with gr.Column(scale=3):
            ranked = gr.Dataframe(
                headers=["Text", "Cosine"],
                interactive=False,
                wrap=True,
                label="Best first",
                column_widths=["80%", "20%"],
            )
            outcome = outcome_fields()
    connect(
        [button.click],
        partial(search_texts, desk),
        lambda answer: ([[row["text"], round(row["score"], 3)] for row in answer.result],),
        [model, picture, texts],
        [ranked],
        outcome,
        desk,
        "search_texts",
    )
