"""Recomputing and compiling layers: what they save, and that losses, gradients and names stay."""

from __future__ import annotations

import copy
import multiprocessing
import shutil
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from tests.factories import CLASSES, PARTS, of_kind, pretrain_batch, statement_batch, vcr_batch, vqa_batch
from tests.tasks.test_image_tasks import label_batch, mask_batch
from vle_lightning.batch import Batch, PretrainBatch, RetrievalBatch
from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.encoders.deberta import DebertaConfig
from vle_lightning.errors import UserError
from vle_lightning.models.backbone import Blind
from vle_lightning.models.dual_stream import DualStreamConfig
from vle_lightning.models.heads import FloatNorm
from vle_lightning.models.presets import PRESETS
from vle_lightning.performance import PRODUCTS, checkpoint_activations, compile_layers
from vle_lightning.tasks.base import Stage, VisionLanguageTask
from vle_lightning.tasks.classification import ClassificationTask
from vle_lightning.tasks.nlvr2 import Task as NLVR2Task
from vle_lightning.tasks.pretrain import PretrainTask
from vle_lightning.tasks.retrieval import RetrievalTask
from vle_lightning.tasks.segmentation import SegmentationTask
from vle_lightning.tasks.snli_ve import Task as SNLIVETask
from vle_lightning.tasks.vcr import VCRTask
from vle_lightning.tasks.vqa import VQATask

HALVED = ("softmax", "layer_norm", "nll_loss", "cross_entropy", "logsumexp")  # operations that are to be in float32
PatchTask = Callable[[PretrainTask], None]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on the CPU")


def deep_config(layers: int = 2, dropout: float = 0.1) -> DualStreamConfig:
    """Return the tiny model with more layers, and with dropout everywhere."""
    tiny = PRESETS["tiny"]
    return replace(
        tiny,
        text=replace(of_kind(DebertaConfig, tiny.text), layers=layers, dropout=dropout),
        image=replace(of_kind(ClipViTConfig, tiny.image), layers=layers, dropout=dropout),
        fusion=replace(tiny.fusion, layers=layers, dropout=dropout),
    )


def make_task(patch: PatchTask | None = None, layers: int = 2, blind: Blind = "none") -> PretrainTask:
    torch.manual_seed(0)
    objectives = None if blind == "none" else {"mlm": 1.0}
    task = PretrainTask(deep_config(layers), objectives, CLASSES, blind=blind).train()
    if patch is not None:
        patch(task)
    return task


def loss_of(task: PretrainTask, batch: PretrainBatch) -> Tensor:
    return torch.stack([output.loss for output in task.judge(batch).values()]).sum()


def train(task: PretrainTask, steps: int, autocast: bool = False) -> tuple[list[float], dict[str, Tensor]]:
    """Take steps on texts of growing length; return the losses and the last gradients."""
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(task, pretrain_batch(tokens=9 + 2 * step, seed=step))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}


def recompute(*parts: str) -> PatchTask:
    return lambda task: checkpoint_activations(task.model, parts)


def differences(patch: PatchTask, steps: int, autocast: bool = False) -> list[str]:
    """Name the losses and gradients that a patched task has otherwise."""
    expected, gradients = train(make_task(), steps, autocast)
    losses, ours = train(make_task(patch), steps, autocast)
    assert ours.keys() == gradients.keys()
    found = [] if losses == pytest.approx(expected, rel=1e-5) else [f"losses {losses}, not {expected}"]
    return found + [n for n, g in gradients.items() if not torch.allclose(ours[n], g, rtol=1e-4, atol=1e-6)]


@pytest.mark.parametrize("parts", [("text",), ("image",), ("fusion",), PARTS, ("cheap",), ("cheap", "image")])
def test_recomputing_keeps_losses_and_gradients_under_dropout(parts: tuple[str, ...]) -> None:
    assert differences(recompute(*parts), steps=2) == []


def test_recomputing_keeps_them_in_bf16() -> None:
    assert differences(recompute(*PARTS), steps=2, autocast=True) == []


def test_recomputing_what_is_cheap_keeps_them_in_bf16_but_where_a_layer_is_called_twice() -> None:
    # its weights are cast for each call, so that their gradients are added up in float32 and not in bf16
    (expected,), gradients = train(make_task(), 1, autocast=True)
    (loss,), ours = train(make_task(recompute("cheap")), 1, autocast=True)
    assert loss == expected
    apart = [name for name, g in gradients.items() if not torch.allclose(ours[name], g, rtol=1e-4, atol=1e-6)]
    assert all(name.startswith("model.fusion.") for name in apart)  # with clean images, and with hidden boxes
    for name in apart:
        if not name.endswith("key.bias"):  # whose gradient is rounding alone
            assert (ours[name] - gradients[name]).norm() < 0.02 * gradients[name].norm(), name


