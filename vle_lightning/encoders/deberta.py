"""DeBERTa-v3 (arXiv 2111.09543) and -v2 as transformers ships them: the text encoder of VLE."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import DebertaV2Config, DebertaV2Model

from vle_lightning.encoders.base import UNLIMITED, TextEncoder, TextEncoderConfig
from vle_lightning.streams import Stream


@dataclass(frozen=True)
class DebertaConfig(TextEncoderConfig):
    """Sizes of a DeBERTa-v3 encoder; the defaults are microsoft/deberta-v3-base."""

    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    position_buckets: int = 256
    max_positions: int = 512
    max_relative_positions: int = -1  # as many as max_positions
    layer_norm_eps: float = 1e-7
    conv_kernel: int = 0  # tokens under the convolution beside the first layer, as in DeBERTa-v2; 0: none
    conv_activation: str = "tanh"
    dropout: float = 0.1
    attention_dropout: float | None = None  # like dropout

    def build(self) -> DebertaEncoder:
        """Make the module, its weights drawn at random."""
        return DebertaEncoder(self)


class DebertaEncoder(TextEncoder):
    """DeBERTa-v2 and -v3: disentangled attention over content and relative position."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.width, self.vocabulary, self.max_tokens = config.width, config.vocab_size, UNLIMITED
        self.norm_eps = config.layer_norm_eps
        self.model = DebertaV2Model(
            DebertaV2Config(
                vocab_size=config.vocab_size,
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=config.intermediate,
                hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=(
                    config.dropout if config.attention_dropout is None else config.attention_dropout
                ),
                max_position_embeddings=config.max_positions,
                position_buckets=config.position_buckets,
                max_relative_positions=config.max_relative_positions,
                type_vocab_size=0,
                relative_attention=True,
                position_biased_input=False,
                pos_att_type=["p2c", "c2p"],
                share_att_key=True,
                norm_rel_ebd="layer_norm",
                layer_norm_eps=config.layer_norm_eps,
                conv_kernel_size=config.conv_kernel,
                conv_act=config.conv_activation,
            )
        )

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The (V, D) table that a vocabulary head may tie its decoder to."""
        embeddings = self.model.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        return embeddings

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        layers = self.model.encoder.layer
        assert isinstance(layers, nn.ModuleList)
        return layers

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Stream:
        """Encode B texts: ids (B, T) int64, mask (B, T) bool; states (B, T, D)."""
        output = self.model(input_ids=input_ids, attention_mask=attention_mask.to(input_ids.dtype))
        return Stream(output.last_hidden_state, attention_mask)
