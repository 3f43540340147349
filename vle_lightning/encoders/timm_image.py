"""Any vision transformer of timm, such as Swin, DeiT, BEiT, SigLIP, DINOv2 or DINOv3."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from vle_lightning.encoders.base import ImageEncoder, ImageEncoderConfig, PatchMask, PixelFacts, blackened
from vle_lightning.encoders.positions import resize_bias_table
from vle_lightning.errors import UserError
from vle_lightning.streams import ImageLayout, Stream

Pooling = Literal["first", "mean"]
OPTION = "model.architecture.image"
# what timm raises where options cannot be
BROKEN = (TypeError, AssertionError, ValueError, RuntimeError, LookupError, ArithmeticError)
# arguments of timm's that are fields here, or that would load weights, or make another module than all tokens' states
OURS = {
    *("model_name", "img_size", "drop_path_rate", "num_classes", "global_pool", "in_chans", "features_only"),
    *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"),
    *("dynamic_img_size", "scriptable", "exportable", "no_jit", "device", "dtype"),
}


@dataclass(frozen=True)
class TimmImageConfig(ImageEncoderConfig):
    """A vision transformer by timm's name, its sizes those of the name unless ``options`` say otherwise.

    Attributes:
        name: in timm, such as swin_base_patch4_window7_224, vit_base_patch16_siglip_224, vit_base_patch14_dinov2.
        image_size: pixels. Swin's window grows with it: it is the grid of the last stage, pixels / 32 (METER, arXiv
            2111.02387), or as many times that as the name has (swinv2_*_window16_256: twice). ``options`` may fix it.
        drop_path: stochastic depth at the last layer, rising from 0 at the first.
        pooling: what stands for an image: the first of its fused states, or their mean; None: the first if that is a
            class token.
        mean: of the pixels; None: as timm gives for this name.
        std: likewise.
        options: further arguments of the model, such as embed_dim, depth, num_heads, window_size.
    """

    name: str = "vit_base_patch16_224"
    drop_path: float = 0.0
    pooling: Pooling | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> TimmImageEncoder:
        """Make the module, its weights drawn at random.

        Raises:
            UserError: timm has no such transformer, or it takes neither these pictures nor these options.
        """
        return TimmImageEncoder(self)


class TimmImageEncoder(ImageEncoder):
    """A vision transformer of timm without its head: all tokens of its last layer, after its last norm.

    Of a transformer in stages, such as Swin, these are the tokens of the last stage; a patch is what one of them sees.
    """

    config: TimmImageConfig

    def __init__(self, config: TimmImageConfig) -> None:
        super().__init__()
        self.config = config
        self.model = create_model(config)
        self._stages = not hasattr(self.model, "blocks")
        self.width = int(self.model.num_features)
        prefix = 0 if self._stages else int(self.model.num_prefix_tokens)
        first = self.model.patch_embed.patch_size
        side = int(first[0] if isinstance(first, tuple | list) else first)
        self._merged = 2 ** (len(self.model.layers) - 1) if self._stages else 1  # input patches a side of an output one
        self.layout = ImageLayout(prefix, side * self._merged)
        if config.image_size % self.layout.patch_size:
            raise UserError(
                f"{OPTION}: pictures of {config.image_size} pixels are no multiple of the patches of {config.name}, "
                f"{self.layout.patch_size}"
            )
        self._window = config.options.get("window_size")  # None: it grows with the pictures
        self._grids = self._grids_of_a_window() if self._stages else 1
        if self._stages and self._window is None:
            self.model = self.twin(config.name)
        self.hidden_width = int(self.model.embed_dim)
        self.mean_pooled = config.pooling == "mean" or (config.pooling is None and not prefix)
        known = self.model.pretrained_cfg
        mean, std = (config.mean or known["mean"], config.std or known["std"])
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise UserError(
                f"{OPTION}: mean and std are {list(mean)} and {list(std)}; give three numbers each, std > 0"
            )
        self.pixels = PixelFacts(tuple(mean), tuple(std))

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer blocks, first to last, those of all stages in a row."""
        if not self._stages:
            blocks = self.model.blocks
            return blocks if isinstance(blocks, nn.ModuleList) else nn.ModuleList(blocks)
        return nn.ModuleList(block for stage in self.model.layers for block in stage.blocks)

    def twin(self, name: str, **source: Any) -> Any:  # noqa: ANN401 (any model of timm)
        """Make timm's module again, under a name of the same architecture; ``source`` as in `create_model`."""
        windows = {} if "window_size" in self.config.options else self._windows(self.config.image_size)
        return create_model(replace(self.config, name=name), **windows, **source)

    def resize(self, image_size: int) -> None:
        """Make the encoder one of square pictures of so many pixels.

        Position tables are interpolated. Swin's window grows with the picture, its bias tables with the window,
        bicubically, as METER resizes them.

        Raises:
            UserError: the model cannot take pictures of this size.
        """
        if image_size % self.layout.patch_size:
            raise UserError(f"pictures of {image_size} pixels are no multiple of the patches, {self.layout.patch_size}")
        tables = {
            name: parameter.detach().clone()
            for name, parameter in self.model.named_parameters()
            if name.endswith("relative_position_bias_table") and self._stages
        }
        trains = {name: parameter.requires_grad for name, parameter in self.model.named_parameters()}
        try:
            self.model.set_input_size(img_size=image_size, **self._windows(image_size))
        except (AssertionError, ValueError, RuntimeError) as error:
            raise UserError(f"{OPTION}: this model cannot take pictures of {image_size} pixels: {error}") from error
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(trains[name])
        self.config = replace(self.config, image_size=image_size)
        with torch.no_grad():
            for name, table in tables.items():  # timm would place offsets geometrically
                place = self.model.get_parameter(name)
                place.copy_(resize_bias_table(table, math.isqrt(len(place))))

    def forward(self, pixel_values: Tensor, hidden: PatchMask | None = None) -> Stream:
        """Encode B images (B, 3, H, W), normalised; states (B, prefix + P, D)."""
        height, width = pixel_values.shape[-2:]
        if (height, width) != (self.config.image_size, self.config.image_size):
            raise UserError(
                f"pictures of {height} x {width} pixels: this image encoder was made for {self.config.image_size} x "
                f"{self.config.image_size} and takes no others; set data.image_size, or the pipeline's, to that"
            )
        if hidden is not None and hidden.vector is None:
            pixel_values, hidden = blackened(pixel_values, hidden.patches, self.layout, self.pixels), None
        handle = None if hidden is None else self.model.patch_embed.register_forward_hook(self._hide(hidden))
        try:
            states = self.model.forward_features(pixel_values)
        finally:
            if handle is not None:
                handle.remove()
        if self._stages:
            states = states.flatten(1, 2)
        return Stream(states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))

    def _windows(self, image_size: int) -> dict[str, Any]:
        """Return the window of Swin, as timm's argument, for pictures of a size; other models have none."""
        side = image_size // self.layout.patch_size * self._grids
        return {"window_size": self._window or (side, side)} if self._stages else {}

    def _grids_of_a_window(self) -> int:
        """Count how many grids of the last stage lie along a window, at the picture size of the name."""
        window, pixels = int(self.model.layers[0].blocks[0].window_size[0]), self.model.pretrained_cfg["input_size"][-1]
        return max(1, round(window * self.layout.patch_size / int(pixels)))

    def _hide(self, hidden: PatchMask) -> Callable[[nn.Module, object, Tensor], Tensor]:
        vector = hidden.vector
        assert vector is not None

        def put(module: nn.Module, inputs: object, patches: Tensor) -> Tensor:
            side = self._merged
            if patches.dim() == 4:  # (B, rows, columns, D)
                rows, columns = patches.shape[1] // side, patches.shape[2] // side
                chosen = hidden.patches.view(-1, rows, columns)
                chosen = chosen.repeat_interleave(side, 1).repeat_interleave(side, 2)
                spread = vector.to(patches.dtype)
                return torch.where(chosen[..., None], spread if spread.dim() == 1 else spread[:, None], patches)
            return torch.where(hidden.patches[..., None], vector.to(patches.dtype), patches)

        return put


