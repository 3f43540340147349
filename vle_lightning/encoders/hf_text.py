"""Any text encoder of transformers, such as RoBERTa, BERT, ELECTRA or ModernBERT."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from inspect import signature
from typing import Any, Self

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from vle_lightning.encoders.base import UNLIMITED, TextEncoder, TextEncoderConfig
from vle_lightning.errors import UserError
from vle_lightning.streams import Stream

SIZES = {  # ours -> transformers' name, which all of its text encoders have
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "pad_token_id": "pad_token_id",
}
EPSILONS = ("layer_norm_eps", "norm_eps")  # the name depends on the type
DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "embedding_dropout",
    "mlp_dropout",
)
RECORDS = {"model_type", "architectures", "dtype", "transformers_version"}  # what a config.json says beside its sizes
OURS = {"model_type", "dtype"}  # what no option sets: the type has its field, weights are float32
# what transformers raises where options cannot be
BROKEN = (StrictDataclassError, TypeError, ValueError, LookupError, ArithmeticError, RuntimeError, AssertionError)
FEWER = {"bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"}  # ids that a small vocabulary may lack


@dataclass(frozen=True)
class HFTextConfig(TextEncoderConfig):
    """Sizes of an encoder of transformers; the defaults are roberta-base.

    Attributes:
        type: transformers' ``model_type``, such as roberta, bert, electra, modernbert.
        name: a hub name or folder whose config.json gives the sizes; read once, when an experiment is read.
        max_positions: rows of the position table; RoBERTa has two more than tokens.
        pad_token_id: what the tokenizer pads with.
        dropout: of hidden states and attention, where the type has it.
        options: further fields of the type's own configuration, by transformers' names.
    """

    vocab_size: int = 50_265
    type: str = "roberta"
    name: str | None = None
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    max_positions: int = 514
    pad_token_id: int = 1
    layer_norm_eps: float = 1e-5
    dropout: float = 0.1
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> HFTextEncoder:
        """Make the module, its weights drawn at random.

        Raises:
            UserError: transformers has no such type, or it has no such option.
        """
        return HFTextEncoder(self)

    def resolved(self, where: str) -> Self:
        """Take the sizes of ``name``, so that what is saved of the model needs no hub.

        Raises:
            UserError: the name is not found, or is of no text encoder.
        """
        if self.name is None:
            return self
        try:
            found = AutoConfig.from_pretrained(self.name, trust_remote_code=False)
        except (OSError, *BROKEN) as error:
            told = " ".join(str(error).split())
            raise UserError(f"{where}.name: {self.name} cannot be read (not found, or no network?): {told}") from error
        sizes: dict[str, Any] = {ours: getattr(found, theirs, None) for ours, theirs in SIZES.items()}
        if lacking := [SIZES[ours] for ours, value in sizes.items() if not isinstance(value, int)]:
            raise UserError(f"{where}.name: {self.name} ({found.model_type}) is not a text encoder: no {lacking[0]}")
        own, plain = found.to_diff_dict(), AutoConfig.for_model(found.model_type)
        known = {*SIZES.values(), *EPSILONS, *DROPOUTS, *FEWER, *RECORDS}
        options = {key: value for key, value in own.items() if key not in known and getattr(plain, key, value) != value}
        epsilon = next((float(getattr(found, key)) for key in EPSILONS if hasattr(found, key)), self.layer_norm_eps)
        return replace(
            self, name=None, type=found.model_type, layer_norm_eps=epsilon, options={**options, **self.options}, **sizes
        )

    def theirs(self) -> PretrainedConfig:
        """Return transformers' configuration.

        Raises:
            UserError: transformers has no such type, or it has no such option.
        """
        try:
            plain = AutoConfig.for_model(self.type)
        except ValueError as error:
            raise UserError(
                f"model.architecture.text.type is {self.type!r}: transformers has no such model; give a model_type "
                "such as roberta, bert, electra or modernbert"
            ) from error
        if self.type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:  # those that read a text in both directions
            raise UserError(f"model.architecture.text.type: {self.type} is not an encoder of text alone")
        if unknown := sorted(key for key in self.options if key in OURS or not hasattr(plain, key)):
            raise UserError(
                f"model.architecture.text.options holds {', '.join(unknown)}, which a {self.type} does not have; the "
                f"names are those of transformers' {type(plain).__name__}"
            )
        given: dict[str, Any] = {theirs: getattr(self, ours) for ours, theirs in SIZES.items()}
        given |= {key: self.layer_norm_eps for key in EPSILONS if hasattr(plain, key)}
        given |= {key: self.dropout for key in DROPOUTS if hasattr(plain, key)}
        given |= {key: None for key in FEWER if (getattr(plain, key, None) or 0) >= self.vocab_size}
        try:
            config: PretrainedConfig = AutoConfig.for_model(self.type, **{**given, **self.options})
        except BROKEN as error:
            raise _unfit(self.type, error) from error
        return config


PADDED, IDLE = "lets padding into the states of its words", "has weights that never get a gradient"
UNFIT = {  # found by running them: what would go wrong, and only in training
    **dict.fromkeys(("convbert", "nystromformer"), PADDED),
    **dict.fromkeys(("esm", "longformer", "luke", "mra", "neomme", "roformer"), IDLE),
    "layoutlm": "does not run without its pooler",
    "flaubert": "does not keep its layers in one list, by which they are sharded and recomputed",
}


class HFTextEncoder(TextEncoder):
    """An encoder of transformers without its pooler."""

    def __init__(self, config: HFTextConfig) -> None:
        super().__init__()
        if not 0 <= config.pad_token_id < config.vocab_size:
            raise UserError(
                f"model.architecture.text.pad_token_id {config.pad_token_id} is not a token of a vocabulary of "
                f"{config.vocab_size}; give the id that the tokenizer pads with"
            )
        if config.type in UNFIT:
            raise UserError(f"model.architecture.text.type: a {config.type} {UNFIT[config.type]}; use another type")
        theirs = config.theirs()
        self.model = _without_pooler(theirs, config.type)
        if "attention_mask" not in signature(self.model.forward).parameters:
            raise UserError(
                f"model.architecture.text.type: a {config.type} reads padding as it reads words, so that a text would "
                "depend on its batch; use another type"
            )
        self.width, self.vocabulary, self.norm_eps = config.width, config.vocab_size, config.layer_norm_eps
        self.padding = config.pad_token_id
        self.max_tokens = _count_positions(self.model)
        self._layers = _find_layers(self.model, config)

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The (V, D) table that a vocabulary head may tie its decoder to."""
        embeddings = self.model.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        return embeddings

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        layers = self.model.get_submodule(self._layers)
        assert isinstance(layers, nn.ModuleList)
        return layers

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Stream:
        """Encode B texts: ids (B, T) int64, mask (B, T) bool; states (B, T, D)."""
        # where nothing is computed but FLOPs are counted, transformers cannot look for padding: none, at equal cost
        mask = None if attention_mask.is_meta else attention_mask.to(input_ids.dtype)
        output = self.model(input_ids=input_ids, attention_mask=mask)
        return Stream(output.last_hidden_state, attention_mask)


