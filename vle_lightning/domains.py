"""The values that each option of an experiment may have, in one table; checked once, after parsing.

Modules that are built without the command line keep checks of their own for what they cannot work with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from jsonargparse import Namespace

from vle_lightning.errors import UserError
from vle_lightning.parsing import COMMAND_LINE, Experiment

DAYS = 86_400.0  # seconds
MOST_TOKENS = 100_000
MOST_SIDE = 16_384  # pixels


@dataclass(frozen=True)
class Domain:
    """An interval of numbers."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf  # the bound itself is not allowed
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        if (self.least, self.most) == (0, 1):
            return "give a share from 0 to 1"
        if self.least == 0 and self.most == math.inf and self.below == math.inf:
            return "it must be at least 0, not negative"
        bounds = (
            ("at least", self.least),
            ("above", self.above),
            ("at most", self.most),
            ("below", self.below),
        )
        return "it must be " + " and ".join(f"{word} {_write(bound)}" for word, bound in bounds if math.isfinite(bound))


COUNT, WHOLE, SHARE, POSITIVE = Domain(least=1), Domain(least=0), Domain(0, 1), Domain(above=0)
STEPS = Domain(least=1, most=10**12)
SHARE_OR_STEPS = Domain(least=0, most=10**12)
NO_LIMIT = -1  # what Lightning calls so
DOMAINS: Mapping[str, Domain] = {
    "seed_everything": Domain(0, 2**32 - 1),  # NumPy's
    "validate_every": STEPS,
    "save_every": STEPS,
    "keep_last": COUNT,
    "max_skipped": SHARE,
    "max_bad_steps": COUNT,
    "hang_timeout": Domain(1, 30 * DAYS),
    "plots_count": COUNT,
    "trainer.num_nodes": Domain(1, 100_000),
    "trainer.gradient_clip_val": WHOLE,
    "trainer.max_steps": Domain(NO_LIMIT, 10**12),
    "trainer.min_steps": SHARE_OR_STEPS,
    "trainer.max_epochs": Domain(NO_LIMIT, 10**9),
    "trainer.min_epochs": Domain(0, 10**9),
    "trainer.log_every_n_steps": SHARE_OR_STEPS,
    "trainer.limit_train_batches": SHARE_OR_STEPS,
    "trainer.limit_val_batches": SHARE_OR_STEPS,
    "trainer.limit_test_batches": SHARE_OR_STEPS,
    "trainer.limit_predict_batches": SHARE_OR_STEPS,
    "trainer.num_sanity_val_steps": Domain(NO_LIMIT, 10**9),
    "model.classes": Domain(1, 10**6),
    "model.answers": Domain(1, 10**6),
    "model.codes": Domain(1, 10**6),
    "model.label_smoothing": Domain(least=0, below=1),
    "model.channels": Domain(1, 10**5),
    "model.auxiliary_weight": WHOLE,
    "model.contrastive": WHOLE,
    "model.matching": WHOLE,
    "model.top_k": WHOLE,
    "model.pairs_per_batch": COUNT,
    "model.folds": COUNT,
    "model.optim.lr": Domain(above=0, most=100),
    "model.optim.fusion_multiplier": POSITIVE,
    "model.optim.head_multiplier": POSITIVE,
    "model.optim.projection_multiplier": POSITIVE,
    "model.optim.token_type_multiplier": POSITIVE,
    "model.optim.weight_decay": WHOLE,
    "model.optim.betas": Domain(least=0, below=1),
    "model.optim.warmup": SHARE,
    "model.optim.end": SHARE,
    "data.batch_size": Domain(1, 10**6),
    "data.global_batch_size": Domain(1, 10**7),
    "data.image_size": Domain(1, MOST_SIDE),
    "data.patch_size": Domain(1, MOST_SIDE),
    "data.max_text_length": Domain(4, MOST_TOKENS),
    "data.text_multiple": Domain(1, MOST_TOKENS),
    "data.workers": WHOLE,
    "data.limit_val": Domain(1, 10**12),
    "data.shuffle_shards": COUNT,
    "data.cache_gb": Domain(1, 10**9),
    "data.mask_share": Domain(above=0, most=1),
    "data.patch_share": SHARE,
    "data.pixel_mean": SHARE,
    "data.pixel_std": Domain(above=0, most=1),
    "data.class_count": Domain(1, 10**6),
    "data.augment_ops": Domain(0, 100),
    "data.augment_magnitude": Domain(0, 10),
    "data.crop_scale": Domain(above=0, most=1),
    "data.negatives": COUNT,
    "data.max_objects": WHOLE,
    "data.first_object_type": WHOLE,
}

GROUPS: Mapping[str, Domain] = {  # options with names that the experiment chooses, or with many of one kind
    "model.architecture.": Domain(-1, 10**7),  # -1: DeBERTa's own word for as many positions as there are
    "model.objectives.": WHOLE,
}
ANY = Domain()


def check_domains(settings: Namespace, experiment: Experiment) -> None:
    """Refuse numbers outside of their option's domain, and everywhere those that are not finite.

    Args:
        settings: all options of a subcommand, parsed.
        experiment: says where an option was given.

    Raises:
        UserError: names the option, where it was given, and what it may be.
    """
    for key, value in numbers(settings.as_dict()):
        if not is_finite(value):
            raise UserError(f"{_source(key, experiment)}: {key} is {value}; give a finite number")
        domain = DOMAINS.get(key) or next((d for group, d in GROUPS.items() if key.startswith(group)), ANY)
        if value not in domain:
            raise UserError(f"{_source(key, experiment)}: {key} is {value}; {domain}")


def numbers(content: object, key: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield all numbers with the name of their option; the items of a list have the list's."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from numbers(value, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list | tuple):
        for value in content:
            yield from numbers(value, key)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield key, content
    elif hasattr(content, "__dataclass_fields__"):
        yield from numbers(vars(content), key)


def is_finite(value: float) -> bool:
    """Is a number neither NaN nor infinite, nor beyond what a float holds?"""
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def _source(key: str, experiment: Experiment) -> str:
    """Say where a number was given: perhaps as a part of an option, such as ``--model.objectives '{mlm: -1}'``."""
    names = key.split(".")
    parts = [".".join(names[:length]) for length in range(len(names), 0, -1)]
    places = [experiment.source(part) for part in parts if experiment.gives(part)]
    return COMMAND_LINE if COMMAND_LINE in places else next(iter(places), experiment.source(key))


def _write(bound: float) -> str:
    return f"{bound:,.0f}" if bound == int(bound) else f"{bound:g}"
