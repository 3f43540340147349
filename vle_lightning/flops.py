"""How many floating point operations training takes, counted from the model, by part.

Counted are the operations of matrix products and convolutions, two for a multiplication with its addition, forward and
backward. What activation checkpointing computes again is not counted: these are the model FLOPs of PaLM (arXiv
2204.02311, appendix B), from which model FLOPs utilisation follows.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from vle_lightning.fakes import make_fake
from vle_lightning.hub.architecture import read_architecture, to_plain
from vle_lightning.models.backbone import Backbone, BackboneConfig, Blind, EncoderCall, Modality, Way
from vle_lightning.streams import ALL, Fused, Part, Reading, Stream
from vle_lightning.tasks.base import VisionLanguageTask

PARTS = ("text", "image", "fusion", "heads")
ALONE: Mapping[Way, Modality] = {"text_alone": "text", "image_alone": "image"}
SINGLE: Mapping[Way, Modality] = {"text_single": "text", "image_single": "image"}
MULTIPLY_ADD = 2  # operations


class HeadCall(NamedTuple):
    """A call of a linear layer or a convolution outside of the encoder."""

    name: str  # of the module in the task
    rows: int  # how many vectors it multiplies: of a convolution the places of its output, of a transposed its input's
    reaches_back: bool  # its input needs a gradient, too


class HeadSizes(NamedTuple):
    """What a linear layer or a convolution does for one row."""

    inputs: int  # that are multiplied
    outputs: int
    channels: int  # of the inputs: neighbouring rows share what the window of a convolution sees
    convolves: bool


class Recording(NamedTuple):
    """What one micro-batch called."""

    encoder: tuple[EncoderCall, ...]
    heads: tuple[HeadCall, ...]


class FlopRecorder:
    """Watches which sizes a micro-batch runs the parts of a task at.

    The backbone tells of its calls; hooks lie on the linear layers of the heads, and none on a layer that may be
    sharded, recomputed or compiled by itself. So wrapping and precision change nothing. It costs some Python a call,
    and none once it has stopped.

    Example:
        >>> recorder = FlopRecorder(task)
        >>> recorder.start()  # before a training micro-batch
        >>> task.training_step(batch)
        >>> sum(recorder.flops().values())  # of its forward and backward
    """

    def __init__(self, task: VisionLanguageTask) -> None:
        """Take the task itself, not what a strategy wraps around it."""
        self._task = task
        self._watch = ExitStack()
        self._handles: list[RemovableHandle] = []
        self._encoder: list[EncoderCall] = []
        self._heads: list[HeadCall] = []

    def start(self) -> None:
        """Watch from now on, and forget what was seen before."""
        self.stop()
        self._encoder, self._heads = self._watch.enter_context(self._task.model.calls()), []
        for name in linear_sizes(self._task):
            see_head = partial(self._see_head, name)
            self._handles.append(self._task.get_submodule(name).register_forward_hook(see_head))

    def stop(self) -> Recording:
        """Stop watching; return what was seen since the start."""
        self._watch.close()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        return Recording(tuple(self._encoder), tuple(self._heads))

    def flops(self) -> dict[str, float]:
        """Stop watching; return the training FLOPs of what was seen, by part (see `flops_by_part`)."""
        model = self._task.model
        return flops_by_part(self.stop(), model.config, model.blind, linear_sizes(self._task))

    def _see_head(self, name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        states = inputs[0]
        if isinstance(module, nn.Linear):
            rows = states.shape[:-1].numel()
        else:
            places = states if isinstance(module, nn.ConvTranspose2d) else output
            rows = len(places) * places.shape[-2:].numel()
        self._heads.append(HeadCall(name, rows, states.requires_grad))


def count_flops(task: VisionLanguageTask, forward: Callable[[], object]) -> float:
    """Run a forward of a task, and count the training FLOPs of it and its backward."""
    recorder = FlopRecorder(task)
    recorder.start()
    forward()
    return sum(recorder.flops().values())


def linear_sizes(task: VisionLanguageTask) -> dict[str, HeadSizes]:
    """Return inputs and outputs of each linear layer of the heads, by name; a sharded weight does not hide them.

    A convolution is a linear layer on what its window sees, a transposed one on what it spreads over its window.
    """
    found: dict[str, HeadSizes] = {}
    for name, module in task.named_modules():
        if name.startswith("model."):
            continue
        if isinstance(module, nn.Linear):
            found[name] = HeadSizes(module.in_features, module.out_features, module.in_features, False)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            window = math.prod(module.kernel_size) // module.groups
            wide = isinstance(module, nn.ConvTranspose2d)
            sizes = (1, window) if wide else (window, 1)
            inputs, outputs = module.in_channels * sizes[0], module.out_channels * sizes[1]
            found[name] = HeadSizes(inputs, outputs, module.in_channels, True)
    return found


def flops_by_part(
    recording: Recording, config: BackboneConfig, blind: Blind, heads: Mapping[str, HeadSizes]
) -> dict[str, float]:
    """Count the training FLOPs, forward and backward, of what was recorded.

    The encoder is run on fake tensors, where nothing is computed, once for each distinct size. Projections count
    with their tower, poolers with the fusion. Of the heads linear layers and convolutions are counted; pooling patches
    and comparing contrastive vectors (below a thousandth of a step) are not. The encoder of a masked modality does not
    run. Whatever ran is taken to reach the loss: MPC's pass leaves the text half of the last fusion layer and the
    poolers alone, and they are counted all the same.

    Args:
        recording: the sizes.
        config: of the encoder that they are counted for.
        blind: the masked modality.
        heads: sizes of its linear layers by name (`linear_sizes`).

    Returns:
        FLOPs of text, image, fusion and heads.
    """
    flops = dict.fromkeys(PARTS, 0.0)
    for call, count in Counter(recording.encoder).items():
        flops[config.part_of_call(call.way)] += count * encoder_flops(config, blind, call)
    for head in recording.heads:
        inputs, outputs, *_ = heads[head.name]
        passes = 3 if head.reaches_back else 2  # forward, gradient of the weight, gradient of the input
        flops["heads"] += passes * MULTIPLY_ADD * head.rows * inputs * outputs
    return flops


def encoder_flops(config: BackboneConfig, blind: Blind, call: EncoderCall) -> int:
    """Count forward and backward of one call of a part of the encoder; it takes about a second for VLE-large.

    Attention is counted as the plain products that it is: a fused kernel that computes its weights again in backward
    does no more useful work.
    """
    return _counted(json.dumps(to_plain(config)), blind, call)


@lru_cache(maxsize=256)
def _counted(architecture: str, blind: Blind, call: EncoderCall) -> int:
    counter = FlopCounterMode(display=False)
    plain = torch.autograd.set_detect_anomaly(False)  # it would look for NaN among tensors without values
    backbone = fake_backbone(read_architecture(json.loads(architecture)), "cpu", torch.float32, blind)
    with backbone as model, plain, counter, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        run_part(model, call).sum().backward()
    flops: int = counter.get_total_flops()
    return flops


@contextmanager
def fake_backbone(config: BackboneConfig, device: str, dtype: torch.dtype, blind: Blind = "none") -> Iterator[Backbone]:
    """Build a backbone of fake tensors, which have shapes, types and storages but no memory, and work among them.

    It is built on meta: libraries compute with numbers as they build, and fake tensors have none. It runs on fake ones:
    transformers looks into masks, though not into fake ones. The run's random numbers stay where they are.

    Args:
        config: of the backbone.
        device: where the tensors seem to be.
        dtype: of the weights.
        blind: the masked modality.
    """
    with torch.random.fork_rng(devices=[]):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device("meta"):
                model = config.build(blind)
        finally:
            torch.set_default_dtype(before)
        with FakeTensorMode(), torch.device(device):
            make_fake(model)
            yield model


def _parts(sizes: tuple[int, ...], tokens: int, states: int) -> list[Part] | None:
    """Return the parts of a fusion that these sizes tell of; see `EncoderCall`."""
    found = []
    for rows, read, start, stop in zip(*[iter(sizes)] * 4, strict=True):
        found.append(Part(rows, Reading(_part(0, read, tokens), _part(start, stop, states))))
    return found or None


def _part(start: int, stop: int, length: int) -> slice:
    return ALL if (start, stop) == (0, length) else slice(start, stop)


def run_part(model: Backbone, call: EncoderCall) -> Tensor:
    """Run the part of a model that a call names, on inputs of its sizes on the default device.

    Returns:
        One tensor that all outputs went into.
    """
    if call.way == "text":
        ids = torch.zeros(call.sizes, dtype=torch.long)
        return model.encode_text(ids, torch.ones(call.sizes, dtype=torch.bool)).states
    if call.way == "image":
        rows, height, width = call.sizes
        return model.encode_image(torch.zeros(rows, 3, height, width)).states
    if call.way == "image_layers":
        rows, height, width, depth = call.sizes
        return model.image_layers(torch.zeros(rows, 3, height, width), [depth])[0].states
    rows, *lengths = call.sizes
    streams = [
        Stream(torch.zeros(rows, n, model.width, requires_grad=True), torch.ones(rows, n, dtype=torch.bool))
        for n in (lengths[:1] if call.way in ALONE else lengths[:2])
    ]
    if call.way in ALONE:
        return torch.cat([part.states for part in model.encode_alone(streams[0], ALONE[call.way], lengths[1] == 1)])
    if call.way in SINGLE:
        return model.encode_unimodal(streams[0], SINGLE[call.way])
    text, image = streams
    if call.way == "restore":
        ids = torch.zeros(rows, lengths[2], dtype=torch.long)
        return model.restore(Fused(*(stream.states for stream in (text, image, image))), text, image, ids)
    fused = model.fuse(text, image, parts=_parts(call.sizes[3:], *call.sizes[1:3]))
    return torch.cat([part.flatten() for part in fused])
