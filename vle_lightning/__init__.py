"""Vision-language pre-training and fine-tuning on PyTorch Lightning."""

import os as _os

from vle_lightning.entry import settle_launcher as _settle_launcher

_settle_launcher(_os.environ)  # Lightning reads the rank at import, and cannot read an empty one