def _without_pooler(config: PretrainedConfig, kind: str) -> Any:  # noqa: ANN401 (any model of transformers)
    try:
        model = AutoModel.from_config(config)  # with fused attention where the type has it
    except BROKEN as error:
        raise _unfit(kind, error) from error
    decodes = config.is_encoder_decoder or getattr(config, "is_decoder", False)
    if decodes or not hasattr(model, "get_input_embeddings"):
        raise UserError(f"model.architecture.text.type: {kind} is not an encoder of text alone")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # tasks pool by themselves
    return model


def _unfit(kind: str, error: Exception) -> UserError:
    told = f"it has no {error}" if isinstance(error, LookupError) else " ".join(str(error).split())
    return UserError(f"model.architecture.text: transformers cannot build this {kind} with these options: {told}")


def _count_positions(model: nn.Module) -> int:
    """Count the tokens that the position table has rows for: RoBERTa's begin behind the padding id."""
    tables = [m for name, m in model.named_modules() if name.endswith("position_embeddings")]
    table = next((table for table in tables if isinstance(table, nn.Embedding)), None)
    if table is None:
        return UNLIMITED
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def _find_layers(model: nn.Module, config: HFTextConfig) -> str:
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) in (config.layers, 1):
            return str(name)
    raise UserError(f"model.architecture.text.type: the layers of a {config.type} are not found; use another type")
