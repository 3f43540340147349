"""Parts in a file of one's own, outside of the package: each trains, resumes, exports and is planned by command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from vle_lightning.cli import main
from vle_lightning.tasks.pretrain import PretrainTask

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "pretrain" / "toy.yaml"
QUICK = {
    "trainer": {"max_steps": 2, "enable_progress_bar": False, "accelerator": "cpu", "devices": 1},
    "validate_every": 2,
    "data": {"batch_size": 8, "global_batch_size": 8, "workers": 0, "limit_val": 8},
}
TEXT = """
from dataclasses import dataclass

from torch import nn

from vle_lightning.encoders.base import TextEncoder, TextEncoderConfig
from vle_lightning.streams import Stream


@dataclass(frozen=True)
class RecurrentConfig(TextEncoderConfig):
    layers: int = 2

    def build(self):
        return Recurrent(self)


class Recurrent(TextEncoder):
    def __init__(self, config):
        super().__init__()
        self.width, self.vocabulary, self.max_tokens = config.width, config.vocab_size, 512
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.stack = nn.ModuleList(nn.GRU(config.width, config.width, batch_first=True) for _ in range(config.layers))

    @property
    def word_embeddings(self):
        return self.words

    @property
    def layers(self):
        return self.stack

    def forward(self, input_ids, attention_mask):
        states = self.words(input_ids)
        for layer in self.stack:
            states = layer(states)[0]
        return Stream(states, attention_mask)
"""
IMAGE = """
from dataclasses import dataclass

import torch
from torch import nn

from vle_lightning.encoders.base import ImageEncoder, ImageEncoderConfig
from vle_lightning.streams import ImageLayout, Stream


@dataclass(frozen=True)
class MixerConfig(ImageEncoderConfig):
    width: int = 16
    patch_size: int = 8
    layers: int = 1

    def build(self):
        return Mixer(self)


class Mixer(ImageEncoder):
    mean_pooled = True

    def __init__(self, config):
        super().__init__()
        self.width = self.hidden_width = config.width
        self.layout = ImageLayout(0, config.patch_size)
        self.patches = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)
        self.stack = nn.ModuleList(
            nn.Conv2d(config.width, config.width, 3, padding=1, groups=4) for _ in range(config.layers)
        )

    @property
    def layers(self):
        return self.stack

    def resize(self, image_size):
        pass  # any size will do

    def forward(self, pixel_values, hidden=None):
        if hidden is not None and hidden.vector is None:
            pixel_values = self.blackened(pixel_values, hidden.patches)
        states = self.patches(pixel_values)
        if hidden is not None and hidden.vector is not None:
            kept = states.flatten(2).transpose(1, 2)
            kept = torch.where(hidden.patches[..., None], hidden.vector, kept)
            states = kept.transpose(1, 2).reshape(states.shape)
        for layer in self.stack:
            states = states + layer(states).relu()
        states = states.flatten(2).transpose(1, 2)
        return Stream(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))
"""
FUSION = """
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from vle_lightning.fusion.base import Fusion, FusionConfig


@dataclass(frozen=True)
class AverageConfig(FusionConfig):
    def build(self):
        return Average(self)


class Average(Fusion):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2 * config.width, config.width) for _ in range(config.layers))
        self.watchers = []

    def stack(self):
        return list(self.layers)

    def forward(self, text, image, parts=None):
        states, others = text.states, image.states
        for watcher in self.watchers:
            shares = image.mask[:, None, None] / image.mask.sum(-1)[:, None, None, None]
            watcher.append(shares.expand(-1, 1, states.shape[1], -1))
        for layer in self.layers:
            means = [(s * m[..., None]).sum(1, keepdim=True) / m.sum(1)[:, None, None]
                     for s, m in ((states, text.mask), (others, image.mask))]
            states, others = (torch.cat([own, other.expand_as(own)], -1) for own, other in
                              ((states, means[1]), (others, means[0])))
            states, others = layer(states).tanh(), layer(others).tanh()
        return states, others

    @contextmanager
    def watch(self):
        seen = []
        self.watchers.append(seen)
        try:
            yield seen
        finally:
            self.watchers.remove(seen)
"""
BACKBONE = """
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from vle_lightning.encoders.base import PixelFacts
from vle_lightning.models.backbone import Backbone, BackboneConfig, Features
from vle_lightning.models.heads import initialise
from vle_lightning.streams import Fused, ImageLayout, Stream


