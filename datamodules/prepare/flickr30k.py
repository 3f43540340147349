"""Flickr30k (Young et al., TACL 2014) in Karpathy's splits: 31,014 photos, of them 1,014 for val and 1,000 for test."""

from __future__ import annotations

from datamodules.prepare.karpathy import KarpathyDataset


class Dataset(KarpathyDataset):
    """``dataset_flickr30k.json`` and ``flickr30k-images/``."""

    name = "flickr30k"
    folders = ("flickr30k-images", "flickr30k_images", "images")
