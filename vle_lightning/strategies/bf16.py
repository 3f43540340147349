"""Training in bf16 with float32 master weights, on one device or under DDP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from vle_lightning.tasks.base import VisionLanguageTask

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d)  # autocast computes with all of their weights in bf16
HALF = torch.bfloat16


class MasterWeightPrecision(MixedPrecision):
    """``bf16-true``: the transformer layers compute with bf16 copies of their weights, which stay float32 themselves.

    A layer's weights are cast together, once a micro-batch, where ``bf16-mixed`` casts each of them at each use; their
    gradients come back together, and are summed over micro-batches and ranks, clipped and given to AdamW in float32.
    Only the gradients of a layer that a micro-batch runs several times are added in bf16, where ``bf16-mixed`` adds in
    float32. A micro-batch is a forward and its backward: no other forward may come between them.
    Parameters, optimiser and checkpoints are those of the other precisions, so that a run may go on under another.
    Autocast chooses for all else: embeddings, norms, heads and losses.
    """

    def __init__(self) -> None:
        super().__init__("bf16-mixed", "cpu")  # the device follows from the weights
        self._layers: list[LayerWeights] = []
        self._module: nn.Module = nn.Module()
        self._placed = False

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Find the weights to cast; the module itself stays as it is."""
        assert isinstance(module, VisionLanguageTask)
        layers = (layer for part in module.model.layers().values() for layer in part)
        found = [LayerWeights(layer) for layer in dict.fromkeys(layers)]
        self._layers = [layer for layer in found if layer.places]
        self._module = module
        return module

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Let the layers hold bf16 copies within; a context within another one shares its copies."""
        self.device = next(self._module.parameters()).device.type
        with super().forward_context():
            if self._placed:
                yield
                return
            for layer in self._layers:
                layer.cast()
            wanted = False
            try:
                with self._copies():
                    yield
                wanted = torch.is_grad_enabled()
            finally:
                if not wanted:  # no backward will ask for them
                    self._forget()

    def backward(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 (as the parent's)
        """Run backward over the copies of the forward: recomputed layers read them once more."""
        with self._copies():
            super().backward(*args, **kwargs)
        self._forget()

    def _forget(self) -> None:
        for layer in self._layers:
            layer.forget()

    @contextmanager
    def _copies(self) -> Iterator[None]:
        """Let the layers hold the copies that were cast last."""
        self._placed = True
        try:
            for layer in self._layers:
                layer.place_copies()
            yield
        finally:
            for layer in self._layers:
                layer.place_weights()
            self._placed = False


class LayerWeights:
    """The weights of a transformer layer's linear layers and convolutions."""

    def __init__(self, layer: nn.Module) -> None:
        modules = [module for module in layer.modules() if isinstance(module, PRODUCTS)]
        self.places: list[tuple[dict[str, Any], str, nn.Parameter]] = [
            (module._parameters, name, weight) for module in modules for name, weight in module.named_parameters()
        ]
        self._copies: list[Tensor] = []

    def cast(self) -> None:
        """Make bf16 copies, whose gradients reach the weights that train."""
        copies: dict[int, Tensor] = {}
        for trained in (True, False):
            numbers = [n for n, (*_, weight) in enumerate(self.places) if weight.requires_grad is trained]
            if numbers:
                cast = CastTogether.apply(*[self.places[number][2] for number in numbers])
                copies |= dict(zip(numbers, cast, strict=True))
        self._copies = [copies[number] for number in range(len(self.places))]

    def forget(self) -> None:
        """Release the copies."""
        self._copies = []

    def place_copies(self) -> None:
        """Put the copies in the places of the weights, where there are any."""
        for (holder, name, _), copy in zip(self.places, self._copies, strict=False):
            holder[name] = copy

    def place_weights(self) -> None:
        """Put the weights back."""
        for holder, name, weight in self.places:
            holder[name] = weight


class CastTogether(torch.autograd.Function):
    """Cast tensors to bf16 in one operation, and their gradients back in another."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:  # noqa: ANN401 (torch's)
        """Return a bf16 copy of each."""
        ctx.set_materialize_grads(False)
        return _cast(weights, HALF)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ANN401 (torch's)
        """Return the gradients in float32; None for a copy that nothing used."""
        wide = iter(_cast([gradient for gradient in gradients if gradient is not None], torch.float32))
        return tuple(gradient if gradient is None else next(wide) for gradient in gradients)


def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Cast tensors into one buffer."""
    if not tensors:
        return ()
    sizes = [tensor.numel() for tensor in tensors]
    parts = torch.empty(sum(sizes), dtype=dtype, device=tensors[0].device).split(sizes)
    copies = tuple(part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))
    torch._foreach_copy_(copies, list(tensors))
    return copies
