"""Starting from a checkpoint: all of it lands, or the message names what does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.factories import ANSWERS, CLASSES
from vle_lightning.encoders.image import ImageConfig, ImageEncoder
from vle_lightning.encoders.positions import resize_position_table
from vle_lightning.errors import UserError
from vle_lightning.hub.checkpoint import load_encoder, read_checkpoint
from vle_lightning.models.dual_stream import DualStream, DualStreamConfig
from vle_lightning.models.presets import PRESETS
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.vqa import VQATask

TABLE = "model.image.position_embedding.weight"


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return PretrainTask("tiny", classes=CLASSES).state_dict()


def save(weights: dict[str, Tensor], folder: Path) -> Path:
    path = folder / "best.ckpt"
    torch.save({"state_dict": weights}, path)
    return path


def test_a_task_starts_from_anothers_encoder(weights: dict[str, Tensor], tmp_path: Path) -> None:
    task = VQATask("tiny", answers=ANSWERS, init=str(save(weights, tmp_path).parent))
    for key, value in task.model.state_dict().items():
        torch.testing.assert_close(value, weights[f"model.{key}"])
    parameters = sum(value.numel() for key, value in weights.items() if key.startswith("model."))
    assert task.load_report is not None
    assert f"loaded {parameters:,} parameters" in task.load_report
    assert "(objectives)" in task.load_report


def test_every_misfit_is_named(weights: dict[str, Tensor], tmp_path: Path) -> None:
    weights["model.text_pooler.renamed"] = weights.pop("model.text_pooler.dense.bias")
    weights["model.image_pooler.dense.bias"] = weights["model.image_pooler.dense.bias"][:3]
    weights["model.token_types.weight"] = weights["model.token_types.weight"].long()
    with pytest.raises(UserError) as caught:
        load_encoder(DualStream(PRESETS["tiny"]), save(weights, tmp_path))
    message = str(caught.value)
    assert "text_pooler.dense.bias is missing" in message
    assert "text_pooler.renamed is unknown here" in message
    assert "image_pooler.dense.bias is (3,), the model has (32,)" in message
    assert "token_types.weight holds torch.int64" in message


def test_a_checkpoint_of_another_width_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not fit model.architecture"):
        load_encoder(DualStream(PRESETS["toy"]), save(weights, tmp_path))


def test_the_position_table_follows_the_image_size(weights: dict[str, Tensor], tmp_path: Path) -> None:
    tiny = PRESETS["tiny"]
    larger = DualStreamConfig(tiny.text, ImageConfig(64, 8, 32, 1, 4, 128), tiny.fusion)
    model = DualStream(larger)
    report = load_encoder(model, save(weights, tmp_path))
    assert report.resized == ("image.position_embedding.weight (37, 32) -> (65, 32)",)
    torch.testing.assert_close(model.image.position_embedding.weight[0], weights[TABLE][0])


def test_a_larger_image_and_a_resized_table_agree() -> None:
    torch.manual_seed(0)
    small, large = (ImageEncoder(ImageConfig(size, 8, 32, 1, 4, 64)) for size in (48, 64))
    state = small.state_dict()
    state["position_embedding.weight"] = resize_position_table(state["position_embedding.weight"], (8, 8))
    large.load_state_dict(state)
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(small(pixels).states, large(pixels).states)


def test_a_missing_file_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint at .*best.ckpt; train one"):
        read_checkpoint(tmp_path)


def test_a_truncated_file_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(weights, tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)


class Trap:
    """Runs a command when unpickled the careless way."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": Trap(f"touch {tmp_path / 'ran'}")}, path)
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()
