"""The shell commands on pictures: ``python -m vle_lightning {ask,match,heatmap,fill,vcr,retrieve}``, JSON on stdout."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from PIL import Image

from vle_lightning.errors import UserError
from vle_lightning.files import finite
from vle_lightning.inference.base import Pipeline
from vle_lightning.inference.kinds import DRAWN
from vle_lightning.inference.pictures import OPACITY, open_picture
from vle_lightning.inference.pipelines import pipeline
from vle_lightning.inference.retrieve import RetrievePipeline
from vle_lightning.inference.vcr_layout import read_annotation, read_boxes

PUBLISHED = {  # the model of each pipeline where none is named
    "vqa": "hfl/vle-base-for-vqa",
    "vqa-llm": "hfl/vle-base-for-vqa",
    "itm": "hfl/vle-base",
    "pbc": "hfl/vle-base",
    "mlm": "hfl/vle-base",
    "vcr-q2a": "hfl/vle-base-for-vcr-q2a",
    "vcr-qa2r": "hfl/vle-base-for-vcr-qa2r",
}
SMALL = 256  # pixels of the longer side; heat maps over smaller pictures are drawn larger


class OneSentenceParser(argparse.ArgumentParser):
    """A parser whose complaint is one sentence, like every other one."""

    def error(self, message: str) -> NoReturn:
        """Raise it as a UserError."""
        raise UserError(f"{self.prog}: {message}; see --help")


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run a command and print its result as one line of JSON.

    Args:
        name: one of ``ANSWERS``.
        arguments: the command line behind the name.

    Returns:
        The exit code 0.

    Raises:
        UserError: of anything that a user can fix.
    """
    command = ANSWERS[name]
    parser = OneSentenceParser(f"python -m vle_lightning {name}", description=command.__doc__, allow_abbrev=False)
    result = command(parser, arguments)
    print(json.dumps(finite(result), ensure_ascii=False, allow_nan=False))
    return 0


