"""Published and trained models in use: pipelines, the processor, the shell commands."""

from vle_lightning.inference.pipelines import pipeline
from vle_lightning.inference.processor import Processor

__all__ = ["Processor", "pipeline"]
