"""DeBERTa-v3 (arXiv 2111.09543) and -v2: the text encoder of VLE, with the names of weights that transformers has.

A token reads another by their contents, and by where they lie to each other: disentangled attention (arXiv 2006.03654,
section 3.1). Of T tokens only 2T - 1 relative positions occur, so a layer projects these alone, once for all rows; the
scores of content and position are shifted into place as a view and enter the attention as one additive bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DebertaV2Config
from transformers.activations import ACT2FN

from vle_lightning.encoders.base import UNLIMITED, TextEncoder, TextEncoderConfig
from vle_lightning.projection import project
from vle_lightning.streams import Stream

FACTORS = 3  # content to content, content to position, position to content: scores are divided by sqrt(3 d)


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

    def published(self) -> DebertaV2Config:
        """Return the configuration of the same network in transformers."""
        return DebertaV2Config(
            vocab_size=self.vocab_size,
            hidden_size=self.width,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            intermediate_size=self.intermediate,
            hidden_dropout_prob=self.dropout,
            attention_probs_dropout_prob=self.dropout if self.attention_dropout is None else self.attention_dropout,
            max_position_embeddings=self.max_positions,
            position_buckets=self.position_buckets,
            max_relative_positions=self.max_relative_positions,
            type_vocab_size=0,
            relative_attention=True,
            position_biased_input=False,
            pos_att_type=["p2c", "c2p"],
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            layer_norm_eps=self.layer_norm_eps,
            conv_kernel_size=self.conv_kernel,
            conv_act=self.conv_activation,
        )

    @property
    def farthest(self) -> int:
        """Return the distance from which on all positions are alike."""
        return self.max_positions if self.max_relative_positions < 1 else self.max_relative_positions

    @property
    def span(self) -> int:
        """Return how many rows the table of relative positions has for each direction."""
        return self.position_buckets if self.position_buckets > 0 else self.farthest

    @property
    def exact(self) -> int:
        """Return the distance below which each position has a row of its own; farther ones share theirs."""
        return self.position_buckets // 2 if self.position_buckets > 0 else self.farthest


class Positions(NamedTuple):
    """The relative positions that occur among T tokens, from -(T - 1) to T - 1."""

    rows: Tensor  # (R, D): of the table, those that are read
    places: Tensor | None  # (2T - 1,) int64: the row of each position; None: they are the rows, in this order


class Attention(nn.Module):
    """Disentangled self-attention."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.attention_dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.query_proj = nn.Linear(config.width, config.width)
        self.key_proj = nn.Linear(config.width, config.width)
        self.value_proj = nn.Linear(config.width, config.width)

    def forward(self, states: Tensor, padding: Tensor, positions: Positions) -> Tensor:
        """Let the tokens of B texts read each other.

        Args:
            states: (B, T, D).
            padding: (B, 1, 1, T) bool: True where nobody reads. A text of padding alone reads itself.
            positions: of these tokens.
        """
        batch, tokens, _ = states.shape
        occurring = F.dropout(positions.rows, self.dropout, self.training)
        both = torch.cat([states.flatten(0, 1), occurring])  # contents and positions share their projections
        sizes = [batch * tokens, len(occurring)]
        queries, keys = project(both, self.query_proj, self.key_proj)
        query, asked = queries.unflatten(-1, (self.heads, -1)).split(sizes)
        key, offered = keys.unflatten(-1, (self.heads, -1)).split(sizes)
        value = self.value_proj(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if positions.places is not None:
            asked, offered = asked[positions.places], offered[positions.places]
        scale = 1 / math.sqrt(FACTORS * query.shape[-1])
        reading = _shifted(query, offered.flip(0) * scale, batch)  # content to position, (H, B, T, T)
        read_by = _shifted(key, asked * scale, batch)  # position to content, keys first
        bias = (reading + read_by.transpose(-1, -2)).transpose(0, 1)
        bias = bias.masked_fill(padding, torch.finfo(bias.dtype).min)
        query, key = (part.unflatten(0, (batch, tokens)).transpose(1, 2) for part in (query, key))
        dropout = self.attention_dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=scale)
        return found.transpose(1, 2).flatten(2)


def _shifted(contents: Tensor, positions: Tensor, batch: int) -> Tensor:
    """Score each token against the position of each other one.

    A row of scores holds all 2T - 1 positions; token i's T begin one place earlier than those of token i - 1. Rows of
    2T - 2 instead of 2T - 1 shift them so without a copy (as in Transformer-XL, arXiv 1901.02860, appendix B).

    Args:
        contents: (B * T, H, d).
        positions: (2T - 1, H, d): row r is the position r - (T - 1) of a column's token minus a row's.
        batch: B.

    Returns:
        (H, B, T, T): entry i, j is token i's content times the position j - i.
    """
    tokens = len(contents) // batch
    scores = torch.bmm(contents.transpose(0, 1), positions.permute(1, 2, 0))  # (H, B * T, 2T - 1)
    flat = scores.view(-1, batch, tokens * (2 * tokens - 1))
    if tokens == 1:
        return flat[..., None]
    kept = flat[..., tokens - 1 : tokens - 1 + tokens * (2 * tokens - 2)]
    return kept.view(-1, batch, tokens, 2 * tokens - 2)[..., :tokens]


