"""The way out to VLMo's layout: the file that its code loads, of models that its code computes alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vle_lightning.errors import UserError
from vle_lightning.hub.filling import own_tensors
from vle_lightning.hub.layouts import place
from vle_lightning.hub.temperatures import as_numbers
from vle_lightning.hub.vlmo import (
    FILE,
    HEADS,
    INDICES,
    POSITION_IDS,
    SHAPED,
    UNUSED,
    computed_index,
    in_order,
    published_name,
)
from vle_lightning.models.backbone import Backbone, BackboneConfig
from vle_lightning.models.mome import MoMEConfig

EPS = 1e-6  # of the trunk's layer norms
LOSSES = ("itm", "itc", "mlm", "textmlm", "vqa", "nlvr2", "irtr")


def as_vlmo(config: BackboneConfig) -> MoMEConfig:
    """Return the configuration, if VLMo's code computes the same.

    Raises:
        UserError: it is another backbone's, of an ablation, or of another epsilon.
    """
    if not isinstance(config, MoMEConfig):
        raise UserError(f"VLMo's layout holds a mome, not a {config.kind}; export it in ours")
    fixed = {"shared_experts": False, "attention_apart": False, "layer_norm_eps": EPS}
    ours = {key: getattr(config, key) for key in fixed}
    strange = [f"model.architecture.{key} ({value})" for key, value in ours.items() if value != fixed[key]]
    if strange:
        raise UserError(f"VLMo's layout has no place for {', '.join(strange)}; export it in ours")
    return config


def write_vlmo(
    folder: Path, encoder: Backbone, heads: Mapping[str, nn.Module], carried: Mapping[str, Tensor] | None = None
) -> None:
    """Write ``vlmo.pt``, which VLMo's ``load_path`` reads.

    Args:
        folder: is there.
        encoder: a mixture of modality experts.
        heads: by our names; those without a place in VLMo are refused.
        carried: what a file of VLMo's held beside the weights, see `VLMoWeights`. Without it the file holds all
            indices, for VLMo's loader cannot take other image sizes without them.

    Raises:
        UserError: the encoder or a head has no place in VLMo's layout.
    """
    config = as_vlmo(encoder.config)
    if strange := sorted(heads.keys() - HEADS.keys()):
        raise UserError(f"VLMo's layout has no place for the head {', '.join(strange)}; export it in ours")
    tensors = vlmo_tensors(encoder, heads) | buffers(config, carried or {})
    torch.save({"state_dict": tensors, "hyper_parameters": _options(config, heads)}, folder / FILE)


def vlmo_tensors(encoder: Backbone, heads: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the tensors of an encoder and its heads by VLMo's names.

    Raises:
        UserError: VLMo has no name for one.
    """
    own = {
        name: value.view(*SHAPED[name], *value.shape) if name in SHAPED else value
        for name, value in own_tensors({"": encoder}).tensors.items()
    }
    for name, head in heads.items():
        own |= {f"{name}.{key}": value for key, value in in_order(dict(head.state_dict()), HEADS[name]).items()}
    return place(as_numbers(own), published_name, "VLMo")


def buffers(config: MoMEConfig, carried: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what VLMo stores beside the weights: what was carried along, the indices for today's image size."""
    known, relative = config.text_positions, config.positions == "relative"
    found: dict[str, Tensor] = {}
    if relative and UNUSED in carried:
        found[UNUSED] = carried[UNUSED].contiguous()
    if not carried or POSITION_IDS in carried:
        ids = carried.get(POSITION_IDS)
        fits = ids is not None and (relative or ids.shape[-1] == known)
        found[POSITION_IDS] = ids.contiguous() if ids is not None and fits else torch.arange(known)[None]
    for name in INDICES if relative else ():
        if carried and name not in carried:
            continue
        tokens = _tokens(name, carried) if carried else known
        found[name] = computed_index(name, config, tokens)
    return found


def _tokens(name: str, carried: Mapping[str, Tensor]) -> int:
    """Return the text tokens of a carried index, whose pictures may have been of another size."""
    index, images = carried[name], carried.get(INDICES[0])
    if name == INDICES[2] and images is not None:
        return len(index) - len(images)
    if name == INDICES[2] and INDICES[1] in carried:
        return len(carried[INDICES[1]])
    return len(index) if name == INDICES[1] else 0


def _options(config: MoMEConfig, heads: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Return VLMo's options, and those of its registered architecture, as far as they tell of the network."""
    names = {"itm_score": "itm", "mlm_score": "mlm", "vqa_classifier": "vqa", "nlvr2": "nlvr2", "itc": "itc"}
    losses = {names.get(name, name) for name in heads}
    return {
        "config": {
            "image_size": config.image_size,
            "max_text_len": config.text_positions,
            "max_text_len_of_initckpt": config.text_positions,
            "vocab_size": config.vocab_size,
            "drop_path_rate": config.drop_path,
            "loss_names": {name: int(name in losses) for name in LOSSES},
        },
        "arch": {
            "patch_size": config.patch_size,
            "embed_dim": config.width,
            "depth": config.layers,
            "num_heads": config.heads,
            "mlp_ratio": config.intermediate / config.width,
            "vlffn_start_layer_index": config.layers - config.fusion_layers,
            "use_abs_pos_emb": config.positions == "absolute",
            "need_relative_position_embed": config.positions == "relative",
            "layer_scale_init_values": config.layer_scale,
        },
    }
