"""Official raw layouts -> shard folders; `python -m datamodules.prepare NAME --src RAW --out ROOT`.

A data set is one module here with a class ``Dataset`` that says what its records are (see raw.py); engine.py
does the rest.
"""

from datamodules.prepare.engine import convert
from datamodules.prepare.origin import Options

__all__ = ["Options", "convert"]