def kept_bytes(task: PretrainTask) -> int:
    """Count the bytes of distinct tensors that a forward pass keeps for backward, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in task.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(task, pretrain_batch())
    count = sum(kept.values())
    del loss
    return count


@pytest.mark.parametrize("part", PARTS)
def test_recomputing_a_part_keeps_less_for_backward(part: str) -> None:
    assert kept_bytes(make_task(recompute(part), layers=4)) < 0.95 * kept_bytes(make_task(layers=4))


def test_what_is_kept_grows_by_the_inputs_of_a_layer_alone() -> None:
    plain = kept_bytes(make_task(layers=6)) - kept_bytes(make_task(layers=3))
    recomputed = kept_bytes(make_task(recompute(*PARTS), layers=6)) - kept_bytes(make_task(recompute(*PARTS), layers=3))
    assert recomputed < plain / 10


class Held(TorchDispatchMode):
    """Remembers what operations put out, without keeping it: what selective recomputation caches goes by no hook."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.seen[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return output

    def count(self) -> int:
        """Return the bytes of the outputs that are still alive."""
        return sum(size for storage, size in self.seen.values() if not storage.expired())


def test_recomputing_what_is_cheap_holds_less_than_nothing_and_more_than_everything() -> None:
    def held(*parts: str) -> int:
        task, batch = make_task(recompute(*parts), layers=4), pretrain_batch()
        with Held() as mode:
            loss = loss_of(task, batch)
        count: int = mode.count()
        del loss
        return count

    nothing, cheap, everything = held(), held("cheap"), held(*PARTS)
    assert everything < cheap < 0.7 * nothing


def test_recomputing_what_is_cheap_multiplies_no_matrix_of_weights_again() -> None:
    def products(*parts: str) -> int:
        task = make_task(recompute(*parts))
        with Products() as mode:
            loss_of(task, pretrain_batch()).backward()
        count: int = mode.count
        return count

    nothing = products()
    assert products("cheap") == nothing
    assert products(*PARTS) > nothing


class Products(TorchDispatchMode):
    """Counts the products of linear layers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        self.count += function in PRODUCTS  # backward has none of these
        return function(*args, **(kwargs or {}))


def test_nothing_is_recomputed_without_gradients_or_in_evaluation() -> None:
    task = make_task(recompute("fusion"))
    calls: list[int] = []
    for layer in task.model.layers()["fusion"]:
        layer.get_submodule("feed_forward").register_forward_pre_hook(lambda *_: calls.append(1))
    loss_of(task, pretrain_batch()).backward()
    # one with clean images, one with hidden boxes; the last layer's text is read for ITM and MLM, its image for PBC and
    # MPC: as many calls as if each of the two went through both halves
    passes = 2 * len(task.model.layers()["fusion"])
    assert len(calls) == 2 * passes
    calls.clear()
    loss_of(task.eval(), pretrain_batch()).backward()
    assert len(calls) == passes
    calls.clear()
    with torch.no_grad():
        loss_of(task.train(), pretrain_batch())
    assert len(calls) == passes


def test_names_stay_and_a_copy_runs_on_its_own_weights() -> None:
    task = make_task(recompute(*PARTS))
    assert list(task.state_dict()) == list(make_task().state_dict())
    copied = copy.deepcopy(task)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.zero_()
    assert train(copied, 1)[0] == pytest.approx(train(make_task(), 1)[0], rel=1e-6)


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(UserError, match="activation_checkpointing: there is no part 'vision'; choose among text, im"):
        checkpoint_activations(make_task().model, ["vision", "text"])


def test_a_blind_part_is_skipped() -> None:
    task = make_task(recompute(*PARTS), blind="image")
    assert not any("forward" in vars(layer) for layer in task.model.layers()["image"])
    loss_of(task, pretrain_batch()).backward()


def test_recomputing_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="call checkpoint_activations first, and once"):
        checkpoint_activations(make_task(recompute("text")).model, ["text"])


@pytest.mark.slow
def test_compiling_comes_second_and_keeps_names() -> None:
    task = make_task(recompute("text"))
    compile_layers(task.model)
    assert list(task.state_dict()) == list(make_task().state_dict())
    with pytest.raises(ValueError, match="call checkpoint_activations first, and once"):
        checkpoint_activations(task.model, ["fusion"])


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("parts", [(), ("cheap",), PARTS])
def test_compiling_keeps_losses_under_dropout_without_a_storm(parts: tuple[str, ...]) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()

    def patch(task: PretrainTask) -> None:
        checkpoint_activations(task.model, parts)
        compile_layers(task.model)

    assert differences(patch, steps=8) == []  # eight lengths
    # text at one length and at all, images at one; the fusion's two streams, whole, from the first state, from some
    # states, and those that vary again for all lengths: after the second step nothing is compiled any more
    assert counters["stats"]["unique_graphs"] == 10
    assert not counters["graph_break"]


@needs_compiler
@pytest.mark.slow
def test_who_watches_compiled_layers_sees_what_they_see() -> None:
    plain, compiled = make_task().eval(), make_task().eval()
    compile_layers(compiled.model)
    found = []
    with torch.no_grad():
        for task in (plain, compiled):
            task.predict_step(pretrain_batch())  # compiles before anybody watches
            with task.model.watch() as seen:
                task.predict_step(pretrain_batch())
            found.append(seen)
    assert len(found[0]) == len(found[1]) == 1
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-6)


class Halved(TorchDispatchMode):
    """Notes which operations that are to be in float32 get something else, and from which file they are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[tuple[str, str]] = set()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        name = function.overloadpacket.__name__
        if any(part in name for part in HALVED) and "backward" not in name:
            self.count += 1
            if args[0].dtype != torch.float32:
                files = [frame.filename for frame in traceback.extract_stack() if "vle_lightning" in frame.filename]
                self.seen.add((name, files[-1]))
        return function(*args, **(kwargs or {}))


