"""The plan as text and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vle_lightning.performance import CHEAP
from vle_lightning.plan.activations import Numerics
from vle_lightning.plan.gpus import BF16, find_gpu
from vle_lightning.plan.memory import Memory, Spread, memory_of
from vle_lightning.plan.stream import RecordBytes
from vle_lightning.plan.workload import Workload

Accumulate = Callable[[int, int, int], int]
COLUMNS = {  # heading, strategy, offload
    "ddp": ("ddp", False),
    "fsdp": ("fsdp", False),
    "zero-1": ("deepspeed_1", False),
    "zero-2": ("deepspeed_2", False),
    "zero-3": ("deepspeed_3", False),
    "1+offload": ("deepspeed_1", True),
    "2+offload": ("deepspeed_2", True),
    "3+offload": ("deepspeed_3", True),
}
CORE_SECONDS = 1.128e-3  # of one core for a photo's way into the batch (docs/data_speed.md)
MOST = 512  # samples of a device that the table goes up to
GB = 1e9


@dataclass(frozen=True)
class Plan:
    """An experiment on some GPUs."""

    workload: Workload
    gpu: str
    gpus: int
    gpus_per_node: int
    peak: float  # FLOP/s of one GPU in the run's precision
    utilisation: float
    precision: str
    strategy: str
    offload: bool
    recomputed: tuple[str, ...]
    batch_size: int
    global_batch_size: int
    steps: int
    record_bytes: RecordBytes
    accumulate: Accumulate

    @property
    def flops(self) -> float:
        """Training FLOPs of a sample."""
        return sum(self.workload.flops().values())

    @property
    def samples_per_second(self) -> float:
        """Of all GPUs."""
        return self.gpus * self.peak * self.utilisation / self.flops

    @property
    def hours(self) -> float:
        """Of all steps."""
        return self.steps * self.global_batch_size / self.samples_per_second / 3600

    @property
    def batches(self) -> list[int]:
        """Batches of a device that are shown: powers of two up to its share of the global one, and the asked one."""
        share = min(self.global_batch_size // self.gpus, MOST)
        return sorted({2**n for n in range(share.bit_length())} | {self.batch_size})

    @property
    def recomputations(self) -> dict[str, tuple[str, ...]]:
        """Which parts are recomputed in each of the tables, by its heading."""
        parts = tuple(self.workload.task.model.layers())
        tables: dict[str, tuple[str, ...]] = {
            "no activation checkpointing": (),
            f"activation_checkpointing: [{CHEAP}]": (CHEAP,),
            f"activation_checkpointing: [{', '.join(parts)}]": parts,
        }
        if set(self.recomputed) not in (set(), {CHEAP}, set(parts)):
            tables[f"activation_checkpointing: [{', '.join(self.recomputed)}]"] = self.recomputed
        return tables

    def asks_for(self, batch: int, column: str, recomputed: Sequence[str]) -> bool:
        """Is this the experiment's own choice?"""
        own = (self.batch_size, (self.strategy, self.offload), set(self.recomputed))
        return own == (batch, COLUMNS[column], set(recomputed))

    def memory(self, batch: int, column: str, recomputed: Sequence[str]) -> Memory:
        """Count the memory of one device."""
        strategy, offload = COLUMNS[column]
        numerics = Numerics(bf16=self.precision in BF16)
        return memory_of(self.workload, Spread(strategy, self.gpus, offload), batch, recomputed, numerics)

    def micro_batches(self, batch: int) -> int | None:
        """Return a device's micro-batches a step; None where the batches do not divide."""
        try:
            return self.accumulate(self.global_batch_size, batch, self.gpus)
        except ValueError:
            return None


def as_text(plan: Plan) -> str:
    """Write the plan as lines of at most 120 characters."""
    return "\n".join([*_head(plan), "", *_parts(plan), "", *_memory(plan), "", *_rates(plan)])


