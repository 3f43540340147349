"""``python -m vle_lightning export RUN --to DIR``: a checkpoint as a folder that others can load."""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from vle_lightning.encoders.base import CLIP_MEAN, CLIP_STD
from vle_lightning.errors import UserError
from vle_lightning.hub.card import CARD, is_by_hand, write_card
from vle_lightning.hub.filling import own_tensors
from vle_lightning.hub.folder import find_folder
from vle_lightning.hub.pretrained import Pretrained, read_pretrained
from vle_lightning.hub.push import push_folder
from vle_lightning.hub.run_facts import find_origin
from vle_lightning.hub.sharded import is_sharded
from vle_lightning.hub.vle import VQA_HEAD
from vle_lightning.inference.commands import OneSentenceParser
from vle_lightning.inference.processor import IMAGE_FILE, Processor
from vle_lightning.inference.runs import CONFIG as RUN_CONFIG
from vle_lightning.inference.runs import RunSettings, run_settings
from vle_lightning.tasks.base import VisionLanguageTask
from vle_lightning.tasks.portable import Layout

MARK = "export.json"  # tells an export from a folder that somebody made otherwise


def run_export(arguments: Sequence[str]) -> int:
    """Export a checkpoint as the command line asks; return the exit code.

    Raises:
        UserError: there is nothing to export, or the target holds other things.
    """
    options = parse(arguments)
    target = Path(options.to)
    earlier = check_target(target, Path(options.run))
    task, run = open_task(options.run, options.format)
    print(f"{options.run}: {task.load_report}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        folder = Path(temporary)
        for name in task.new_heads:  # as they were drawn: VLMo's layout leaves out those that do not train
            task.heads()[name].requires_grad_(False)
        task.save_pretrained(folder, options.format)
        has_processor = write_processor(folder, options.run, run, options.format)
        kept = is_by_hand(target / CARD)
        if not kept:
            name = options.push or (target.name if target.is_absolute() else target.as_posix())
            origin = find_origin(options.run)
            write_card(folder, task.card(name, options.format, origin, options.license, has_processor))
        names = sorted(file.name for file in folder.iterdir())
        mark = {"source": options.run, "task": task.task_name(), "layout": options.format, "files": names}
        (folder / MARK).write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")
        target.mkdir(exist_ok=True)
        for name in (*names, MARK):  # the mark comes last: what is cut short is no export
            (folder / name).replace(target / name)
    for name in earlier - set(names) - {CARD}:
        (target / name).unlink(missing_ok=True)
    tell(target, task, options.format, has_processor)
    if kept:
        print(f"{target / CARD} was written by hand and is kept; delete it for a new one with these scores")
    if options.push:
        print(f"uploaded to {push_folder(options.push, target, options.private)}")
    return 0


def parse(arguments: Sequence[str]) -> Namespace:
    """Read the command line.

    Raises:
        UserError: an option is missing or unknown.
    """
    parser = OneSentenceParser("python -m vle_lightning export", description="Make a folder that others can load.")
    parser.add_argument("run", help="a run folder, its .ckpt, or anything that --model.init takes")
    parser.add_argument("--to", required=True, help="the folder to write")
    parser.add_argument(
        "--format",
        choices=("own", "vle", "meter", "vlmo"),
        default="own",
        help="vle, meter, vlmo: the published layouts, which their authors' code reads (default: %(default)s)",
    )
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to the hub as well")
    parser.add_argument("--license", help="of the weights, by the hub's name, such as apache-2.0; goes into the card")
    parser.add_argument("--private", action="store_true", help="of a repository that --push makes")
    return parser.parse_args(arguments)


def check_target(target: Path, source: Path) -> set[str]:
    """Return the files of an earlier export that the target holds.

    Raises:
        UserError: it holds anything else, or is what shall be exported.
    """
    if source.exists() and target.resolve() in (source.resolve(), source.resolve().parent):
        raise UserError(f"--to: {target} is what shall be exported; name another folder")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return set()
    if not (target / MARK).is_file():
        raise UserError(f"--to: {target} is there and holds no earlier export (no {MARK}); name another folder")
    try:
        names = json.loads((target / MARK).read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--to: {target / MARK} is not what export writes; name another folder") from error
    return {name for name in names if Path(name).name == name}


def open_task(source: str, layout: Layout) -> tuple[VisionLanguageTask, RunSettings | None]:
    """Load what shall be exported, with the names of its answers or classes.

    Args:
        source: anything that ``model.init`` takes.
        layout: in the published one the position table has the size of the pictures that the run was trained on.

    Raises:
        UserError: it cannot be read.
    """
    pretrained = read_pretrained(source, "RUN")
    file = Path(source)
    is_checkpoint = file.is_file() or is_sharded(file)
    run = None if is_checkpoint and not (file.parent / RUN_CONFIG).is_file() else run_settings(source)
    size = int(run.data["image_size"]) if run is not None and layout != "own" else None
    task = find_task(pretrained).restore(pretrained, size)
    if run is not None:
        task.labels = run.answers or run.classes
    return task, run


def find_task(pretrained: Pretrained) -> type[VisionLanguageTask]:
    """Choose the task by what a source says of itself, else by its heads.

    Raises:
        UserError: it names a task that is not here.
    """
    heads = pretrained.heads
    guess = "vqa" if VQA_HEAD in heads else "vcr" if any(name.startswith("vcr_") for name in heads) else "pretrain"
    told = {"nlvr2": "nlvr2", "snli_ve": "snli_ve", "rank_output": "retrieval"}  # METER's
    if "itc" in heads and "mlm_score" not in heads:  # VLMo's, fine-tuned for retrieval
        told["itc"] = "dual_retrieval"
    guess = next((task for head, task in told.items() if guess == "pretrain" and head in heads), guess)
    name = pretrained.description.task or guess
    try:
        task: type[VisionLanguageTask] = import_module(f"vle_lightning.tasks.{name}").Task
    except (ModuleNotFoundError, AttributeError) as error:
        raise UserError(f"{pretrained.source} is of the task {name!r}, which is not known here") from error
    return task


def write_processor(folder: Path, source: str, run: RunSettings | None, layout: str) -> bool:
    """Write tokenizer and image settings where the source has them; say whether it has.

    A run squeezes its pictures to squares. The published code cannot say that: in its layout the settings are CLIP's,
    the shorter edge resized and the middle cut out, which is the same for square pictures only.
    """
    if run is None:
        path = Path(source)
        if path.is_file() or not ((path if path.is_dir() else find_folder(source).path) / IMAGE_FILE).is_file():
            return False
    Processor.from_pretrained(source).save_pretrained(folder)
    if run is not None and layout == "vle":
        text = json.dumps(clip_settings(int(run.data["image_size"])), indent=2, sort_keys=True) + "\n"
        (folder / IMAGE_FILE).write_text(text, encoding="utf-8")
    return True


def clip_settings(size: int) -> dict[str, Any]:
    """Write CLIP's image settings for pictures of size x size pixels, as the published preprocessor_config.json."""
    return {
        "crop_size": {"height": size, "width": size},
        **dict.fromkeys(("do_center_crop", "do_convert_rgb", "do_normalize", "do_rescale", "do_resize"), True),
        "image_mean": list(CLIP_MEAN),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": list(CLIP_STD),
        "processor_class": "VLEProcessor",
        "resample": 3,  # bicubic
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": size},
    }


def tell(target: Path, task: VisionLanguageTask, layout: str, has_processor: bool) -> None:
    """Print what was written, and what had no place in it."""
    lost = sorted(task.heads().keys() - task.published_heads().keys()) if layout == "vle" else []
    lost = lost or sorted(task.heads().keys() - task.trained_heads().keys()) if layout == "vlmo" else lost
    if lost and layout == "vlmo":
        print(f"left out, for the source does not hold it: {', '.join(lost)}")
    elif lost:
        print(f"left out, for the published layout has no place for it: {', '.join(lost)}")
    if not has_processor:
        print(f"{target} has no tokenizer and image settings, for the source names none; pipelines need them")
    count = sum(tensor.numel() for tensor in own_tensors({"": task}).tensors.values())
    print(f"{target} holds the {task.task_name()} task, {count:,} parameters, in the layout '{layout}'")
