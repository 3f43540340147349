"""Bytes that forward keeps for backward, counted on tensors that hold nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from vle_lightning.flops import EncoderCall, Recording, run_part
from vle_lightning.models.dual_stream import DualStream, DualStreamConfig, Part

FLOAT = 4  # bytes
SMALL, LARGE = 2, 4  # rows that are counted; what is kept is linear in the rows


class Numerics(NamedTuple):
    """How a forward is computed, as far as it changes what is kept."""

    bf16: bool = True  # by autocast
    fused: bool = True  # attention keeps no weights, as on GPUs
    device: str = "cuda"


class Line(NamedTuple):
    """Bytes as a function of the rows of a call."""

    fixed: float
    per_row: float

    def at(self, rows: float) -> float:
        """Return the bytes for so many rows."""
        return self.fixed + self.per_row * rows


class Kept(NamedTuple):
    """What one part keeps for backward, in bytes for its rows of a micro-batch."""

    around: float  # embeddings, projections, poolers
    layer: float  # each layer; under the fusion the pair of both streams' layers
    inputs: float  # of each layer, all that is kept where it is recomputed
    largest: float  # one layer of one stream, which is recomputed at a time
    layers: int

    @property
    def whole(self) -> float:
        """Without recomputation."""
        return self.around + self.layers * self.layer

    @property
    def recomputed(self) -> float:
        """With it, before the first layer is computed again."""
        return self.around + self.layers * self.inputs


def kept_by_part(config: DualStreamConfig, recording: Recording, scale: float, numerics: Numerics) -> dict[Part, Kept]:
    """Count what the encoder keeps for backward.

    Each part runs with one layer and with two, for two numbers of rows: the rest is linear, so that depth and batch
    cost nothing.

    Args:
        config: of the encoder.
        recording: what a micro-batch calls; each part at most once.
        scale: rows of the micro-batch that is asked about, over those of the recorded one.
        numerics: how it is computed.
    """
    parts: dict[Part, Kept] = {}
    for call in recording.encoder:
        part: Part = "fusion" if call.way == "pairs" else call.way
        count = (config.text if part == "text" else config.image if part == "image" else config.fusion).layers
        one, two = (_line(_with_layers(config, layers), call, numerics) for layers in (1, 2))
        rows, states = call.sizes[0] * scale, _states(call, config)
        layer = two.at(rows) - one.at(rows)
        inputs = FLOAT * rows * sum(states) * _width(part, config)
        parts[part] = Kept(one.at(rows) - layer, layer, inputs, layer * max(states) / sum(states), count)
    return parts


def head_bytes(recording: Recording, heads: Mapping[str, tuple[int, int]], scale: float, numerics: Numerics) -> float:
    """Count what the heads hold while the losses are computed.

    Each linear layer keeps its input; an output stands three times in float32: as the loss keeps it (log softmax), as
    its gradient, and as a copy on the way. That is MLM's logits over the vocabulary, above all.
    """
    size = FLOAT // 2 if numerics.bf16 else FLOAT
    return sum(
        scale * head.rows * (size * heads[head.name][0] + 3 * FLOAT * heads[head.name][1]) for head in recording.heads
    )


def peak_bytes(kept: Mapping[Part, Kept], recomputed: Sequence[str], heads: float) -> float:
    """Find the moment at which a micro-batch holds the most, and count it.

    Backward frees faster than it takes, so that without recomputation this is the end of forward, with the logits. A
    layer that is computed again comes on top of what its part and those before it have kept: the fusion's while
    all is there, the towers' when the fusion is gone.

    Args:
        kept: by part.
        recomputed: parts under activation checkpointing.
        heads: bytes of the heads, which are gone once backward is past them.
    """
    held = {name: part.recomputed if name in recomputed else part.whole for name, part in kept.items()}
    again = {name: part.largest if name in recomputed else 0.0 for name, part in kept.items()}
    towers = sum(size for name, size in held.items() if name != "fusion")
    in_towers = max((size for name, size in again.items() if name != "fusion"), default=0.0)
    whole = sum(held.values())
    return max(whole + heads, whole + again.get("fusion", 0.0), towers + in_towers)


@lru_cache(maxsize=256)
def _line(config: DualStreamConfig, call: EncoderCall, numerics: Numerics) -> Line:
    few, many = (saved_bytes(config, call._replace(sizes=(rows, *call.sizes[1:])), numerics) for rows in (SMALL, LARGE))
    per_row = (many - few) / (LARGE - SMALL)
    return Line(few - SMALL * per_row, per_row)


def saved_bytes(config: DualStreamConfig, call: EncoderCall, numerics: Numerics) -> int:
    """Count the bytes that one call keeps for backward, parameters aside.

    The call runs on fake tensors, which have shapes, types and storages but no memory, so it needs neither a GPU nor
    time. The weights have the type that is computed in: autocast makes no copies, which `memory` counts itself.

    Args:
        config: of the encoder.
        call: which part, at which sizes.
        numerics: how it is computed.
    """
    storages: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.random.fork_rng(devices=[]), FakeTensorMode(), torch.device(numerics.device):
        with _default_dtype(torch.bfloat16 if numerics.bf16 else torch.float32):
            model = DualStream(config).train()
        weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        with _numerics(numerics), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = run_part(model, call)
        kept = sum(t.untyped_storage().nbytes() for key, t in storages.items() if key not in weights)
        del output
    return kept


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _numerics(numerics: Numerics) -> Iterator[None]:
    """Switch autocast on as on a GPU, where none is there to ask; `torch.autocast` itself would look for one."""
    before = torch.is_autocast_enabled(numerics.device), torch.get_autocast_dtype(numerics.device)
    torch.set_autocast_enabled(numerics.device, numerics.bf16)
    torch.set_autocast_dtype(numerics.device, torch.bfloat16)
    try:
        with FusedAttention() if numerics.fused else torch.enable_grad():
            yield
    finally:
        torch.set_autocast_enabled(numerics.device, before[0])
        torch.set_autocast_dtype(numerics.device, before[1])
        torch.clear_autocast_cache()


class FusedAttention(TorchFunctionMode):
    """Lets attention keep what FlashAttention (arXiv 2205.14135) keeps: inputs, output, one float a query."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401 (torch's)
    ) -> Any:  # noqa: ANN401
        """Replace scaled dot product attention; leave all else as it is."""
        if function is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return function(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    """Shapes of attention over queries (B, H, N, D), without its values; memory is counted in forward alone."""

    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return output


def _with_layers(config: DualStreamConfig, layers: int) -> DualStreamConfig:
    return replace(
        config,
        text=replace(config.text, layers=layers),
        image=replace(config.image, layers=layers),
        fusion=replace(config.fusion, layers=layers),
    )


def _states(call: EncoderCall, config: DualStreamConfig) -> tuple[int, ...]:
    """Return the states of a row that enter a layer, by stream."""
    if call.way == "image":
        patch = config.image.patch_size
        return (1 + call.sizes[1] // patch * (call.sizes[2] // patch),)
    return call.sizes[1:]


def _width(part: Part, config: DualStreamConfig) -> int:
    return {"text": config.text.width, "image": config.image.width, "fusion": config.fusion.width}[part]
