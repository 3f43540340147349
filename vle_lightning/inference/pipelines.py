"""The way in to the pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path

import torch

from vle_lightning.errors import UserError
from vle_lightning.hub.pretrained import architecture_of, read_pretrained
from vle_lightning.inference.base import Pipeline, Settings
from vle_lightning.inference.chat import ChatServer
from vle_lightning.inference.images import ClassifyPipeline
from vle_lightning.inference.items import check_count
from vle_lightning.inference.kinds import (
    FeaturesPipeline,
    ITMPipeline,
    MLMPipeline,
    PBCPipeline,
    VQAPipeline,
)
from vle_lightning.inference.llm import LLMPipeline
from vle_lightning.inference.processor import Processor
from vle_lightning.inference.retrieve import RetrievePipeline
from vle_lightning.inference.runs import is_of_run, run_settings
from vle_lightning.inference.vcr import VCRPipeline

PIPELINES: dict[str, Callable[[Settings], Pipeline]] = {
    "vqa": VQAPipeline,
    "itm": ITMPipeline,
    "pbc": PBCPipeline,
    "mlm": MLMPipeline,
    "vcr-q2a": partial(VCRPipeline, mode="q2a"),
    "vcr-qa2r": partial(VCRPipeline, mode="qa2r"),
    "features": FeaturesPipeline,
    "retrieve": RetrievePipeline,
    "classify": ClassifyPipeline,
    "vqa-llm": LLMPipeline,
}


def pipeline(
    kind: str,
    source: str | Path,
    *,
    processor: Processor | str | Path | None = None,
    tokenizer: str | Path | None = None,
    answers: Sequence[str] | str | Path | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str = torch.float32,
    batch_size: int = 8,
    llm: str | None = None,
    llm_model: str | None = None,
    llm_timeout: float = 60.0,
    captioner: str | Path | None = None,
) -> Pipeline:
    """Load a model for one use.

    Args:
        kind: vqa, itm, pbc, mlm, vcr-q2a, vcr-qa2r, features, classify, retrieve or vqa-llm.
        source: a hub name, a folder of the published layout or of ours, a run folder, or its .ckpt file.
        processor: of tokenizer and image settings, or where to find it; that of the source by default.
        tokenizer: folder or hub name, for a checkpoint that comes with neither tokenizer nor image settings, as METER's
            and VLMo's do; pictures are prepared as theirs are, at the size and with the normalisation of the model.
        answers: names of the answers of a VQA head, in order, or a JSON list of them, where the source has none.
        device: a GPU by default, where there is one.
        dtype: of the computation, such as "bfloat16".
        batch_size: items that are answered at a time.
        llm: base address of a server of OpenAI's protocol, for vqa-llm; its key is read from OPENAI_API_KEY alone.
        llm_model: the model's name there.
        llm_timeout: seconds for a whole reply.
        captioner: model that describes the picture to it, of transformers' image-text-to-text pipeline.

    Returns:
        A function of one item, a list or a stream of items; see the class of the kind.

    Raises:
        UserError: there is no such kind or device, an option is of another type, or the source cannot be read or has
            no head for it.
    """
    if not isinstance(kind, str) or kind not in PIPELINES:
        raise UserError(f"there is no pipeline {kind!r}; choose one of {', '.join(PIPELINES)}")
    check_count("batch_size", batch_size)
    check_place("source", source)
    if kind != "vqa-llm" and any(option is not None for option in (llm, llm_model, captioner)):
        raise UserError(f"llm, llm_model and captioner are options of the pipeline vqa-llm; {kind} takes none of them")
    if tokenizer is not None and processor is not None:
        raise UserError("processor and tokenizer were given; give one of the two")
    if tokenizer is not None:
        check_place("tokenizer", tokenizer)
        processor = bare_processor(source, str(tokenizer))
    if not isinstance(processor, Processor):
        processor = source if processor is None else processor
        check_place("processor", processor)
        processor = Processor.from_pretrained(processor)
    places = (find_device(device), find_dtype(dtype))
    bare = None if tokenizer is None else str(tokenizer)
    chat = ChatServer(llm, llm_model, llm_timeout) if llm and llm_model else None
    describer = None if captioner is None else str(captioner)
    settings = Settings(str(source), processor, *places, batch_size, read_answers(answers), bare, chat, describer)
    return PIPELINES[kind](settings)


def bare_processor(source: str | Path, tokenizer: str) -> Processor:
    """Make the processor of a checkpoint that has none, at its pictures' size.

    A run's pictures are framed and normalised as in its training. Of weights alone the architecture tells: METER takes
    the central square of a picture, VLMo squeezes all of it into one.

    Raises:
        UserError: the tokenizer is missing or unusable, or the run's pictures are folded.
    """
    architecture = architecture_of(read_pretrained(source))
    with torch.device("meta"):
        model = architecture.build()
    run = run_settings(source) if is_of_run(source) else None
    framing, pixels = (run.framing, run.pixels) if run else (model.framing, model.pixels)
    return Processor.prepared(tokenizer, architecture.image_size, framing, pixels)


def read_answers(answers: Sequence[str] | str | Path | None) -> tuple[str, ...] | None:
    """Return the names of answers, from a JSON file if that is what is given.

    Raises:
        UserError: the file cannot be read, or they are no texts.
    """
    if isinstance(answers, str | PathLike):
        try:
            answers = json.loads(Path(answers).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"answers: the file cannot be read as JSON: {error}") from error
    if answers is None:
        return None
    if not isinstance(answers, list | tuple) or not all(isinstance(answer, str) for answer in answers):
        raise UserError("answers must be a list of texts, one for each number of the head")
    return tuple(answers)


def check_place(name: str, place: object) -> None:
    """Raise a UserError unless something can be a folder or a hub name."""
    if not isinstance(place, str | PathLike):
        raise UserError(f"{name} is {place!r}, a {type(place).__name__}; give a folder or a hub name")


def find_device(device: torch.device | str | None) -> torch.device:
    """Return the device; by default the first GPU, or the CPU where there is none."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise UserError(f"device {device}: {str(error).splitlines()[0]}") from error
    return found


def find_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """Return the float type by its name."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point or found.itemsize < 2:
        raise UserError(f"dtype {dtype} is not a float type; give float32, bfloat16 or float16")
    return found