def create_model(config: TimmImageConfig, **source: Any) -> Any:  # noqa: ANN401 (any model of timm)
    """Make timm's module; ``source`` is what timm's ``create_model`` says of pre-trained weights, none by default.

    Raises:
        UserError: timm has no such transformer, or it takes neither these pictures nor these options.
    """
    if not timm.is_model(config.name):
        close = timm.list_models(f"*{config.name.split('_')[0]}*")[:3]
        hint = f", such as {', '.join(close)}" if close else ""
        raise UserError(f"{OPTION}.name is {config.name!r}: timm has no such model; see timm.list_models(){hint}")
    if taken := sorted(OURS & config.options.keys()):
        raise UserError(
            f"{OPTION}.options holds {', '.join(taken)}, which no option sets: picture size and drop path have fields "
            "of their own, and weights come by model.image_init"
        )
    settings: dict[str, Any] = {"num_classes": 0, "drop_path_rate": config.drop_path, **config.options, **source}
    try:
        model = timm.create_model(config.name, global_pool="", img_size=config.image_size, **settings)
    except BROKEN as error:
        if "img_size" in str(error):
            raise UserError(
                f"{OPTION}.name: {config.name} is not a vision transformer that can be used here"
            ) from error
        told = str(error) or type(error).__name__
        raise UserError(f"{OPTION}: timm cannot build {config.name} with these options: {told}") from error
    stages: Any = getattr(model, "layers", ())
    in_stages = isinstance(stages, nn.Sequential) and all(hasattr(stage, "blocks") for stage in stages)
    is_plain = hasattr(model, "blocks") and hasattr(model, "num_prefix_tokens")
    cut: Any = getattr(model, "patch_embed", None)  # by patches alone: one behind a CNN does not say what a patch sees
    cuts_alone = hasattr(cut, "grid_size") and not hasattr(cut, "backbone")
    if not (is_plain or in_stages) or not hasattr(model, "set_input_size") or not cuts_alone:
        raise UserError(f"{OPTION}.name: {config.name} is not a vision transformer that can be used here")
    parts: Any = stages if in_stages else [model]
    if not all(len(part.blocks) for part in parts):
        raise UserError(f"{OPTION}.options: {config.name} has no layer with these; give a depth of at least 1")
    return model
