"""SBU captioned photos (NeurIPS 2011, "Im2Text"): a million Flickr photos with their owners' captions.

The list of addresses is at www.cs.rice.edu/~vo9/sbucaptions/; the photos belong to their owners. Taken as they
are: tars by img2dataset. There is no validation split.
"""

from __future__ import annotations

from datamodules.prepare.foreign import CaptionTars


class Dataset(CaptionTars):
    """``train/*.tar`` or ``00000.tar``: ``KEY.jpg``, ``KEY.txt``, ``KEY.json``."""
