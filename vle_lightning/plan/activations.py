"""Bytes that forward keeps for backward, counted on tensors that hold nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from vle_lightning.flops import HeadSizes, Recording, fake_backbone, run_part
from vle_lightning.hub.architecture import read_architecture, to_plain
from vle_lightning.models.backbone import Backbone, BackboneConfig, EncoderCall
from vle_lightning.performance import CHEAP, PRODUCTS

FLOAT = 4  # bytes
SMALL, LARGE = 2, 4  # units of rows that are counted; what is kept is linear in the rows


class Numerics(NamedTuple):
    """How a forward is computed, as far as it changes what is kept."""

    bf16: bool = True  # by autocast
    fused: bool = True  # attention keeps no weights, as on GPUs
    device: str = "cuda"


class Kept(NamedTuple):
    """What one part keeps for backward, in bytes for its rows of a micro-batch."""

    around: float  # embeddings, projections, poolers
    layers: float  # all layers
    inputs: float  # of all layers: what is kept of them where they are recomputed
    largest: float  # the largest layer: one is recomputed at a time
    products: float = 0.0  # of all layers: outputs of linear ones, kept where what is cheap is recomputed
    again: float = 0.0  # what a layer's cheap operations then add, beyond what the layers behind it have given back

    @property
    def whole(self) -> float:
        """Without recomputation."""
        return self.around + self.layers

    @property
    def recomputed(self) -> float:
        """With it, before the first layer is computed again."""
        return self.around + self.inputs

    @property
    def cheap(self) -> float:
        """With recomputation of what is cheap alone, likewise."""
        return self.around + self.inputs + self.products

    def at(self, rows: float, more: Kept, difference: int) -> Kept:
        """Add the bytes of ``rows`` further rows; ``more`` is what ``difference`` further rows made of it."""
        return Kept(*(a + (b - a) / difference * rows for a, b in zip(self, more, strict=True)))

    def plus(self, other: Kept) -> Kept:
        """Add what another call of the part keeps."""
        largest = max(self.largest, other.largest)
        return Kept(
            self.around + other.around,
            self.layers + other.layers,
            self.inputs + other.inputs,
            largest,
            self.products + other.products,
            max(self.again, other.again),
        )


def kept_by_part(config: BackboneConfig, recording: Recording, scale: float, numerics: Numerics) -> dict[str, Kept]:
    """Count what the backbone keeps for backward.

    Each part runs for two numbers of rows: the rest is linear, so that the batch costs nothing.

    Args:
        config: of the backbone.
        recording: what a micro-batch calls.
        scale: rows of the micro-batch that is asked about, over those of the recorded one.
        numerics: how it is computed.
    """
    architecture = json.dumps(to_plain(config))
    parts: dict[str, Kept] = {}
    for call in recording.encoder:
        few, many = (_count(architecture, call.scaled(units), numerics) for units in (SMALL, LARGE))
        kept = few.at(call.unit * scale - SMALL, many, LARGE - SMALL)
        part = config.part_of_call(call.way)
        parts[part] = parts[part].plus(kept) if part in parts else kept
    return parts


def head_bytes(recording: Recording, heads: Mapping[str, HeadSizes], scale: float, numerics: Numerics) -> float:
    """Count what the heads hold while the losses are computed.

    Each layer keeps its input. An output of a linear layer stands three times in float32: as the loss keeps it (log
    softmax), as its gradient, and as a copy on the way. That is MLM's logits over the vocabulary, above all. An output
    of a convolution stands once, for the norm behind it.
    """
    size, total = FLOAT // 2 if numerics.bf16 else FLOAT, 0.0
    for head in recording.heads:
        sizes = heads[head.name]
        copies = 1 if sizes.convolves else 3
        total += scale * head.rows * (size * sizes.channels + copies * FLOAT * sizes.outputs)
    return total


def peak_bytes(kept: Mapping[str, Kept], recomputed: Sequence[str], heads: float) -> float:
    """Find the moment at which a micro-batch holds the most, and count it.

    Backward frees faster than it takes, so that without recomputation this is the end of forward, with the logits. A
    layer that is computed again comes on top of what its part and those before it have kept: the fusion's while
    all is there, the towers' when the fusion is gone.

    Args:
        kept: by part.
        recomputed: parts under activation checkpointing; `CHEAP` is of those that are not named.
        heads: bytes of the heads, which are gone once backward is past them.
    """
    held = {name: part.cheap if CHEAP in recomputed else part.whole for name, part in kept.items()}
    again = {name: part.again if CHEAP in recomputed else 0.0 for name, part in kept.items()}
    held |= {name: part.recomputed for name, part in kept.items() if name in recomputed}
    again |= {name: part.largest for name, part in kept.items() if name in recomputed}
    towers = sum(size for name, size in held.items() if name != "fusion")
    in_towers = max((size for name, size in again.items() if name != "fusion"), default=0.0)
    whole = sum(held.values())
    return max(whole + heads, whole + again.get("fusion", 0.0), towers + in_towers)


def saved_bytes(config: BackboneConfig, call: EncoderCall, numerics: Numerics) -> float:
    """Count the bytes that one call keeps for backward, parameters aside.

    Args:
        config: of the backbone.
        call: which part, at which sizes.
        numerics: how it is computed.
    """
    return _count(json.dumps(to_plain(config)), call, numerics).whole


@lru_cache(maxsize=256)
def _count(architecture: str, call: EncoderCall, numerics: Numerics) -> Kept:
    """Count what one call keeps, layer by layer.

    The call runs on fake tensors, which have shapes, types and storages but no memory, so it needs neither a GPU nor
    time. The weights have the type that is computed in: autocast makes no copies, which `memory` counts itself.
    """
    config, dtype = read_architecture(json.loads(architecture)), torch.bfloat16 if numerics.bf16 else torch.float32
    with fake_backbone(config, numerics.device, dtype) as model:
        ledger = _Ledger(model.train(), config.part_of_call(call.way))
        hooks = torch.autograd.graph.saved_tensors_hooks(ledger.keep, lambda tensor: tensor)
        with _numerics(numerics), hooks, _Products(ledger):
            output = run_part(model, call)
        del output
    return ledger.kept()


class _Ledger:
    """Adds up what is kept, each storage once, and by which layer of a part."""

    def __init__(self, model: Backbone, part: str) -> None:
        self._storages: dict[int, Tensor] = {}  # kept alive, for a storage's address may be taken again
        self._weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        self._inputs: dict[int, Tensor] = {}
        self._before = (0, 0)  # totals where the latest layer began
        self._calls: list[tuple[int, int]] = []  # of layers, in their order: what each keeps, and its products
        self._total = self._products = 0
        self._is_inside = False
        for layer in model.layers().get(part, ()):
            layer.register_forward_pre_hook(self._enter)
            layer.register_forward_hook(self._leave)

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor that backward will need."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights and storage._cdata not in self._storages:
            self._storages[storage._cdata] = tensor
            self._total += storage.nbytes()
        return tensor

    def note_product(self, output: Tensor) -> None:
        """Count the output of a linear layer, where it is one of a transformer layer."""
        self._products += output.untyped_storage().nbytes() if self._is_inside else 0

    def kept(self) -> Kept:
        """Return the bytes; inputs are kept in float32, the type that layer norms return."""
        layers = sum(total for total, _ in self._calls)
        largest, freed, again = max((total for total, _ in self._calls), default=0), 0, 0
        for total, products in reversed(self._calls):  # as backward goes
            again, freed = max(again, total - products - freed), freed + products
        inputs = FLOAT * sum(tensor.numel() for tensor in self._inputs.values())
        return Kept(self._total - layers, layers, inputs, largest, self._products, again)

    def _enter(self, layer: nn.Module, inputs: tuple[object, ...]) -> None:
        self._before, self._is_inside = (self._total, self._products), True
        for tensor in inputs:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self._inputs[tensor.untyped_storage()._cdata] = tensor

    def _leave(self, layer: nn.Module, inputs: object, output: object) -> None:
        self._calls.append((self._total - self._before[0], self._products - self._before[1]))
        self._is_inside = False


class _Products(TorchDispatchMode):
    """Shows a ledger the outputs of linear layers."""

    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ledger = ledger

    def __torch_dispatch__(
        self,
        function: Any,  # noqa: ANN401
        types: Any,  # noqa: ANN401
        args: Any = (),  # noqa: ANN401
        kwargs: Any = None,  # noqa: ANN401 (torch's)
    ) -> Any:  # noqa: ANN401
        output = function(*args, **(kwargs or {}))
        if function in PRODUCTS:
            self._ledger.note_product(output)
        return output


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
