"""Memory of one device under each strategy, term by term (docs/planning.md says why each one is there)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vle_lightning.flops import linear_sizes
from vle_lightning.plan.activations import FLOAT, Numerics, head_bytes, kept_by_part, peak_bytes
from vle_lightning.plan.workload import Workload, matrix_weights

STAGES = {"ddp": 0, "fsdp": 0, "deepspeed_1": 1, "deepspeed_2": 2, "deepspeed_3": 3}
BUCKET = 200_000_000  # elements: Lightning's reduce_bucket_size for DeepSpeed
LIVE = 1_000_000_000  # parameters: Lightning's stage3_max_live_parameters
CONTEXT = 1.5e9  # bytes, assumed: CUDA's context, workspaces of cuBLAS, buffers of NCCL


class Spread(NamedTuple):
    """How a run is spread over devices."""

    strategy: str  # one of STAGES
    devices: int
    offload: bool = False  # DeepSpeed: optimiser states to the host, and under stage 3 the weights


@dataclass(frozen=True)
class States:
    """What a device holds whatever its batch is, in bytes."""

    weights: float
    gradients: float
    optimizer: float  # AdamW's two moments; DeepSpeed: and the float32 weights
    gathered: float  # autocast's copies, weights gathered from other ranks, buckets
    step: float  # on top while the optimiser steps, when no activations are held
    host: float  # of this rank, in the memory of the host

    @property
    def lasting(self) -> float:
        """All but what the step adds."""
        return self.weights + self.gradients + self.optimizer + self.gathered


@dataclass(frozen=True)
class Memory:
    """The peak of one device, in bytes."""

    states: States
    inputs: float
    activations: float  # at the moment at which a micro-batch holds the most
    context: float

    @property
    def total(self) -> float:
        """The larger one of that moment and the optimiser's step, at which no activations are held."""
        return self.context + self.inputs + self.states.lasting + max(self.activations, self.states.step)


def states_of(workload: Workload, spread: Spread, bf16: bool) -> States:
    """Count weights, gradients and optimiser states under a strategy.

    Args:
        workload: for its parameters.
        spread: the strategy.
        bf16: the trainer's precision is bf16-mixed or bf16-true; 32-true otherwise.
    """
    task, size = workload.task, FLOAT // 2 if bf16 else FLOAT
    whole = sum(parameter.numel() for parameter in task.parameters())
    trained = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
    if spread.strategy == "ddp":  # the gradients are views of the buckets
        copies = size * matrix_weights(task) if bf16 else 0.0
        # under mixed precision AdamW goes through all tensors at once, with one more of each; else it is fused
        return States(FLOAT * whole, FLOAT * trained, 2 * FLOAT * trained, copies, FLOAT * trained * bf16, 0.0)
    if spread.strategy == "fsdp":
        layers = [sum(p.numel() for p in part.parameters()) for parts in task.model.layers().values() for part in parts]
        largest, root = max(layers), whole - sum(layers)
        # whole: the weights outside of the layers and of two layers, and their gradients with a float32 copy to reduce
        gathered = (2 * size + FLOAT * bf16) * (root + 2 * largest)
        share = FLOAT / spread.devices
        return States(share * whole, share * trained, 2 * share * trained, gathered, share * trained * bf16, 0.0)
    return _zero_states(whole, trained, spread, size)


def _zero_states(whole: int, trained: int, spread: Spread, size: int) -> States:
    """Count those of ZeRO (arXiv 1910.02054, section 5): weights of ``size`` bytes beside float32 ones that step."""
    stage, ranks = STAGES[spread.strategy], spread.devices
    weights = size * whole / (ranks if stage == 3 else 1)
    gradients = size * trained / (ranks if stage >= 2 else 1)
    optimizer = 3 * FLOAT * trained / ranks  # float32 weights and two moments
    gathered = 2.0 * size * min(BUCKET, trained)  # one bucket is reduced while the other one fills
    if stage == 3:  # what is used again within so many parameters stays
        gathered += size * min(whole, LIVE)
    step, host = FLOAT * trained / ranks, 0.0  # the gradients in float32
    if spread.offload:
        host, optimizer = optimizer + step, 0.0
        if stage >= 2:
            host, gradients = host + gradients, 0.0
        if stage == 3:
            host, weights = host + weights, 0.0
        step = 0.0
    return States(weights, gradients, optimizer, gathered, step, host)


def memory_of(
    workload: Workload,
    spread: Spread,
    batch_size: int,
    recomputed: Sequence[str] = (),
    numerics: Numerics = Numerics(),  # noqa: B008 (frozen)
    context: float = CONTEXT,
) -> Memory:
    """Count the peak of one device.

    Args:
        workload: what a micro-batch runs; it may be recorded for another batch size.
        spread: the strategy.
        batch_size: samples of a device.
        recomputed: parts under activation checkpointing.
        numerics: how it is computed.
        context: bytes that are taken before the first tensor.
    """
    scale, config = batch_size / workload.rows, workload.config
    kept = kept_by_part(config, workload.recording, scale, numerics)
    views = sum(call.sizes[0] for call in workload.recording.encoder if call.way in ("image", "image_layers"))
    pixels = workload.sample.image_size**2
    inputs = scale * (workload.rows + views) * 3 * pixels * FLOAT
    heads = head_bytes(workload.recording, linear_sizes(workload.task), scale, numerics)
    heads += scale * workload.rows * workload.maps * pixels * FLOAT
    states = states_of(workload, spread, numerics.bf16)
    return Memory(states, inputs, peak_bytes(kept, recomputed, heads), context)
