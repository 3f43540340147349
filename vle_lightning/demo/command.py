"""``python -m vle_lightning demo MODEL [MODEL ...]``: a page on which trained models can be tried."""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vle_lightning.demo.examples import Examples
from vle_lightning.demo.limits import Limits
from vle_lightning.demo.models import Model, Models, short_names
from vle_lightning.demo.place import LOCAL, Place
from vle_lightning.errors import UserError
from vle_lightning.extras import require
from vle_lightning.inference.chat import ChatServer
from vle_lightning.inference.commands import OneSentenceParser
from vle_lightning.inference.llm import Captioner, LanguageModel
from vle_lightning.inference.pipelines import find_device, find_dtype
from vle_lightning.inference.processor import Processor

if TYPE_CHECKING:
    from vle_lightning.demo.page import Desk

WORLD = Path("data/toy")
CACHE = Path("~/.cache/vle_lightning/indexes")


def run_demo(arguments: Sequence[str]) -> int:
    """Load the models and serve the page until Ctrl-C.

    Raises:
        UserError: Gradio is not installed, or a model, folder or address cannot be used.
    """
    options = read_options(arguments)
    require("gradio", "demo", "the demo")
    place = Place(options.address, options.port, options.share)
    place.check()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    desk = prepare(options)
    from vle_lightning.demo.app import build_app, serve

    serve(build_app(desk), desk, place)
    return 0


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = OneSentenceParser("python -m vle_lightning demo", description=run_demo.__doc__, allow_abbrev=False)
    parser.add_argument("model", nargs="+", help="run folder, exported folder, hub name or published checkpoint")
    parser.add_argument("--tokenizer", help="folder or hub name, for models that come without one, such as METER's")
    parser.add_argument("--answers", help="JSON list of the answers' names, for such models of VQA")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU where there is one)")
    parser.add_argument("--dtype", default="float32", help="float type (default: %(default)s)")
    parser.add_argument("--address", default=LOCAL, help="to listen at; 0.0.0.0 shows the page to others (%(default)s)")
    parser.add_argument("--port", type=int, help="default: a free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="make a public link by way of Gradio's servers")
    parser.add_argument("--photos", type=Path, help="folder of pictures to search (default: the world's)")
    parser.add_argument("--world", type=Path, help=f"of the examples (default: {WORLD}, where it is drawn)")
    parser.add_argument("--llm", help="address of a server of OpenAI's protocol, to word answers (OPENAI_API_KEY)")
    parser.add_argument("--llm_model", help="the model's name there")
    parser.add_argument("--llm_timeout", type=float, default=60.0, help="seconds for a reply (default: %(default)s)")
    parser.add_argument("--captioner", help="model of transformers that describes the picture to the language model")
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace) -> Desk:
    """Load the models and the examples.

    Raises:
        UserError: a model cannot be loaded, or there is no folder of that name.
    """
    from vle_lightning.demo.page import Desk

    for option, told in {"photos": "pictures", "world": "the embedded world (make data-toy)"}.items():
        folder = getattr(options, option)
        if folder is not None and not folder.is_dir():
            raise UserError(f"--{option} {folder}: the folder was not found; name a folder of {told}")
    language_model = find_language_model(options)
    models, used = [], set[str]()
    for source, name in zip(options.model, short_names(options.model), strict=True):
        bare = options.tokenizer is not None and lacks_tokenizer(source)
        tokenizer, answers = (options.tokenizer, options.answers) if bare else (None, None)
        models.append(Model(source, name, tokenizer, answers, options.device, options.dtype))
        used |= {"tokenizer"} if bare else set()
        used |= {"answers"} if bare and "vqa" in models[-1].pipelines else set()
        print(f"{name}: {', '.join(models[-1].pipelines)}", flush=True)
    for option in ("tokenizer", "answers"):
        if getattr(options, option) is not None and option not in used:
            raise UserError(f"--{option}: none of the models needs it: they come with their own; leave the option out")
    if language_model is not None and not any("vqa" in model.pipelines for model in models):
        raise UserError("--llm words answers of VQA, and none of the models has a head for it; name one that has")
    examples = Examples(WORLD if options.world is None else options.world)
    own = is_loopback(options.address) and not options.share
    photos = options.photos or examples.folder
    return Desk(Models(models), Limits(), examples, photos, own, CACHE.expanduser(), language_model)


def find_language_model(options: argparse.Namespace) -> LanguageModel | None:
    """Return the language model that the options name, if they do.

    Raises:
        UserError: they name a part of it, or the captioner cannot be loaded.
    """
    if all(option is None for option in (options.llm, options.llm_model, options.captioner)):
        return None
    if not (options.llm and options.llm_model):
        raise UserError("--llm or --llm_model is missing: give the address of a server, and the model to use there")
    chat = ChatServer(options.llm, options.llm_model, options.llm_timeout)
    if options.captioner is None:
        return LanguageModel(chat)
    return LanguageModel(chat, Captioner(options.captioner, find_device(options.device), find_dtype(options.dtype)))


def lacks_tokenizer(source: str) -> bool:
    """Say whether a model comes without tokenizer and image settings of its own."""
    try:
        Processor.from_pretrained(source)
    except UserError:
        return True
    return False


def is_loopback(address: str) -> bool:
    """Say whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
