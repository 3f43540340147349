"""Less memory and less time a step, with the same losses: recomputed activations, compiled layers.

Both work on the transformer layers of the encoder, one by one, and replace a layer's ``forward`` by one that does the
same. No module is wrapped, so the names of parameters stay, and with them those in checkpoints. Where both are wanted
`checkpoint_activations` comes first: what is recomputed must lie within what is compiled, for backward might otherwise
meet another compilation (of a variable length) than forward did.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType, MethodType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from vle_lightning.errors import UserError
from vle_lightning.models.backbone import Backbone

COMPILATIONS = 32  # of one kind of layer, beyond which torch would go on uncompiled
CHEAP = "cheap"  # beside the names of parts: all others keep the outputs of their linear layers alone
# what linear layers with a bias dispatch: nothing random, and nothing that is changed in place, as the product is to
# which a bias is added where the states have gaps in memory
PRODUCTS = (torch.ops.aten.addmm.default,)
Forward: TypeAlias = Callable[..., Any]  # of a layer, its first argument


def checkpoint_activations(model: Backbone, parts: Sequence[str]) -> None:
    """Keep only the inputs of each layer of these parts, and compute the rest again in backward (arXiv 1604.06174).

    A step computes the layers' forward twice then, a third more work, for about the memory of one layer. Dropout draws
    the same numbers both times, so losses and gradients stay what they were. Without gradients and in evaluation
    nothing changes. The encoder of a masked modality (``blind``) does not run, and is skipped.

    With `CHEAP` among the parts, those that are not named keep the inputs of each layer and the outputs of its linear
    layers, and compute the rest again: norms, GELU, dropout, casts and attention, a few percent of the operations for
    about half of the memory.

    The layer's own hooks lie outside of what is recomputed: FSDP2 has gathered the weights when the layer's backward
    begins, ZeRO-3 gathers them again for each module that runs again.

    Args:
        model: the encoder.
        parts: of `Backbone.layers`, such as text, image and fusion, or `CHEAP`.

    Raises:
        UserError: there is no such part.
        ValueError: the layers are compiled or recomputed already.
    """
    whole = [part for part in parts if part != CHEAP]
    if unknown := [part for part in whole if part not in model.layers()]:
        raise UserError(
            f"activation_checkpointing: there is no part {', '.join(map(repr, unknown))}; choose among "
            f"{', '.join(model.layers())} and {CHEAP}"
        )
    others = [part for part in model.layers() if part not in whole] if CHEAP in parts else []
    if any("forward" in vars(layer) for layer in _running(model, [*whole, *others])):
        raise ValueError("the layers are compiled or recomputed already; call checkpoint_activations first, and once")
    for chosen, keep in ((whole, ()), (others, PRODUCTS)):
        for layer in _running(model, chosen):
            layer.forward = MethodType(_recomputed(_forward_of(layer), keep), layer)


def compile_layers(model: Backbone) -> None:
    """Compile each kind of transformer layer (torch.compile), once for all layers of that kind.

    Random numbers are drawn as without compilation, at the price of fusing dropout with its neighbours, so that the
    option keeps the losses up to rounding. After a second length of texts one compilation serves all lengths.
    Embeddings, poolers and heads stay as they are, a small part of the work.

    Args:
        model: the encoder.
    """
    # whole and partial calls of a last layer, with and without gradients, under few lengths: more than torch's eight
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILATIONS)
    compiled: dict[tuple[type[nn.Module], bool], Forward] = {}
    for layer in _running(model, model.layers()):
        kind = type(layer), "forward" in vars(layer)
        if kind not in compiled:
            compiled[kind] = torch.compile(_copied(_forward_of(layer)), options={"fallback_random": True})
        layer.forward = MethodType(compiled[kind], layer)


def _running(model: Backbone, parts: Iterable[str]) -> list[nn.Module]:
    layers = model.layers()
    return [layer for part in dict.fromkeys(parts) if part != model.blind for layer in layers[part]]


def _forward_of(layer: nn.Module) -> Forward:
    """Return the function behind ``layer.forward``, which takes the layer as its first argument."""
    method = layer.forward
    assert isinstance(method, MethodType)
    return method.__func__


def _copied(forward: Forward) -> Forward:
    """Copy a function, its code too.

    torch keeps compilations with the code, which kinds of layers share where a decorator wraps their forward. The
    image tower's fixed length would become a variable one then, because the text tower's is.
    """
    assert isinstance(forward, FunctionType)
    copy = FunctionType(
        forward.__code__.replace(), forward.__globals__, forward.__name__, forward.__defaults__, forward.__closure__
    )
    copy.__kwdefaults__ = forward.__kwdefaults__
    return copy


def _recomputed(forward: Forward, keep: Sequence[OpOverload]) -> Forward:
    """Make a layer's forward keep only its inputs, and what the operations ``keep`` put out, while it trains."""
    selecting = functools.partial(create_selective_checkpoint_contexts, list(keep))
    kept: dict[str, Any] = {"context_fn": selecting} if keep else {}
    run = functools.partial(_cast_anew, forward) if keep else forward

    @functools.wraps(forward)
    def recomputed(layer: nn.Module, *inputs: Any, **options: Any) -> Any:  # noqa: ANN401 (as the layer's)
        if not (layer.training and torch.is_grad_enabled()):
            return forward(layer, *inputs, **options)
        bound = functools.partial(run, layer)
        return checkpoint(bound, *inputs, use_reentrant=False, preserve_rng_state=True, **kept, **options)

    return recomputed


def _cast_anew(forward: Forward, layer: nn.Module, states: Tensor, *inputs: Any, **options: Any) -> Any:  # noqa: ANN401
    """Run a layer without autocast's memory of cast weights: it must do the same both times that it is run.

    A layer that is called twice would find its weights cast in forward, but not in backward.
    """
    kind = states.device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    with torch.autocast(kind, dtype, enabled, cache_enabled=False):
        return forward(layer, states, *inputs, **options)
