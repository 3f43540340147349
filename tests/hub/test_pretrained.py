"""Weights from any source: all of them land, or the message names what does not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.factories import ANSWERS, CLASSES, dual, of_kind
from tests.hub.published import publish, published_weights
from vle_lightning.encoders.clip_vit import ClipViT, ClipViTConfig
from vle_lightning.encoders.deberta import DebertaConfig
from vle_lightning.encoders.positions import resize_position_table
from vle_lightning.errors import UserError
from vle_lightning.hub.pretrained import from_pretrained, load_pretrained, read_pretrained
from vle_lightning.models.dual_stream import DualStream, DualStreamConfig
from vle_lightning.models.presets import PRESETS
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.vcr import VCRTask
from vle_lightning.tasks.vqa import VQATask

TINY = PRESETS["tiny"]
TABLE = "model.image.position_embedding.weight"


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return PretrainTask("tiny", classes=CLASSES).state_dict()


def save(weights: dict[str, Tensor], folder: Path) -> Path:
    path = folder / "best.ckpt"
    torch.save({"state_dict": weights}, path)
    return path


def load_encoder(path: Path, config: DualStreamConfig = TINY) -> tuple[DualStream, object]:
    model = DualStream(config)
    return model, load_pretrained(path, model, {}, "model.init")


def with_image(size: int) -> DualStreamConfig:
    return replace(TINY, image=replace(TINY.image, image_size=size))


# Our own checkpoints


def test_a_task_starts_from_anothers_encoder(weights: dict[str, Tensor], tmp_path: Path) -> None:
    task = VQATask("tiny", answers=ANSWERS, init=str(save(weights, tmp_path).parent))
    for key, value in task.model.state_dict().items():
        torch.testing.assert_close(value, weights[f"model.{key}"])
    parameters = sum(value.numel() for key, value in weights.items() if key.startswith("model."))
    assert task.load_report is not None
    assert f"loaded {parameters:,} parameters" in task.load_report
    assert "left out itm_score, mlm_score, pbc_classifier, mpc" in task.load_report


def test_an_mpc_head_of_an_earlier_version_is_left_out_and_starts_anew(tmp_path: Path) -> None:
    task = PretrainTask("tiny", classes=CLASSES)
    checkpoint: dict[str, object] = {}
    task.on_save_checkpoint(checkpoint)
    checkpoint["options"] = {"objectives": dict(task.weights), "classes": CLASSES, "blind": "none"}
    old = {key.replace("mpc.region_head", "mpc.head"): value for key, value in task.state_dict().items()}
    torch.save({**checkpoint, "state_dict": old}, tmp_path / "best.ckpt")
    for again in (PretrainTask("tiny", classes=CLASSES, init=str(tmp_path)), PretrainTask.from_pretrained(tmp_path)):
        assert "left out mpc (of an earlier version, which read something else)" in str(again.load_report)
        assert again.new_heads == ("mpc",)
        same = {key for key, value in again.state_dict().items() if torch.equal(value, task.state_dict()[key])}
        assert {key for key in task.state_dict() if not key.startswith("objectives.mpc.")} <= same
        assert "objectives.mpc.region_head.0.weight" not in same


def test_every_misfit_is_named(weights: dict[str, Tensor], tmp_path: Path) -> None:
    weights["model.text_pooler.renamed"] = weights.pop("model.text_pooler.dense.bias")
    weights["model.image_pooler.dense.bias"] = weights["model.image_pooler.dense.bias"][:3]
    weights["model.token_types.weight"] = weights["model.token_types.weight"].long()
    with pytest.raises(UserError) as caught:
        load_encoder(save(weights, tmp_path))
    message = str(caught.value)
    assert "model.text_pooler.dense.bias is missing" in message
    assert "model.text_pooler.renamed is unknown here" in message
    assert "model.image_pooler.dense.bias is (3,), the model has (32,)" in message
    assert "model.token_types.weight holds int64, the model float32" in message


def test_a_checkpoint_of_another_width_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not fit model.architecture"):
        load_encoder(save(weights, tmp_path), PRESETS["toy"])


def test_heads_that_no_shape_tells_apart_are_told_apart(tmp_path: Path) -> None:
    VQATask("tiny", answers=ANSWERS).save_pretrained(tmp_path)
    text = replace(of_kind(DebertaConfig, TINY.text), layer_norm_eps=1e-5)
    other = replace(TINY, fusion=replace(TINY.fusion, heads=2), text=text)
    with pytest.raises(UserError) as caught:
        load_encoder(tmp_path, other)
    assert "architecture.fusion.heads is 4, the model has 2" in str(caught.value)
    assert "architecture.text.layer_norm_eps is 1e-07, the model has 1e-05" in str(caught.value)


def test_the_position_table_follows_the_image_size(weights: dict[str, Tensor], tmp_path: Path) -> None:
    model = DualStream(with_image(64))
    report = load_pretrained(save(weights, tmp_path), model, {})
    assert report.resized == ("image.position_embedding.weight (37, 32) -> (65, 32)",)
    torch.testing.assert_close(of_kind(ClipViT, model.image).position_embedding.weight[0], weights[TABLE][0])


def test_a_larger_image_and_a_resized_table_agree() -> None:
    torch.manual_seed(0)
    small, large = (ClipViT(of_kind(ClipViTConfig, with_image(size).image)) for size in (48, 64))
    state = small.state_dict()
    state["position_embedding.weight"] = resize_position_table(state["position_embedding.weight"], (8, 8))
    large.load_state_dict(state)
    pixels = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(small(pixels).states, large(pixels).states)


@pytest.mark.parametrize("task", [VQATask("tiny", answers=ANSWERS), PretrainTask("tiny"), VCRTask("tiny", mode="qa2r")])
def test_a_folder_of_ours_gives_the_task_back_bit_by_bit(task: VQATask, tmp_path: Path) -> None:
    task.labels = ["a", "b"]
    task.save_pretrained(tmp_path)
    again = type(task).from_pretrained(tmp_path)
    assert again.state_dict().keys() == task.state_dict().keys()
    assert all(torch.equal(value, task.state_dict()[key]) for key, value in again.state_dict().items())
    assert again.options == task.options
    assert again.labels == ["a", "b"]
    assert again.new_heads == ()


def test_a_run_says_what_rebuilds_its_task(tmp_path: Path) -> None:
    task = VCRTask("tiny", mode="qa2r", families=["colour"])
    checkpoint: dict[str, object] = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "best.ckpt")
    for source in (tmp_path, tmp_path / "best.ckpt"):
        again = VCRTask.from_pretrained(source)
        assert (again.mode, again.families) == ("qa2r", ("colour",))
        assert torch.equal(again.state_dict()["head.0.weight"], task.state_dict()["head.0.weight"])


def test_a_pretrained_head_comes_along_where_its_numbers_keep_their_meaning(tmp_path: Path) -> None:
    torch.manual_seed(1)
    VCRTask("tiny").save_pretrained(tmp_path / "q2a")
    VQATask("tiny", answers=ANSWERS).save_pretrained(tmp_path / "vqa")
    same, other = (VCRTask("tiny", mode=mode, init=str(tmp_path / "q2a")) for mode in ("q2a", "qa2r"))
    assert same.new_heads == ()
    assert other.new_heads == ("vcr_qa2r_logit",)
    vqa = VQATask("tiny", answers=ANSWERS, init=str(tmp_path / "vqa"))
    assert "left out vqa_classifier" in str(vqa.load_report)  # its answers may stand in another order


def test_a_checkpoint_of_another_answer_list_is_refused(tmp_path: Path) -> None:
    VQATask("tiny", answers=5).save_pretrained(tmp_path)
    assert VQATask.from_pretrained(tmp_path).options["answers"] == 5
    with pytest.raises(UserError, match=r"head.3.bias is \(5,\), the model has \(6,\)"):
        VQATask.from_pretrained(tmp_path, answers=6)


def test_an_option_that_the_task_does_not_have_is_named(tmp_path: Path) -> None:
    VQATask("tiny", answers=ANSWERS).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"answers"', '"surprise": 1, "answers"', 1))
    with pytest.raises(UserError, match="options of the task vqa holds unknown options: surprise"):
        VQATask.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"layers": 1', '"layers": 1, "surprise": 2'), "architecture.text holds unknown options: surprise"),
        (('"labels"', '"surprise": 1, "labels"'), "unknown options: surprise"),
        (('"format_version": 2', '"format_version": 9'), "reads up to 2"),
        (('"format": "vle_lightning"', '"model_type": "bert"'), "describes a 'bert'"),
        (("{", "["), "is not JSON"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    VQATask("tiny", answers=ANSWERS).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace(*change, 1))
    with pytest.raises(UserError, match=message):
        read_pretrained(tmp_path)


# Published checkpoints


def test_what_was_damaged_is_named_as_in_the_file(tmp_path: Path) -> None:
    weights = published_weights("vqa_classifier")
    weights["vle.text_projection_layer.wait"] = weights.pop("vle.text_projection_layer.weight")
    del weights["vle.cross_modal_image_layers.0.crossattention.self.key.bias"]
    weights["vle.token_type_embeddings.weight"] = weights["vle.token_type_embeddings.weight"][:2].clone()
    weights["vqa_classifier.3.weight"] = weights["vqa_classifier.3.weight"].long()
    weights["surprise"] = torch.zeros(1)
    with pytest.raises(UserError) as caught:
        VQATask.from_pretrained(publish(tmp_path, weights))
    lines = set(str(caught.value).split("\n  ")[1:])
    assert lines == {
        "vle.text_projection_layer.weight is missing",
        "vle.text_projection_layer.wait is unknown here",
        "vle.cross_modal_image_layers.0.crossattention.self.key.bias is missing",
        "vle.token_type_embeddings.weight is (2, 8), the model has (6, 8)",
        "vqa_classifier.3.weight holds int64, the model float32",
        "surprise is unknown here",
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_cast_and_reported(dtype: torch.dtype, tmp_path: Path) -> None:
    weights = published_weights()
    key = "vle.image_projection_layer.bias"
    weights[key] = weights[key].to(dtype)
    encoder, report = from_pretrained(publish(tmp_path, weights))
    assert report.cast == (f"{key} {str(dtype).removeprefix('torch.')} -> float32",)
    assert "cast 1 tensors" in str(report)
    assert torch.equal(dual(encoder).image_projection.bias, weights[key].float())


def test_a_head_that_is_not_there_is_new_and_others_are_left_out(tmp_path: Path) -> None:
    source = publish(tmp_path, published_weights("itm_score", "pbc_classifier"))
    task = VQATask.from_pretrained(source, answers=4)
    assert task.new_heads == ("vqa_classifier",)
    assert "newly made: vqa_classifier" in str(task.load_report)
    assert "left out itm_score, pbc_classifier, vle.text_model.embeddings.position_ids" in str(task.load_report)


def test_a_larger_picture_resizes_the_published_table(tmp_path: Path) -> None:
    weights = published_weights("vqa_classifier")
    task = VQATask.from_pretrained(publish(tmp_path, weights), image_size=48)
    assert "resized the image encoder's positions from 32 to 48 pixels" in str(task.load_report)
    table = of_kind(ClipViT, dual(task.model).image).position_embedding.weight
    published = weights["vle.vision_model.vision_model.embeddings.position_embedding.weight"]
    assert (published.shape, table.shape) == ((17, 16), (37, 16))
    torch.testing.assert_close(table, resize_position_table(published, (6, 6)), check_stride=False)


def test_a_published_folder_names_as_many_answers_as_its_head_has(tmp_path: Path) -> None:
    weights = published_weights("vqa_classifier")
    with pytest.raises(UserError, match="names 2 answers in id2label, but vqa_classifier has 3"):
        VQATask.from_pretrained(publish(tmp_path, weights, id2label={"0": "a", "1": "b"}))


# Files that are no checkpoints


def test_a_missing_file_says_what_to_run(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "best.ckpt"):
        with pytest.raises(UserError, match="no checkpoint at .*best.ckpt; train one"):
            read_pretrained(source)


def test_a_truncated_file_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(weights, tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_pretrained(path)


class Trap:
    """Runs a command when unpickled the careless way."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("name", ["best.ckpt", "weights.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(name: str, zipped: bool, tmp_path: Path) -> None:
    folder = publish(tmp_path, {"x": torch.zeros(1)}) if name.endswith(".bin") else tmp_path
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    trap = {"state_dict": Trap(f"touch {tmp_path / 'ran'}")}
    torch.save(trap, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"refused: opening it could run code \(posix.system\)"):
        read_pretrained(folder if name.endswith(".bin") else tmp_path / name)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / name, weights_only=False)
    assert (tmp_path / "ran").exists()  # the trap works


def test_a_model_trained_without_images_stays_so(tmp_path: Path) -> None:
    VQATask("tiny", answers=3, blind="image").save_pretrained(tmp_path)
    encoder, _ = from_pretrained(tmp_path)
    assert encoder.blind == "image"


def test_init_goes_before_towers_of_their_own(tmp_path: Path) -> None:
    first = PretrainTask("tiny")
    first.save_pretrained(tmp_path / "init")
    task = PretrainTask("tiny", init=str(tmp_path / "init"), text_init="nowhere/at-all", image_init="nowhere/at-all")
    for name, weight in first.model.state_dict().items():
        assert torch.equal(task.model.state_dict()[name], weight), name
    assert "nowhere" not in str(task.load_report)
