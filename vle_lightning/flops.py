"""How many floating point operations training takes, counted from the model, by part.

Counted are the operations of matrix products and convolutions, two for a multiplication with its addition, forward and
backward. What activation checkpointing computes again is not counted: these are the model FLOPs of PaLM (arXiv
2204.02311, appendix B), from which model FLOPs utilisation follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle

from vle_lightning.models.dual_stream import Blind, DualStream, DualStreamConfig
from vle_lightning.models.pairs import pool_pairs
from vle_lightning.streams import Stream
from vle_lightning.tasks.base import VisionLanguageTask

PARTS = ("text", "image", "fusion", "heads")
MULTIPLY_ADD = 2  # operations
Way = Literal["text", "image", "fusion", "pairs"]  # pairs: the fusion of `pool_pairs`, which ends at the poolers


class EncoderCall(NamedTuple):
    """A call of a part of the encoder, as far as its cost goes."""

    way: Way
    sizes: tuple[int, ...]  # text: B, T; image: B, height, width; fusion and pairs: B, T, N


class HeadCall(NamedTuple):
    """A call of a linear layer outside of the encoder."""

    name: str  # of the module in the task
    rows: int
    reaches_back: bool  # its input needs a gradient, too


class Recording(NamedTuple):
    """What one micro-batch called."""

    encoder: tuple[EncoderCall, ...]
    heads: tuple[HeadCall, ...]


class FlopRecorder:
    """Watches which sizes a micro-batch runs the parts of a task at.

    Hooks lie on towers, fusion and poolers, and on the linear layers of the heads; none on a layer that may be
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
        self._handles: list[RemovableHandle] = []
        self._encoder: list[EncoderCall] = []
        self._heads: list[HeadCall] = []
        self._fusing = False  # the fusion ran, and its poolers have not

    def start(self) -> None:
        """Watch from now on, and forget what was seen before."""
        self.stop()
        self._encoder, self._heads, self._fusing = [], [], False
        model = self._task.model
        watched: dict[nn.Module, Callable[..., None]] = {
            model.text: self._see_text,
            model.image: self._see_image,
            model.fusion: self._see_fusion,
            model.text_pooler: self._see_pooler,
        }
        for module, see in watched.items():
            self._handles.append(module.register_forward_pre_hook(see))
        for name in linear_sizes(self._task):
            see_head = partial(self._see_head, name)
            self._handles.append(self._task.get_submodule(name).register_forward_pre_hook(see_head))

    def stop(self) -> Recording:
        """Stop watching; return what was seen since the start."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        return Recording(tuple(self._encoder), tuple(self._heads))

    def flops(self) -> dict[str, float]:
        """Stop watching; return the training FLOPs of what was seen, by part (see `flops_by_part`)."""
        model = self._task.model
        return flops_by_part(self.stop(), model.config, model.blind, linear_sizes(self._task))

    def _see_text(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows, tokens = inputs[0].shape
        self._encoder.append(EncoderCall("text", (rows, tokens)))

    def _see_image(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows, _, height, width = inputs[0].shape
        self._encoder.append(EncoderCall("image", (rows, height, width)))

    def _see_fusion(self, module: nn.Module, inputs: tuple[Stream, Stream]) -> None:
        text, image = inputs
        self._encoder.append(EncoderCall("fusion", (*text.mask.shape, image.mask.shape[1])))
        self._fusing = True

    def _see_pooler(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        """Tell the poolers of a whole fusion from those of `pool_pairs`, which calls the layers by itself."""
        if not self._fusing:
            pairs = len(inputs[0])
            self._encoder.append(EncoderCall("pairs", (pairs, self._tokens(), self._states())))
        self._fusing = False

    def _see_head(self, name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
        states = inputs[0]
        self._heads.append(HeadCall(name, states.shape[:-1].numel(), states.requires_grad))

    def _tokens(self) -> int:
        """Return T of the texts encoded last: those that the pairs are made of; 1 where they are withheld."""
        return next((call.sizes[1] for call in reversed(self._encoder) if call.way == "text"), 1)

    def _states(self) -> int:
        """Return 1 + P of the images encoded last; 1 where they are withheld."""
        patch = self._task.model.config.image.patch_size
        sizes = next((call.sizes for call in reversed(self._encoder) if call.way == "image"), (0, 0, 0))
        return 1 + sizes[1] // patch * (sizes[2] // patch)


def linear_sizes(task: VisionLanguageTask) -> dict[str, tuple[int, int]]:
    """Return inputs and outputs of each linear layer of the heads, by name; a sharded weight does not hide them."""
    return {
        name: (module.in_features, module.out_features)
        for name, module in task.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith("model.")
    }


def flops_by_part(
    recording: Recording, config: DualStreamConfig, blind: Blind, heads: Mapping[str, tuple[int, int]]
) -> dict[str, float]:
    """Count the training FLOPs, forward and backward, of what was recorded.

    The encoder is run on the meta device, where nothing is computed, once for each distinct size. Projections count
    with their tower, poolers with the fusion. Of the heads their linear layers are counted; pooling patches and
    comparing contrastive vectors (below a thousandth of a step) are not. A withheld tower does not run. Whatever ran is
    taken to reach the loss: MPC's pass leaves the text half of the last fusion layer and the poolers alone, and they
    are counted all the same.

    Args:
        recording: the sizes.
        config: of the encoder that they are counted for.
        blind: what is withheld from it.
        heads: inputs and outputs of its linear layers by name (`linear_sizes`).

    Returns:
        FLOPs of text, image, fusion and heads.
    """
    flops = dict.fromkeys(PARTS, 0.0)
    for call, count in Counter(recording.encoder).items():
        part = "fusion" if call.way == "pairs" else call.way
        flops[part] += count * encoder_flops(config, blind, call)
    for head in recording.heads:
        inputs, outputs = heads[head.name]
        passes = 3 if head.reaches_back else 2  # forward, gradient of the weight, gradient of the input
        flops["heads"] += passes * MULTIPLY_ADD * head.rows * inputs * outputs
    return flops


@lru_cache(maxsize=256)
def encoder_flops(config: DualStreamConfig, blind: Blind, call: EncoderCall) -> int:
    """Count forward and backward of one call of a part of the encoder; it takes about a second for VLE-large.

    Attention is counted as the plain products that it is: a fused kernel that computes its weights again in backward
    does no more useful work.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):  # nothing here may move the run's random numbers
        model = DualStream(config, blind)
        counter = FlopCounterMode(display=False)
        plain = torch.autograd.set_detect_anomaly(False)  # it would look for NaN among tensors without values
        with plain, counter, sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            run_part(model, call).sum().backward()
    flops: int = counter.get_total_flops()
    return flops


def run_part(model: DualStream, call: EncoderCall) -> Tensor:
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
    rows, tokens, states = call.sizes
    text, image = (
        Stream(torch.zeros(rows, n, model.width, requires_grad=True), torch.ones(rows, n, dtype=torch.bool))
        for n in (tokens, states)
    )
    if call.way == "pairs":
        return pool_pairs(model, text, image)
    fused = model.fuse(text, image)
    return torch.cat([part.flatten() for part in fused])
