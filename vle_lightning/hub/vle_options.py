"""The options of the published config.json, part by part: what is read, what is taken for granted, what is harmless."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from vle_lightning.encoders.clip_vit import ClipViTConfig
from vle_lightning.encoders.deberta import DebertaConfig
from vle_lightning.fusion.co_attention import CoAttentionConfig

INIT_STD = "initializer_range"

# What every transformers 4.26 configuration writes about itself, with the values that it writes.
COMMON: dict[str, Any] = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "bad_words_ids": None,
    "begin_suppress_tokens": None, "bos_token_id": None, "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None, "decoder_start_token_id": None, "diversity_penalty": 0.0, "do_sample": False,
    "early_stopping": False, "encoder_no_repeat_ngram_size": 0, "eos_token_id": None,
    "exponential_decay_length_penalty": None, "finetuning_task": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_decoder": False,
    "is_encoder_decoder": False, "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "length_penalty": 1.0, "max_length": 20,
    "min_length": 0, "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": False, "output_hidden_states": False, "output_scores": False, "pad_token_id": None,
    "prefix": None, "problem_type": None, "pruned_heads": {}, "remove_invalid_values": False,
    "repetition_penalty": 1.0, "return_dict": True, "return_dict_in_generate": False, "sep_token_id": None,
    "suppress_tokens": None, "task_specific_params": None, "temperature": 1.0, "tf_legacy_loss": False,
    "tie_encoder_decoder": False, "tie_word_embeddings": True, "tokenizer_class": None, "top_k": 50, "top_p": 1.0,
    "torch_dtype": None, "torchscript": False, "transformers_version": "4.26.0", "typical_p": 1.0,
    "use_bfloat16": False,
}  # fmt: skip
OTHER_RELEASES = {
    "dtype",
    "name_or_path",
    "use_cache",
    "attn_implementation",
    "_attn_implementation_autoset",
    "auto_map",
}


class Section(NamedTuple):
    """One part of a config.json."""

    kind: type[DebertaConfig] | type[ClipViTConfig] | type[CoAttentionConfig]  # what is read from it
    sizes: Mapping[str, str]  # option -> field of our dataclass; all must be there
    details: Mapping[str, str]  # likewise, where our default is that of transformers
    fixed: Mapping[str, tuple[object, ...]]  # option -> the values that are computed here; all must be there
    assumed: Mapping[str, tuple[object, ...]]  # likewise, where absence means the first
    harmless: Mapping[str, Any]  # options that change no number here, with what a new file says


FUSION = Section(
    kind=CoAttentionConfig,
    sizes={
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "intermediate",
        "num_token_types": "token_types",
    },
    details={
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "layer_norm_eps": "layer_norm_eps",
    },
    fixed={"model_type": ("vle",)},
    assumed={"hidden_act": ("gelu",), "pruned_heads": ({},)},
    harmless={"_commit_hash": None, "classifier_dropout": None, INIT_STD: 0.02, "transformers_version": None},
)
TEXT = Section(
    kind=DebertaConfig,
    sizes={
        "vocab_size": "vocab_size",
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "intermediate",
        "position_buckets": "position_buckets",
        "max_position_embeddings": "max_positions",
    },
    details={
        "max_relative_positions": "max_relative_positions",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "layer_norm_eps": "layer_norm_eps",
        "conv_kernel_size": "conv_kernel",
        "conv_act": "conv_activation",
    },
    fixed={
        "relative_attention": (True,),
        "share_att_key": (True,),
        "norm_rel_ebd": ("layer_norm",),
        "position_biased_input": (False,),
        "pos_att_type": (["p2c", "c2p"], ["c2p", "p2c"], "p2c|c2p", "c2p|p2c"),
    },
    assumed={
        "model_type": ("deberta-v2",),
        "hidden_act": ("gelu",),
        "type_vocab_size": (0,),
        "pad_token_id": (0,),
        "is_decoder": (False,),
        "add_cross_attention": (False,),
        "pruned_heads": ({},),
    },
    harmless={INIT_STD: 0.02, "pooler_dropout": 0, "pooler_hidden_act": "gelu", "pooler_hidden_size": None},
)
IMAGE = Section(
    kind=ClipViTConfig,
    sizes={
        "image_size": "image_size",
        "patch_size": "patch_size",
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "intermediate",
    },
    details={"hidden_act": "activation", "attention_dropout": "dropout", "layer_norm_eps": "layer_norm_eps"},
    fixed={},
    assumed={"model_type": ("clip_vision_model",), "num_channels": (3,), "pruned_heads": ({},)},
    # CLIP's vision tower reads no "dropout"; its projection is not part of VLE
    harmless={INIT_STD: 0.02, "dropout": 0.0, "initializer_factor": 1.0, "projection_dim": 512},
)
