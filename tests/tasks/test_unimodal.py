"""Pre-training on one modality alone: losses by arithmetic, what trains and what stays, what the next stage gets."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.factories import CODES, PATCHES, image_batch, run_checkpoint, text_batch
from vle_lightning.batch import IGNORED, DataFacts
from vle_lightning.errors import UserError
from vle_lightning.models.experts import MoMEBlock
from vle_lightning.models.mome import MoME
from vle_lightning.objectives.mlm import MaskedLanguageModelling
from vle_lightning.optim import OptimConfig, make_optimizer
from vle_lightning.tasks.base import Stage
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.pretrain_images import PretrainImagesTask
from vle_lightning.tasks.pretrain_texts import PretrainTextsTask
from vle_lightning.tasks.unimodal import UnimodalTask

PUBLISHED = ["blocks.attention", "blocks.norm", "blocks.scale_1", "blocks.scale_2"]  # frozen in VLMo's second stage
MODELS = ("vlmo-tiny", "tiny")


def loss_of(task: UnimodalTask) -> torch.Tensor:
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    return task.step(image_batch() if task.modality == "image" else text_batch(), Stage.TRAIN)


def make(modality: str, model: str = "vlmo-tiny", freeze: list[str] | None = None) -> UnimodalTask:
    torch.manual_seed(0)
    if modality == "image":
        return PretrainImagesTask(model, codes=CODES, freeze=freeze)
    return PretrainTextsTask(model, freeze=freeze)


@pytest.mark.parametrize("model", MODELS)
def test_an_ignorant_head_loses_the_logarithm_of_its_choices(model: str) -> None:
    images, texts = make("image", model), make("text", model)
    assert isinstance(images, PretrainImagesTask)
    assert isinstance(texts, PretrainTextsTask)
    for head in (images.objective.head, texts.objective.head.decoder):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    assert loss_of(images).item() == pytest.approx(math.log(CODES), abs=1e-5)
    assert loss_of(texts).item() == pytest.approx(math.log(texts.model.vocabulary), abs=1e-5)


def test_codes_are_predicted_by_the_images_own_normed_states() -> None:
    """Restated row by row: black box of the encoder aside, one linear layer and a mean over hidden patches."""
    task, batch = make("image").eval(), image_batch()
    assert isinstance(task, PretrainImagesTask)
    assert isinstance(task.model, MoME)
    model, objective = task.model, task.objective
    pixels = model.image.patch_embedding(batch.pixel_values).flatten(2).transpose(1, 2)
    pixels = torch.where(batch.hidden_patches[..., None], objective.mask_vector, pixels)
    states = torch.cat([model.image.class_embedding.expand(4, 1, -1), pixels], 1)
    states = states + model.token_types.weight[1]
    for number, block in enumerate(model.blocks):
        bias = model.biases(model.index_alone("image", 37))
        assert bias is not None
        assert isinstance(block, MoMEBlock)
        normed = block.norm(states)
        states = states + block.scale_1 * block.attention(normed, bias[number][None])
        states = states + block.scale_2 * block.experts["image"](states)
    logits = objective.head(model.norm(states)[:, 1:])
    losses, right, on_objects = [], 0, 0
    for row in range(4):
        for patch in range(PATCHES):
            if batch.hidden_patches[row, patch]:
                target = batch.patch_codes[row, patch]
                losses.append(F.cross_entropy(logits[row, patch], target))
                is_right = bool(logits[row, patch].argmax() == target)
                right, on_objects = right + is_right, on_objects + (is_right and bool(batch.object_patches[row, patch]))
    output = objective(objective.states(model, batch), batch)
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    assert int(output.judged) == len(losses)
    assert [int(score.hits) for score in output.scores] == [right, on_objects]
    every, objects = objective.counts(batch)
    assert (int(every.sum()), int(objects.sum())) == (len(losses), int(output.scores[1].total))


def test_words_are_predicted_by_the_texts_own_normed_states() -> None:
    task, batch = make("text").eval(), text_batch()
    assert isinstance(task, PretrainTextsTask)
    assert isinstance(task.model, MoME)
    stream = task.model.encode_text(batch.masked_input_ids, batch.attention_mask)
    states = task.model.norm(task.model.encode_single(stream, "text"))
    logits = task.objective.head.logits(states)
    expected = F.cross_entropy(logits.flatten(0, 1), batch.mlm_targets.flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(loss_of(task), expected)


def test_rows_of_filler_reach_no_loss() -> None:
    images, texts = make("image").eval(), make("text").eval()
    assert isinstance(images, PretrainImagesTask)
    assert isinstance(texts, PretrainTextsTask)
    none = torch.zeros(4, dtype=torch.bool)
    no_images, no_texts = replace(image_batch(), valid=none), replace(text_batch(), valid=none)
    for output in (
        images.objective(images.objective.states(images.model, no_images), no_images),
        texts.objective(texts.objective.states(texts.model, no_texts), no_texts),
    ):
        assert (output.loss.item(), int(output.judged)) == (0.0, 0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("modality", ["image", "text"])
def test_every_weight_that_trains_gets_a_gradient_and_no_other(model: str, modality: str) -> None:
    task = make(modality, model)
    loss_of(task).backward()
    trained = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in task.named_parameters() if parameter.grad is not None}
    assert task.trains_all
    other = "text" if modality == "image" else "image"
    assert not any(f".{other}" in name for name in trained - {"model.token_types.weight"})


def test_the_published_second_stage_trains_what_vlmo_trains() -> None:
    task = make("text", freeze=PUBLISHED)
    trained = {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    blocks = len(task.model.layers()["fusion"])
    expert = ("norm.weight", "norm.bias", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    expected = {f"model.blocks.{block}.experts.text.{part}" for block in range(blocks) for part in expert}
    expected |= {f"model.text.{part}" for part in ("words.weight", "segments.weight", "norm.weight", "norm.bias")}
    expected |= {"model.token_types.weight", "model.position_bias", "model.norm.weight", "model.norm.bias"}
    expected |= {name for name, _ in task.named_parameters() if name.startswith("objectives.")}
    assert trained == expected


@pytest.mark.parametrize("freeze", [[], PUBLISHED])
def test_frozen_weights_have_no_state_and_stay_bit_equal(freeze: list[str]) -> None:
    task = make("text", freeze=freeze)
    before = {name: parameter.detach().clone() for name, parameter in task.named_parameters()}
    optimizer, schedule = make_optimizer(task, OptimConfig(lr=1e-2, warmup=0.0), 5)
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(task).backward()
        optimizer.step()
        schedule.step()
    changed = {name for name, parameter in task.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name, parameter in task.named_parameters() if parameter.requires_grad}
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in task.parameters() if parameter.requires_grad}
    window = 2 * 6 - 1
    table, old = task.model.get_parameter("position_bias"), before["model.position_bias"]
    assert torch.equal(table[: window**2 + 3], old[: window**2 + 3])  # an image's positions: no gradient, no decay


def test_images_are_encoded_after_the_second_stage_as_before_but_for_the_last_norm() -> None:
    task, batch = make("text", freeze=PUBLISHED).eval(), image_batch()
    model = task.model
    assert isinstance(model, MoME)

    def encoded() -> torch.Tensor:
        with torch.no_grad():
            return model.encode_single(model.encode_image(batch.pixel_values), "image")

    before = encoded()
    optimizer, _ = make_optimizer(task, OptimConfig(lr=1e-2, warmup=0.0, weight_decay=0.0), 5)
    loss_of(task).backward()
    optimizer.step()
    assert torch.equal(encoded(), before)


def test_a_name_that_freezes_nothing_and_one_that_freezes_all_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.freeze: there is no 'blocks.attn' to freeze; such parts are blocks\."):
        make("text", freeze=["blocks.attn"])
    with pytest.raises(UserError, match="leaves nothing"):
        make("text", freeze=["blocks", "text", "token_types", "norm", "position_bias"])
    with pytest.raises(UserError, match="has no other modality"):
        PretrainTextsTask("vlmo-tiny", blind="image")


def test_the_next_stages_start_from_both(tmp_path: Path) -> None:
    first, second, third = tmp_path / "1.ckpt", tmp_path / "2.ckpt", tmp_path / "3.ckpt"

    def save(task: UnimodalTask, file: Path) -> None:
        content = run_checkpoint(task)
        task.on_save_checkpoint(content)
        torch.save(content, file)

    images = make("image")
    save(images, first)
    texts = PretrainTextsTask("vlmo-tiny", freeze=PUBLISHED, init=str(first))
    assert "new: mlm_score" in str(texts.load_report) or "mlm_score" in texts.new_heads
    for name, parameter in images.model.named_parameters():
        assert torch.equal(parameter, texts.model.get_parameter(name)), name
    save(texts, second)
    pairs = PretrainTask("vlmo-tiny", {"mlm": 1.0, "itm": 1.0}, tied=False, init=str(second))
    mlm = pairs.objectives["mlm"]
    assert isinstance(mlm, MaskedLanguageModelling)
    for name, parameter in texts.objective.head.named_parameters():
        assert torch.equal(parameter, mlm.get_parameter(name)), name
    assert PretrainTextsTask.from_pretrained(second).options == texts.options
    again = PretrainImagesTask.from_pretrained(first)
    assert torch.equal(again.objective.head.weight, images.get_parameter("objectives.image_codes.head.weight"))
    save(again, third)


def test_scores_of_a_split_are_sums_and_the_majoritys_share() -> None:
    task, logged = make("image").eval(), {}
    assert isinstance(task, PretrainImagesTask)
    task.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    batches = [image_batch(seed=seed) for seed in range(2)]
    for batch in batches:
        task.validation_step(batch)
    task.on_validation_epoch_end()
    codes = torch.cat([batch.patch_codes[batch.hidden_patches] for batch in batches])
    share = codes.bincount().max() / len(codes)
    assert logged["val/image_codes_majority"] == pytest.approx(float(share))
    assert 0 <= logged["val/image_codes_object_accuracy"] <= 1
    task.on_validation_epoch_end()  # reset: nothing to judge, nothing is logged
    assert logged["val/image_codes_majority"] == pytest.approx(float(share))


def test_data_that_do_not_fit_are_named() -> None:
    images, texts = make("image"), make("text")
    (told,) = images.disagreements(DataFacts(image_size=48, patch_size=8, codes=9))
    assert told == f"data.codebook has 9 codes, but model.codes is {CODES}"
    (told,) = texts.disagreements(DataFacts(vocabulary=999, padding=0, text_length=32))
    assert told.startswith("data.tokenizer has 999 tokens")


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["image", "text"])
def test_eight_samples_are_learned_by_heart(modality: str) -> None:
    L.seed_everything(0)
    task = make(modality)
    optimizer, _ = make_optimizer(task, OptimConfig(lr=3e-3, warmup=0.0), 150)
    first = loss_of(task).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss = loss_of(task)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3 * first