def ask(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Any:  # noqa: ANN401 (JSON)
    """Answer a question about a picture; a language model may word the answer."""
    _take_picture(parser)
    parser.add_argument("question")
    parser.add_argument("--top_k", type=int, default=5, help="how many answers")
    parser.add_argument("--attention", action="store_true", help="also print how much attention each patch gets")
    parser.add_argument("--llm", help="address of a server of OpenAI's protocol (its key: OPENAI_API_KEY)")
    parser.add_argument("--llm_model", help="the model's name there")
    parser.add_argument("--llm_timeout", type=float, default=60.0, help="seconds for a reply (default: %(default)s)")
    parser.add_argument("--captioner", help="model of transformers that describes the picture to the language model")
    options = _parse(parser, arguments)
    asked = {"image": options.image, "question": options.question, "top_k": options.top_k}
    if not (options.llm or options.llm_model or options.captioner):
        return _load("vqa", options)(**asked, attention=options.attention)
    if options.attention:
        raise UserError("--attention is of VLE's own answers; leave it out, or --llm, --llm_model and --captioner")
    names = ("llm", "llm_model", "llm_timeout", "captioner")
    return _load("vqa-llm", options, **{name: getattr(options, name) for name in names})(**asked)


def match(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Any:  # noqa: ANN401 (JSON)
    """Say whether a text describes a picture; of several texts, each."""
    _take_picture(parser)
    parser.add_argument("text", nargs="+")
    options = _parse(parser, arguments)
    texts = options.text if len(options.text) > 1 else options.text[0]
    return _load("itm", options)(image=options.image, text=texts)


def fill(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Any:  # noqa: ANN401 (JSON)
    """Restore the masked words of a text about a picture."""
    _take_picture(parser)
    parser.add_argument("text", help="with a [MASK] for each word to restore")
    parser.add_argument("--top_k", type=int, default=5, help="how many words for each [MASK]")
    options = _parse(parser, arguments)
    return _load("mlm", options)(image=options.image, text=options.text, top_k=options.top_k)


def heatmap(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Any:  # noqa: ANN401 (JSON)
    """Draw which parts of a picture a text mentions."""
    _take_picture(parser)
    parser.add_argument("text")
    parser.add_argument("--out", type=Path, required=True, help="picture file to write, such as heat.png")
    parser.add_argument("--zoom", type=int, help="whole factor of the drawing's size (default: at least 256 px)")
    parser.add_argument("--draw", choices=DRAWN, default=DRAWN[0], help="what to draw (default: %(default)s)")
    parser.add_argument("--opacity", type=float, default=OPACITY, help="of the hottest patches (default: %(default)s)")
    options = _parse(parser, arguments)
    suffixes = Image.registered_extensions()
    if options.out.suffix.lower() not in suffixes:
        raise UserError(f"--out {options.out}: no picture format has the ending '{options.out.suffix}'; try .png")
    zoom = math.ceil(SMALL / max(open_picture(options.image).size)) if options.zoom is None else options.zoom
    asked = {"draw": options.draw, "zoom": zoom, "opacity": options.opacity}
    result = _load("pbc", options)(image=options.image, text=options.text, **asked)
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        result["picture"].save(options.out)
    except (OSError, ValueError) as error:
        raise UserError(f"--out {options.out} cannot be written: {error}") from error
    return {**result, "picture": str(options.out)}


def vcr(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Any:  # noqa: ANN401 (JSON)
    """Choose among the four answers (q2a) or rationales (qa2r) of a question about tagged objects."""
    _take_picture(parser)
    parser.add_argument("annotation", type=Path, help="JSON file, one question in VCR's layout")
    parser.add_argument("--metadata", type=Path, help="JSON file with the boxes; by default in the annotation")
    parser.add_argument("--task", choices=("q2a", "qa2r"), default="q2a", help="what to choose (default: q2a)")
    parser.add_argument("--compatible", action="store_true", help="convert as the published code does")
    options = _parse(parser, arguments)
    annotation = _read(options.annotation, lambda content: read_annotation(content, options.task))
    metadata = _read(options.metadata, read_boxes) if options.metadata else None
    return _load(f"vcr-{options.task}", options)(
        image=options.image, annotation=annotation, metadata=metadata, compatible=options.compatible
    )


def retrieve(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> Any:  # noqa: ANN401 (JSON)
    """Find the pictures that a text describes, or the texts that describe a picture; by a model with contrast."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--images", type=Path, help="folder of pictures to search")
    source.add_argument("--texts", type=Path, help="file of texts to search, one a line")
    parser.add_argument("--index", type=Path, help="file to keep the vectors in; what it holds is not encoded again")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--text", help="what to find pictures for")
    asked.add_argument("--image", type=Path, help="picture to find texts for")
    parser.add_argument("--top_k", type=int, default=10, help="how many (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="encoded at a time (default: %(default)s)")
    options = _parse(parser, arguments)
    if options.model is None:
        raise UserError("--model is missing: name a model with a contrastive head; there is no published default")
    if options.images is None and options.texts is None and options.index is None:
        raise UserError("there is nothing to search: give --images, --texts, or --index of an earlier call")
    found = _load("retrieve", options)
    assert isinstance(found, RetrievePipeline)
    if options.images is not None:
        index = found.index_images(options.images, options.index, options.batch_size)
    elif options.texts is not None:
        index = found.index_texts(options.texts, options.index, options.batch_size)
    else:
        index = found.open_index(options.index)
    result: dict[str, object] = {"kind": index.kind, "size": len(index), **index.changes._asdict()}
    result["broken"] = [{"image": name, "reason": told} for name, told in index.broken.items()]
    if options.text is None and options.image is None:
        return result
    asked_with = {"text": options.text, "image": options.image}
    return {"best": found(index=index, top_k=options.top_k, **asked_with), **result}


ANSWERS: dict[str, Callable[[argparse.ArgumentParser, Sequence[str]], Any]] = {
    "ask": ask,
    "match": match,
    "heatmap": heatmap,
    "fill": fill,
    "vcr": vcr,
    "retrieve": retrieve,
}
COMMANDS = {name: partial(run_command, name) for name in ANSWERS}


def _take_picture(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, help="picture file")


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    parser.add_argument("--model", help="hub name, folder, run folder or .ckpt (default: the published base model)")
    parser.add_argument("--tokenizer", help="folder or hub name, for a bare checkpoint such as METER's")
    parser.add_argument("--answers", help="JSON list of the answers' names, for a VQA head that has none")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")
    parser.add_argument("--dtype", default="float32", help="float type (default: float32)")
    options = parser.parse_args(arguments)
    if options.image is not None:
        open_picture(options.image)  # before a model is fetched
    return options


def _load(kind: str, options: argparse.Namespace, **more: Any) -> Pipeline:  # noqa: ANN401 (options of a kind)
    return pipeline(
        kind,
        options.model or PUBLISHED[kind],
        tokenizer=options.tokenizer,
        answers=options.answers,
        device=options.device,
        dtype=options.dtype,
        **more,
    )


def _read(file: Path, check: Callable[[Mapping[str, Any]], object]) -> dict[str, Any]:
    """Read a JSON object, and check its form before a model is fetched."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} must hold one JSON object, not a {type(content).__name__}")
    try:
        check(content)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    return content