def _head(plan: Plan) -> Iterator[str]:
    nodes = -(-plan.gpus // plan.gpus_per_node)
    yield (
        f"{plan.gpus} x {plan.gpu} on {nodes} node(s), {find_gpu(plan.gpu).memory / GB:.0f} GB each, {plan.precision}, "
        f"{plan.peak / 1e12:,.0f} TFLOP/s by the data sheet, {plan.utilisation:.0%} of it assumed to be reached"
    )
    offload = " with offload" if plan.offload else ""
    steps = f"{plan.steps:,} steps" if plan.steps else "steps not known"
    yield (
        f"experiment: {plan.strategy}{offload}, {plan.batch_size} samples a device, {plan.global_batch_size:,} a step, "
        f"{steps}"
    )
    yield f"sample: {plan.workload.sample}"
    try:
        count = plan.accumulate(plan.global_batch_size, plan.batch_size, plan.gpus)
        yield f"accumulation: {count} micro-batch(es) a step on each device"
    except ValueError as error:
        yield f"does not divide: {str(error).split(';')[0]}"
        yield f"  {str(error).split('; ')[-1]}"


def _parts(plan: Plan) -> Iterator[str]:
    parameters, flops = plan.workload.parameters(), plan.workload.flops()
    yield f"{'part':<8}{'parameters':>14}{'trained':>14}{'GFLOPs a sample':>18}   (forward and backward)"
    for part, (whole, trained) in parameters.items():
        yield f"{part:<8}{whole:>14,}{trained:>14,}{flops[part] / 1e9:>18,.1f}"
    whole, trained = (sum(counts) for counts in zip(*parameters.values(), strict=True))
    yield f"{'all':<8}{whole:>14,}{trained:>14,}{plan.flops / 1e9:>18,.1f}"


def _memory(plan: Plan) -> Iterator[str]:
    yield "GB of each device at its peak;  ! more than it has   * the experiment's choice   - does not divide"
    for heading, recomputed in plan.recomputations.items():
        yield heading
        yield f"{'batch':>7}{'accumulation':>14}" + "".join(f"{column:>11}" for column in COLUMNS)
        for batch in plan.batches:
            cells = "".join(f"{_cell(plan, batch, column, recomputed):>11}" for column in COLUMNS)
            yield f"{batch:>7}{plan.micro_batches(batch) or '-':>14}{cells}"


def _cell(plan: Plan, batch: int, column: str, recomputed: Sequence[str]) -> str:
    total = plan.memory(batch, column, recomputed).total
    marks = "!" if total > find_gpu(plan.gpu).memory else ""
    return f"{total / GB:.1f}{marks}{'*' if plan.asks_for(batch, column, recomputed) else ''}"


def _rates(plan: Plan) -> Iterator[str]:
    for name, unit, rate, form in _streams(plan):
        node, device = rate * plan.gpus_per_node / plan.gpus, rate / plan.gpus
        yield f"{name:<8}{rate:>14,{form}} {unit:<9}{node:>14,{form}} a node{device:>14,{form}} a device"
    pictures = bool(plan.workload.sample.image_size)
    what = "an image" if pictures else "a text"
    yield f"bytes of {what}: {plan.record_bytes.mean:,.0f}, {plan.record_bytes.origin}"
    if pictures:
        cores = plan.samples_per_second * CORE_SECONDS * plan.gpus_per_node / plan.gpus
        yield f"cores for them: about {cores:,.1f} a node at {CORE_SECONDS * 1e3:.1f} ms an image (docs/data_speed.md)"
    if not plan.steps:
        yield "hours: trainer.max_steps is not set, and how long an epoch is cannot be read here"
        return
    told = f"hours: {plan.hours:,.2f} for {plan.steps:,} steps of {plan.global_batch_size:,} samples"
    yield f"{told} at {plan.utilisation:.0%}, {plan.hours * plan.gpus:,.0f} GPU hours"
    yield "  (without validation and saving; a part under activation checkpointing takes up to a third more)"


def _streams(plan: Plan) -> Iterator[tuple[str, str, float, str]]:
    rate, sample = plan.samples_per_second, plan.workload.sample
    yield "images" if sample.image_size else "texts", "a second", rate, ".0f"
    if sample.tokens:
        yield "tokens", "a second", rate * sample.tokens, ".0f"
    yield "MB", "a second", rate * plan.record_bytes.mean / 1e6, ".1f"


def as_json(plan: Plan) -> dict[str, Any]:
    """Write the plan in plain types; bytes, seconds and FLOPs without prefixes."""
    parameters = plan.workload.parameters()
    return {
        "gpu": plan.gpu,
        "gpus": plan.gpus,
        "precision": plan.precision,
        "strategy": plan.strategy,
        "offload": plan.offload,
        "activation_checkpointing": list(plan.recomputed),
        "batch_size": plan.batch_size,
        "global_batch_size": plan.global_batch_size,
        "accumulation": plan.micro_batches(plan.batch_size),
        "sample": plan.workload.sample._asdict(),
        "parameters": {part: {"all": whole, "trained": trained} for part, (whole, trained) in parameters.items()},
        "flops_per_sample": plan.workload.flops(),
        "peak_flops": plan.peak,
        "utilisation": plan.utilisation,
        "samples_per_second": plan.samples_per_second,
        "tokens_per_second": plan.samples_per_second * plan.workload.sample.tokens,
        "bytes_per_second": plan.samples_per_second * plan.record_bytes.mean,
        "record_bytes": plan.record_bytes._asdict(),
        "steps": plan.steps,
        "hours": plan.hours,
        "memory": [_entry(plan, *choice) for choice in _choices(plan)],
    }


def _choices(plan: Plan) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    for recomputed in plan.recomputations.values():
        for batch in plan.batches:
            yield from ((batch, column, recomputed) for column in COLUMNS)


def _entry(plan: Plan, batch: int, column: str, recomputed: tuple[str, ...]) -> dict[str, Any]:
    memory, (strategy, offload) = plan.memory(batch, column, recomputed), COLUMNS[column]
    return {
        "strategy": strategy,
        "offload": offload,
        "activation_checkpointing": list(recomputed),
        "batch_size": batch,
        "accumulation": plan.micro_batches(batch),
        "bytes": memory.total,
        "fits": memory.total <= find_gpu(plan.gpu).memory,
        "asked_for": plan.asks_for(batch, column, recomputed),
        "terms": {
            **vars(memory.states),
            "inputs": memory.inputs,
            "activations": memory.activations,
            "context": memory.context,
        },
    }
