"""Flickr8k (Hodosh et al., JAIR 2013) in Karpathy's splits: 8,000 photos, 1,000 each for val and test."""

from __future__ import annotations

from datamodules.prepare.karpathy import KarpathyDataset


class Dataset(KarpathyDataset):
    """``dataset_flickr8k.json`` and ``Flicker8k_Dataset/`` (spelt so in the release)."""

    name = "flickr8k"
    folders = ("Flicker8k_Dataset", "Flickr8k_Dataset", "images")