class Residual(nn.Module):
    """A linear layer, then dropout, and a norm of the sum with what came before."""

    def __init__(self, config: DebertaConfig, width: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.dense = nn.Linear(width, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, config.layer_norm_eps)

    def forward(self, states: Tensor, before: Tensor) -> Tensor:
        """Map states (B, T, inner width) to (B, T, D), beside ``before`` (B, T, D)."""
        normed: Tensor = self.LayerNorm(F.dropout(self.dense(states), self.dropout, self.training) + before)
        return normed


class Layer(nn.Module):
    """Disentangled attention and a feed-forward layer."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": Attention(config), "output": Residual(config, config.width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(config.width, config.intermediate)})
        self.output = Residual(config, config.intermediate)

    def forward(self, states: Tensor, padding: Tensor, positions: Positions) -> Tensor:
        """Map states (B, T, D) to the same shape; the rest as in `Attention.forward`."""
        read = self.attention["output"](self.attention["self"](states, padding, positions), states)
        output: Tensor = self.output(F.gelu(self.intermediate["dense"](read)), read)
        return output


class Embeddings(nn.Module):
    """Word embeddings, normed; zeros at padding."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.word_embeddings = nn.Embedding(config.vocab_size, config.width, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(config.width, config.layer_norm_eps)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed B texts: (B, T, D)."""
        states = self.LayerNorm(self.word_embeddings(input_ids))
        return F.dropout(states * attention_mask[..., None].to(states.dtype), self.dropout, self.training)


class Convolution(nn.Module):
    """DeBERTa-v2's convolution beside the first layer."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.dropout, self.activation = config.dropout, ACT2FN[config.conv_activation]
        self.conv = nn.Conv1d(config.width, config.width, config.conv_kernel, padding=(config.conv_kernel - 1) // 2)
        self.LayerNorm = nn.LayerNorm(config.width, config.layer_norm_eps)

    def forward(self, before: Tensor, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Add the convolution of the embeddings ``before`` (B, T, D) to the first layer's ``states``."""
        mask = attention_mask[..., None]
        found = self.conv(before.transpose(1, 2)).transpose(1, 2).masked_fill(~mask, 0)
        found = self.activation(F.dropout(found, self.dropout, self.training))
        normed: Tensor = self.LayerNorm(states + found) * mask
        return normed


class Stack(nn.Module):
    """The layers, the table of relative positions that they share, and its norm."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.sizes = config
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.rel_embeddings = nn.Embedding(2 * config.span, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, config.layer_norm_eps)
        self.conv = Convolution(config) if config.conv_kernel else None
        self.register_buffer("rows_by_distance", _table_rows(config, config.max_positions), persistent=False)

    def forward(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode embedded texts (B, T, D), mask (B, T) bool, to the same shape."""
        positions, before = self.positions(states.shape[1]), states
        padding = ~attention_mask[:, None, None, :]
        for number, layer in enumerate(self.layer):
            states = layer(states, padding, positions)
            if number == 0 and self.conv is not None:
                states = self.conv(before, states, attention_mask)
        return states

    def positions(self, tokens: int) -> Positions:
        """Return what T tokens read of the table."""
        table, span = self.LayerNorm(self.rel_embeddings.weight), self.sizes.span
        if tokens <= self.sizes.exact:
            return Positions(table[span - tokens + 1 : span + tokens], None)
        known = self.rows_by_distance
        assert isinstance(known, Tensor)
        if tokens > self.sizes.max_positions:
            known = _table_rows(self.sizes, tokens).to(table.device)
        middle = len(known) // 2
        return Positions(table, known[middle - tokens + 1 : middle + tokens])


def _table_rows(config: DebertaConfig, tokens: int) -> Tensor:
    """Return the row of the table for each position -(T - 1) to T - 1: exact near by, in logarithmic steps farther off.

    Computed in float32 as the published code does, for a step's edge is where its rounding lies.
    """
    distance = torch.arange(1 - tokens, tokens, device="cpu")  # also where the network is built without values
    if config.position_buckets > 0:
        exact = config.exact
        far = distance.abs().clamp(min=exact)
        growth = torch.log(far / exact) / torch.log(torch.tensor((config.farthest - 1) / exact, device="cpu"))
        bucket = torch.ceil(growth * (exact - 1)) + exact
        distance = torch.where(distance.abs() <= exact, distance, (bucket * distance.sign()).long())
    return (distance + config.span).clamp(0, 2 * config.span - 1)


class DebertaModel(nn.Module):
    """Embeddings and layers, under the names that published weights have."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.config = config.published()
        self.embeddings = Embeddings(config)
        self.encoder = Stack(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode B texts (B, T), mask (B, T) bool: states (B, T, D)."""
        states: Tensor = self.encoder(self.embeddings(input_ids, attention_mask), attention_mask)
        return states


class DebertaEncoder(TextEncoder):
    """DeBERTa-v2 and -v3: disentangled attention over content and relative position."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.width, self.vocabulary, self.max_tokens = config.width, config.vocab_size, UNLIMITED
        self.norm_eps = config.layer_norm_eps
        self.model = DebertaModel(config)

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The (V, D) table that a vocabulary head may tie its decoder to."""
        return self.model.embeddings.word_embeddings

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        return self.model.encoder.layer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Stream:
        """Encode B texts: ids (B, T) int64, mask (B, T) bool; states (B, T, D)."""
        return Stream(self.model(input_ids, attention_mask), attention_mask)
