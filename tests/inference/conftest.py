"""Tiny models with a tokenizer of their own, as exported folders, and the reference fixtures where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.tokenizers import train_tokenizer
from vle_lightning.inference.processor import Processor
from vle_lightning.models.backbone import Backbone
from vle_lightning.streams import Stream
from vle_lightning.tasks.base import VisionLanguageTask
from vle_lightning.tasks.dual_retrieval import DualRetrievalTask
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.vcr import VCRTask
from vle_lightning.tasks.vqa import VQATask

ROOT = Path(__file__).parents[2]
SIZE = 48  # pixels; the tiny model has 6 x 6 patches
ANSWERS = ["red", "blue", "two", "no"]
TEXTS = [
    "What colour is the old car near Casey?",
    "Alex and Casey sit near the red chair.",
    "Why is the dog behind the blue car?",
    "No, Alex is a visitor and stands here.",
    "a small dog and two people with an umbrella",
]


def count_looks(monkeypatch: pytest.MonkeyPatch, encoder: Backbone) -> list[int]:
    """Return a list that will hold how many pictures each pass of the image tower took."""
    rows: list[int] = []
    encode = encoder.encode_image

    def counted(pixel_values: Tensor) -> Stream:
        rows.append(len(pixel_values))
        return encode(pixel_values)

    monkeypatch.setattr(encoder, "encode_image", counted)
    return rows


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer that knows the words of TEXTS."""
    folder = tmp_path_factory.mktemp("inference") / "tokenizer"
    train_tokenizer(TEXTS, folder, 200)
    return folder


@pytest.fixture(scope="session")
def exported(tokenizer_folder: Path) -> Callable[[str], Path]:
    """Give the folder of a tiny exported model: pretrain, vqa, vcr-q2a, vcr-qa2r or a dual encoder; each once."""
    made: dict[str, Path] = {}
    kinds: dict[str, Callable[[], VisionLanguageTask]] = {
        "pretrain": lambda: PretrainTask("tiny", classes=5),
        "vqa": lambda: VQATask("tiny", answers=len(ANSWERS)),
        "vcr-q2a": lambda: VCRTask("tiny", mode="q2a"),
        "vcr-qa2r": lambda: VCRTask("tiny", mode="qa2r"),
        "dual": lambda: DualRetrievalTask("tiny"),
        "dual-experts": lambda: DualRetrievalTask("vlmo-tiny"),
    }

    def export(kind: str) -> Path:
        if kind not in made:
            torch.manual_seed(len(kind))
            task = kinds[kind]()
            task.labels = ANSWERS if kind == "vqa" else None
            for parameter in task.parameters():  # far from the start, so that answers differ
                parameter.data += 0.2 * torch.randn_like(parameter)
            made[kind] = tokenizer_folder.with_name(kind)
            task.save_pretrained(made[kind])
            Processor.prepared(str(tokenizer_folder), SIZE).save_pretrained(made[kind])
        return made[kind]

    return export


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of the authors' numbers for VLE."""
    places = (ROOT.parent / "shared" / "fixtures", ROOT / "tests" / "fixtures")  # the whole, or the part carried here
    found = next((place for place in places if (place / "vle_preprocess").is_dir()), None)
    if found is None:
        pytest.skip(f"no reference fixtures in {' or '.join(map(str, places))}")
    return found
