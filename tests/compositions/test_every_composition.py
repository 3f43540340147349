"""Every composition: it builds, learns with all its weights, and neither padding nor shortcuts change what it says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.compositions.recipes import ALL, FEW, Composition
from tests.factories import ANSWERS, CLASSES, pretrain_batch, vcr_batch, vqa_batch
from vle_lightning.encoders.base import PatchMask
from vle_lightning.flops import encoder_flops, run_part
from vle_lightning.hub.architecture import read_architecture, to_plain
from vle_lightning.models.backbone import Backbone, EncoderCall
from vle_lightning.performance import checkpoint_activations, compile_layers
from vle_lightning.plan.activations import Numerics, saved_bytes
from vle_lightning.streams import Stream
from vle_lightning.tasks.base import Stage, VisionLanguageTask
from vle_lightning.tasks.looks import look
from vle_lightning.tasks.pictures import Names
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.vcr import VCRTask
from vle_lightning.tasks.vqa import VQATask

PATCHES = 36
ON_CPU = Numerics(bf16=False, fused=False, device="cpu")
FEW_QUICK = [pytest.param(one, id=str(one), marks=() if one in FEW else pytest.mark.slow) for one in ALL]
few = pytest.mark.parametrize("composition", FEW_QUICK)
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on the CPU")


@pytest.fixture(scope="module", params=FEW_QUICK)
def task(request: pytest.FixtureRequest) -> PretrainTask:
    """Pre-training, which calls a backbone in all ways but one."""
    composition: Composition = request.param
    torch.manual_seed(0)
    return PretrainTask(composition.plain(), classes=CLASSES).eval()


def test_every_parameter_gets_a_gradient(task: PretrainTask) -> None:
    task.step(pretrain_batch(rows=2), Stage.VAL).backward()
    still = [name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())


@torch.no_grad()
def test_padding_changes_nothing(task: PretrainTask) -> None:
    model, batch = task.model, pretrain_batch(rows=2)
    ids, real = batch.input_ids, batch.attention_mask
    text, image = model.encode_text(ids, real), model.encode_image(batch.pixel_values)
    longer = model.encode_text(F.pad(ids, (0, 5)), F.pad(real, (0, 5)))
    wider = image.append(Stream(torch.randn_like(image.states), torch.zeros_like(image.mask)))
    short, long = model.fuse(text, image), model.fuse(longer, wider)
    torch.testing.assert_close(long.pooled, short.pooled)
    torch.testing.assert_close(long.image[:, : image.mask.shape[1]], short.image)
    torch.testing.assert_close(long.text[:, : ids.shape[1]][real], short.text[real])
    restored = model.restore(short, text, image, ids)
    padded = model.restore(long, longer, wider, F.pad(ids, (0, 5)))
    torch.testing.assert_close(padded[:, : ids.shape[1]][real], restored[real])


@torch.no_grad()
def test_pooling_alone_is_the_pooled_vector_of_fusion(task: PretrainTask) -> None:
    model, batch = task.model, pretrain_batch(rows=2)
    text, image = model.encode_text(batch.input_ids, batch.attention_mask), model.encode_image(batch.pixel_values)
    assert image.states.shape == (2, model.layout.prefix + PATCHES, model.width)
    assert model.fuse(text, image).pooled.shape == (2, model.pooled_width)
    torch.testing.assert_close(model.pool_pairs(text, image), model.fuse(text, image).pooled)


@torch.no_grad()
def test_hidden_patches_leave_no_trace_of_their_pixels(task: PretrainTask) -> None:
    model, (one, other) = task.model, torch.randn(2, 2, 3, 48, 48)
    hidden = torch.zeros(2, 6, 6, dtype=torch.bool)
    hidden[:, :3, 2:] = True
    other[..., 24:, :], other[..., :16] = one[..., 24:, :], one[..., :16]
    shown = model.encode_image(one).states
    for vector in (torch.randn(model.hidden_width), None):
        mask = PatchMask(hidden.flatten(1), vector)
        first, second = (model.encode_image(pixels, mask).states for pixels in (one, other))
        torch.testing.assert_close(first, second)
        assert not torch.allclose(first, shown)
    assert not torch.allclose(model.encode_image(other).states, shown)


@few
def test_vcr_reads_tagged_objects_and_all_weights_learn(composition: Composition) -> None:
    batch = vcr_batch(rows=2)
    task = VCRTask(composition.plain()).eval()
    task.step(batch, Stage.VAL).backward()
    assert all(p.grad is not None for name, p in task.named_parameters() if not name.startswith("model.decoder.words."))
    still = {name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()}
    # choices compete, so that the bias of their score cancels; a decoder that restores no text reads its start alone
    alone = ("model.decoder.words.", *(f"model.decoder.layers.0.attention.{name}." for name in ("query", "key")))
    assert not [name for name in still if not name.startswith((*alone, "head.3.bias"))]
    with torch.no_grad():
        tagged = task(batch)
        without = task(vcr_batch(rows=2, regions=1))
    assert tagged.shape == (2, 4)
    assert not torch.allclose(tagged, without)


@few
@torch.no_grad()
def test_where_it_looks_is_a_share_for_each_patch_of_each_pair(composition: Composition) -> None:
    for task, batch, pairs in (
        (VQATask(composition.plain(), answers=ANSWERS).eval(), vqa_batch(rows=2), 1),
        (VCRTask(composition.plain()).eval(), vcr_batch(rows=2), 4),
    ):
        glance = look(task.model, task, batch)
        assert glance.heat is not None
        torch.testing.assert_close(glance.logits, task(batch))
        assert glance.heat.shape == (2, pairs, 6, 6)
        whole = glance.heat.sum((-1, -2))
        assert ((whole > 0) & (whole < 1 + 1e-6)).all()
        reads_patches_alone = composition.fusion == "co" and composition.decoder == "encoder" and pairs == 1
        if reads_patches_alone and not task.model.layout.prefix:
            torch.testing.assert_close(whole, torch.ones_like(whole))


@few
def test_pretraining_draws_heat_maps(composition: Composition) -> None:
    task = PretrainTask(composition.plain(), classes=CLASSES).eval()
    (picture,) = task.pictures(pretrain_batch(rows=1), Names(str, ()))
    titles = [axes.get_title() for axes in picture.figure.axes]
    assert any(title.startswith("PBC") for title in titles)


@few
def test_a_saved_task_comes_back_as_it_was(composition: Composition, tmp_path: Path) -> None:
    task = VQATask(composition.plain(), answers=ANSWERS).eval()
    task.save_pretrained(tmp_path)
    again = VQATask.from_pretrained(tmp_path).eval()
    assert to_plain(again.model.config) == to_plain(task.model.config)
    assert read_architecture(to_plain(task.model.config)) == task.model.config
    with torch.no_grad():
        torch.testing.assert_close(again(vqa_batch()), task(vqa_batch()), rtol=0, atol=0)


def losses(composition: Composition, patch: Callable[[PretrainTask], None]) -> list[Tensor]:
    """Train two steps, with dropout where the encoders have it; return the losses, and a weight of each encoder."""
    torch.manual_seed(0)
    task = PretrainTask(composition.plain(), classes=CLASSES).train()
    patch(task)
    optimizer, found = torch.optim.SGD(task.parameters(), lr=0.1), []
    for seed in range(2):
        torch.manual_seed(seed)
        loss = task.step(pretrain_batch(rows=2, seed=seed), Stage.VAL)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.detach())
    return [*found, *(next(e.parameters()).detach() for e in task.model.encoders().values())]


@few
def test_recomputed_activations_keep_the_losses(composition: Composition) -> None:
    parts = ("text", "image", "fusion")
    recomputed = losses(composition, lambda task: checkpoint_activations(task.model, parts))
    torch.testing.assert_close(recomputed, losses(composition, lambda task: None))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("composition", FEW, ids=str)
def test_compiled_layers_keep_the_losses(composition: Composition) -> None:
    torch._dynamo.reset()
    compiled = losses(composition, lambda task: compile_layers(task.model))
    torch.testing.assert_close(compiled, losses(composition, lambda task: None), rtol=1e-4, atol=1e-5)


def calls(task: VisionLanguageTask) -> list[EncoderCall]:
    """Return a call of each way, as a micro-batch of three makes them."""
    states = task.model.layout.prefix + PATCHES
    ways = [EncoderCall("text", (3, 9)), EncoderCall("image", (3, 48, 48)), EncoderCall("fusion", (3, 9, states))]
    ways.append(EncoderCall("fusion", (3, 9, states, 1, 1, 0, 1, 2, 4, 1, states)))
    return ways if task.model.pooled_width > task.model.width else [*ways, EncoderCall("restore", (3, 9, states, 9))]


def run_padded(model: Backbone, call: EncoderCall) -> Tensor:
    """Run a part on texts of which one is shorter: encoders of transformers drop a mask that hides nothing."""
    if call.way != "text":
        return run_part(model, call)
    real = torch.ones(call.sizes, dtype=torch.bool)
    real[1, -2:] = False
    return model.encode_text(torch.full(call.sizes, 5), real).states


@pytest.mark.slow
@pytest.mark.parametrize(
    ("composition", "encoders_alone"),
    [pytest.param(FEW[1], True, id="encoders"), *(pytest.param(one, False, id=str(one)) for one in ALL)],
)
def test_flops_and_kept_bytes_are_those_of_a_real_run(composition: Composition, encoders_alone: bool) -> None:
    task = PretrainTask(composition.plain(), classes=CLASSES).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in task.model.parameters()}
    for call in calls(task)[: 2 if encoders_alone else None]:
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor, kept: dict[int, Tensor] = kept) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            run_padded(task.model, call)
        real = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights)
        assert saved_bytes(task.model.config, call, ON_CPU) == real, call
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            run_part(task.model, call).sum().backward()
        assert encoder_flops(task.model.config, "none", call) == counter.get_total_flops() > 0, call
