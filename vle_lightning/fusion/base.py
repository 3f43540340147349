"""What every fusion is: a configuration that builds a module, and what models ask of that module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from vle_lightning.parts import PartConfig
from vle_lightning.streams import Part, Stream


@dataclass(frozen=True)
class FusionConfig(PartConfig):
    """Sizes that every fusion has; the defaults are VLE-base.

    ``token_types`` counts the embeddings that tell text (0), image (1) and VCR's tagged objects (2 and up) apart.
    """

    family: ClassVar[str] = "vle_lightning.fusion"
    abstract: ClassVar[bool] = True

    width: int = 768
    layers: int = 6
    heads: int = 12
    intermediate: int = 3072
    dropout: float = 0.1
    token_types: int = 24
    layer_norm_eps: float = 1e-12
    attention_dropout: float | None = None  # like dropout

    def build(self) -> Fusion:
        """Make the module, its weights drawn at random."""
        raise TypeError(f"{type(self).__name__} does not define build")


class Fusion(nn.Module):
    """Two streams in, the same two streams out after they have read each other."""

    def stack(self) -> list[nn.Module]:
        """Return the transformer layers: what is sharded, recomputed and compiled one by one."""
        raise TypeError(f"{type(self).__name__} does not define stack")

    def forward(self, text: Stream, image: Stream, parts: Sequence[Part] | None = None) -> tuple[Tensor, Tensor]:
        """Let B texts and B images read each other, layer by layer.

        Args:
            text: states (B, T, D), mask (B, T).
            image: states (B, N, D), mask (B, N). Item i is fused with text i.
            parts: what is read of the last layer's states, of consecutive rows that are B in all; None: everything.

        Returns:
            Fused states (B, T, D) and (B, N, D). Those that nobody reads may be anything: zeros here, and a fusion that
            takes no heed of ``parts`` returns all.
        """
        raise TypeError(f"{type(self).__name__} does not define forward")

    @contextmanager
    def watch(self) -> Iterator[list[Tensor]]:
        """Collect where the text looks in the last layer, one entry a pass, while the context lasts.

        Outside of it nothing is computed or kept.

        Yields:
            Weights (B, H, T, N) of each pass: of B texts' tokens over the states of their images.
        """
        seen: list[Tensor] = []
        yield seen
        raise TypeError(f"{type(self).__name__} does not define watch")