@dataclass(frozen=True)
class OneStreamConfig(BackboneConfig):
    width: int = 32
    layers: int = 2
    vocab_size: int = 256
    pixel_size: int = 48

    @property
    def image_size(self):
        return self.pixel_size

    def resized(self, image_size):
        return replace(self, pixel_size=image_size)

    def build(self, blind="none"):
        return OneStream(self, blind)


class OneStream(Backbone):
    rates: ClassVar = {"words.": "tower", "patches.": "tower"}

    def __init__(self, config, blind):
        super().__init__(config, blind)
        self.width = self.pooled_width = self.hidden_width = self.text_width = config.width
        self.vocabulary, self.max_tokens, self.padding = config.vocab_size, 512, None
        self.layout, self.pixels = ImageLayout(0, 8), PixelFacts()
        self.norm_eps, self.init_std = 1e-5, 0.02
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.patches = nn.Conv2d(3, config.width, 8, 8)
        self.token_types = nn.Embedding(8, config.width)
        self.stack = nn.ModuleList(
            nn.TransformerEncoderLayer(config.width, 4, 64, 0.0, batch_first=True) for _ in range(config.layers)
        )
        initialise(self, self.init_std)

    @property
    def word_embeddings(self):
        return self.words

    def layers(self):
        return {"text": [], "image": [], "fusion": list(self.stack)}

    def part_of(self, name):
        return {"words": "text", "patches": "image"}.get(name.split(".")[0], "fusion")

    def resize_images(self, image_size):
        self.config = self.config.resized(image_size)

    @contextmanager
    def watch(self):
        yield []

    def features(self, text, pixel_values, rows=None):
        return Features(None, None, None)

    def _encode_text(self, input_ids, attention_mask):
        return Stream(self.words(input_ids), attention_mask)

    def _encode_image(self, pixel_values, hidden):
        states = self.patches(pixel_values).flatten(2).transpose(1, 2)
        if hidden is not None and hidden.vector is not None:
            states = torch.where(hidden.patches[..., None], hidden.vector, states)
        return Stream(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))

    def _fuse(self, text, image, parts):
        both = text.append(image)
        states = both.states
        for layer in self.stack:
            states = layer(states, src_key_padding_mask=~both.mask)
        tokens = text.mask.shape[1]
        return Fused(states[:, :tokens], states[:, tokens:], states[:, 0])
"""
FILES = {"text": TEXT, "image": IMAGE, "fusion": FUSION, "backbone": BACKBONE}
ARCHITECTURES = {
    "text": {"preset": "tiny", "text": {"kind": "my_parts.text"}},
    "image": {"preset": "tiny", "image": {"kind": "my_parts.image"}},
    "fusion": {"preset": "tiny", "fusion": {"kind": "my_parts.fusion"}},
    "backbone": {"kind": "my_backbone", "layers": 1},  # a module of its own
}


@pytest.fixture
def place(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the toy data and a user's parts, on the path."""
    (tmp_path / "data").symlink_to(workplace / "data")
    (tmp_path / "my_parts").mkdir()
    (tmp_path / "my_parts" / "__init__.py").touch()
    for name in ("text", "image", "fusion"):
        (tmp_path / "my_parts" / f"{name}.py").write_text(FILES[name])
    (tmp_path / "my_backbone.py").write_text(FILES["backbone"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(("my_parts", "my_backbone"))]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("part", FILES)
def test_a_part_of_ones_own_trains_resumes_exports_and_is_planned(
    part: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture = ARCHITECTURES[part]
    objectives = {"itm": 1.0, "mlm": 1.0, "mpc": 1.0, "pbc": 1.0}
    model = {"architecture": architecture, "objectives": objectives}
    (place / "own.yaml").write_text(yaml.safe_dump({**QUICK, "model": model}))
    experiment = ("--config", str(EXPERIMENT), "--config", "own.yaml")
    assert main(["fit", *experiment]) == 0
    assert main(["fit", *experiment, "--ckpt_path", "auto", "--trainer.max_steps", "4"]) == 0
    run = place / "checkpoints" / "pretrain-toy"
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == 4
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["architecture"] == architecture
    assert main(["export", str(run), "--to", "out"]) == 0
    task = PretrainTask.from_pretrained(place / "out")
    saved = torch.load(run / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, saved[name]) for name, tensor in task.state_dict().items())
    assert main(["plan", *experiment, "--gpus", "2", "--gpu", "h100"]) == 0
    assert "error" not in capsys.readouterr().err
