"""Conceptual Captions 3M (ACL 2018, P18-1238) and 12M (arXiv 2102.08981): web images with their alt texts.

Google publishes addresses and texts (github.com/google-research-datasets), free for any use with
acknowledgement; the images belong to their owners. Taken as they are: tars by img2dataset, or from
pixparse/cc3m-wds and pixparse/cc12m-wds. CC3M is 3.3M training and 16k validation pairs, CC12M 12.4M pairs
without a validation split. Of both, give each a name: --name cc3m, --name cc12m.
"""

from __future__ import annotations

from datamodules.prepare.foreign import CaptionTars


class Dataset(CaptionTars):
    """``train/*.tar``, ``cc3m-train-*.tar`` or ``00000.tar``: ``KEY.jpg``, ``KEY.txt``, ``KEY.json``."""
