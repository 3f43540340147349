"""Validation items of data sets that have no validation split: held out of training by a hash of their names."""

from __future__ import annotations

import hashlib

TRAIN, VAL = "train", "val"
BITS = 64


def check_share(share: float) -> None:
    """Raise ValueError for a share that leaves nothing to train on."""
    if not 0 <= share < 1:
        raise ValueError(f"--hold_out is {share}; give the share of {VAL}, at least 0 and below 1")


def split_of(name: str, share: float) -> str:
    """Return train or val: a share of all names is held out, whatever other names there are."""
    number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=BITS // 8).digest(), "little")
    return VAL if number < share * 2.0**BITS else TRAIN


def check_known(split: str, src: object) -> None:
    """Raise ValueError for a split that neither has a file of its own nor can be held out."""
    if split not in (TRAIN, VAL):
        raise ValueError(f"{src} has no split {split!r}: without files of its own there are {TRAIN} and {VAL}")