def retrieval_batch(rows: int = 4) -> RetrievalBatch:
    pairs = pretrain_batch(rows)
    return RetrievalBatch(
        sample_ids=pairs.sample_ids,
        valid=pairs.valid,
        step=0,
        number=0,
        pixel_values=pairs.pixel_values,
        input_ids=pairs.input_ids,
        attention_mask=pairs.attention_mask,
        keys=pairs.keys,
        owners=torch.arange(rows),
        image_ids=pairs.sample_ids,
        text_ids=pairs.sample_ids,
        texts=pairs.texts,
        shifts=torch.tensor([1, 2]),
    )


STEPS: dict[str, tuple[Callable[[], VisionLanguageTask], Callable[[], Batch]]] = {
    "pretrain": (lambda: PretrainTask(deep_config(), classes=CLASSES), pretrain_batch),
    "vqa": (lambda: VQATask(deep_config(), 7), vqa_batch),
    "vcr": (lambda: VCRTask(deep_config()), vcr_batch),
    "snli_ve": (lambda: SNLIVETask(deep_config()), lambda: statement_batch(classes=3)),
    "nlvr2": (lambda: NLVR2Task(deep_config()), lambda: statement_batch(images=2)),
    "retrieval": (lambda: RetrievalTask(deep_config(), contrastive=0.5), retrieval_batch),
    "classification": (lambda: ClassificationTask(deep_config(), 7), label_batch),
    "segmentation": (lambda: SegmentationTask(deep_config(), 3, 8), mask_batch),
}


@pytest.mark.filterwarnings("ignore:.*self.trainer.*")
@pytest.mark.parametrize("name", STEPS)
def test_losses_softmaxes_and_norms_of_a_bf16_step_are_in_float32(name: str) -> None:
    make, draw = STEPS[name]
    task, batch = make().train(), draw()
    with Halved() as halved, torch.autocast("cpu", torch.bfloat16):
        loss = task.step(batch, Stage.TRAIN)
    assert loss.dtype == torch.float32
    assert halved.count > 10
    assert halved.seen == set()


def halved_on_cuda() -> tuple[set[tuple[str, str]], int, set[torch.dtype]]:
    """Run the encoder on tensors that have CUDA's place and no numbers: they take the way that real ones take."""
    batch = pretrain_batch()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        with torch.device("cuda"):
            task = PretrainTask(deep_config(), classes=CLASSES).train()
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        with Halved() as halved:
            ids, mask, pixels = (
                torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                for tensor in (batch.input_ids, batch.attention_mask, batch.pixel_values)
            )
            text, image = task.model.encode_text(ids, mask), task.model.encode_image(pixels)
            fused = task.model.fuse(text, image)
            heads = [task.objectives["mpc"].get_submodule("region_head"), task.objectives["pbc"].get_submodule("head")]
            logits = [head(fused.image) for head in heads]
    return halved.seen, halved.count, {text.states.dtype, image.states.dtype, *(scores.dtype for scores in logits)}


@pytest.mark.slow
def test_on_cuda_autocast_leaves_no_softmax_or_norm_in_bf16() -> None:
    """In a process of its own, for it cannot go backward any more once it has met CUDA without a GPU."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        halved, count, dtypes = pool.apply(halved_on_cuda)
    assert dtypes == {torch.bfloat16}  # so autocast was on
    assert count > 20
    assert halved == set()


def test_a_norm_in_bf16_is_that_of_float32_rounded_once() -> None:
    norm, states = FloatNorm(16), torch.randn(5, 16).bfloat16()
    expected = torch.nn.functional.layer_norm(states.double(), (16,)).to(torch.bfloat16)
    torch.testing.assert_close(norm.bfloat16()(states), expected, rtol=2**-8, atol=1e-6)
    assert norm(states).dtype == torch.bfloat16
