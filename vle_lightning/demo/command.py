"""``python -m vle_lightning demo MODEL [MODEL ...]``: a page on which trained models can be tried."""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vle_lightning.demo.examples import Examples
from vle_lightning.demo.limits import Limits
from vle_lightning.demo.models import Model, Models, short_names
from vle_lightning.errors import UserError
from vle_lightning.inference.commands import OneSentenceParser
from vle_lightning.inference.processor import Processor

if TYPE_CHECKING:
    from vle_lightning.demo.page import Desk

LOCAL = "127.0.0.1"
CACHE = Path("~/.cache/vle_lightning/indexes")


def run_demo(arguments: Sequence[str]) -> int:
    """Load the models and serve the page until Ctrl-C.

    Raises:
        UserError: Gradio is not installed, or a model, folder or address cannot be used.
    """
    options = read_options(arguments)
    check_gradio()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    desk = prepare(options)
    from vle_lightning.demo.app import Place, build_app, serve

    serve(build_app(desk), desk, Place(options.address, options.port, options.share))
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
    parser.add_argument("--world", type=Path, default=Path("data/toy"), help="of the examples (default: %(default)s)")
    return parser.parse_args(arguments)


def check_gradio() -> None:
    """Raise a UserError where Gradio is not installed."""
    if find_spec("gradio") is None:
        raise UserError("the demo needs Gradio, which is not installed: pip install 'vle-lightning[demo]'")


def prepare(options: argparse.Namespace) -> Desk:
    """Load the models and the examples.

    Raises:
        UserError: a model cannot be loaded, or there is no folder of that name.
    """
    from vle_lightning.demo.page import Desk

    if options.photos is not None and not options.photos.is_dir():
        raise UserError(f"--photos {options.photos}: there is no such folder; name a folder of pictures")
    models = []
    for source, name in zip(options.model, short_names(options.model), strict=True):
        bare = options.tokenizer is not None and lacks_tokenizer(source)
        tokenizer, answers = (options.tokenizer, options.answers) if bare else (None, None)
        models.append(Model(source, name, tokenizer, answers, options.device, options.dtype))
        print(f"{name}: {', '.join(models[-1].pipelines)}", flush=True)
    examples = Examples(options.world)
    own = is_loopback(options.address) and not options.share
    photos = options.photos or examples.folder
    return Desk(Models(models), Limits(), examples, photos, folders=own, cache=CACHE.expanduser())


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
