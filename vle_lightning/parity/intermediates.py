"""Values inside the network: which of our modules computes what the authors' submodules compute.

The tables are tried in order; the first pattern that matches the whole published name (without ``vle.`` before and
``@callN`` behind) decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import NamedTuple

from torch import Tensor, nn

from vle_lightning.parity.checks import LARGE, LARGE_INTERMEDIATE, OUTPUT, Check, compare, failure, no_counterpart


class Side(Enum):
    """What the rows of a value are."""

    TEXT = "text"  # tokens; padded ones are not compared
    IMAGE = "image"  # patches, before regions are appended
    FUSED_IMAGE = "fused image"  # patches and regions
    PAIR = "pair"  # one vector a pair
    TABLE = "table"  # the same for the whole batch


class Counterpart(NamedTuple):
    """Where a value is found here."""

    module: str  # in DualStream; \1 is the layer's number
    side: Side
    taken: str = "output"  # or the module's "input"
    every_second: bool = False  # the authors call theirs twice a pass, and the first time for nothing
    sequence_first: bool = False  # theirs is (N, B, D)
    batched: bool = False  # two calls of theirs are one here, one behind the other along the rows


class Tables(NamedTuple):
    """Of one family of models: names of the authors' submodules, and where their values are found here."""

    counterparts: dict[str, Counterpart]
    without: dict[str, str]  # the reason why nothing is found


COUNTERPARTS: dict[str, Counterpart] = {
    r"text_model\.embeddings": Counterpart("text.model.embeddings", Side.TEXT),
    r"text_model\.encoder\.layer\.(\d+)": Counterpart(r"text.model.encoder.layer.\1", Side.TEXT),
    r"text_model\.encoder\.LayerNorm": Counterpart("text.model.encoder.LayerNorm", Side.TABLE),
    r"text_model(?:\.encoder)?": Counterpart("text.model", Side.TEXT),
    r"text_projection_layer": Counterpart("text_projection", Side.TEXT),
    r"vision_model\.vision_model\.embeddings": Counterpart("image.pre_norm", Side.IMAGE, taken="input"),
    r"vision_model\.vision_model\.pre_layrnorm": Counterpart("image.pre_norm", Side.IMAGE),
    r"vision_model\.vision_model\.encoder\.layers\.(\d+)": Counterpart(r"image.encoder.layers.\1", Side.IMAGE),
    r"vision_model\.vision_model\.post_layernorm": Counterpart("image.post_norm", Side.IMAGE, every_second=True),
    r"image_projection_layer": Counterpart("image_projection", Side.IMAGE),
    r"cross_modal_text_layers\.(\d+)": Counterpart(r"fusion.text.\1", Side.TEXT),
    r"cross_modal_image_layers\.(\d+)": Counterpart(r"fusion.image.\1", Side.FUSED_IMAGE),
    r"cross_modal_text_pooler": Counterpart("text_pooler", Side.PAIR),
    r"cross_modal_image_pooler": Counterpart("image_pooler", Side.PAIR),
}
NO_COUNTERPART: dict[str, str] = {
    r"vision_model\.vision_model\.post_layernorm": "the authors' pooled CLS, which nothing reads",
    r"vision_model(?:\.vision_model(?:\.encoder)?)?": "the states of the last layer, which is compared itself",
    r"token_type_embeddings": "streams without tagged objects add one row of the table, without a look-up",
    r"(?:text|vision)_model\..+": "a part of a layer or of the embeddings; the whole is compared",
    r"cross_modal_(?:text|image)_(?:layers\.\d+|pooler)\..+": "a part of a layer; the whole layer is compared",
    r"(?:itm_score|mlm_score|pbc_classifier|vqa_classifier|vcr_\w+)(?:\..+)?": "a head; its logits are compared",
}


VLE_TABLES = Tables(COUNTERPARTS, NO_COUNTERPART)
METER_TABLES = Tables(
    {
        r"text_transformer\.embeddings": Counterpart("text.model.embeddings", Side.TEXT),
        r"text_transformer\.encoder\.layer\.(\d+)": Counterpart(r"text.model.encoder.layer.\1", Side.TEXT),
        r"cross_modal_text_transform": Counterpart("text_projection", Side.TEXT),
        r"vit_model(?:\.visual\.ln_post)?": Counterpart("image.post_norm", Side.IMAGE),
        r"vit_model\.visual\.conv1": Counterpart("image.patch_embedding", Side.IMAGE),
        r"vit_model\.visual\.ln_pre": Counterpart("image.pre_norm", Side.IMAGE),
        r"vit_model\.visual\.transformer\.resblocks\.(\d+)": Counterpart(
            r"image.encoder.layers.\1", Side.IMAGE, sequence_first=True
        ),
        r"cross_modal_image_transform": Counterpart("image_projection", Side.IMAGE),
        r"cross_modal_text_layers\.(\d+)": Counterpart(r"fusion.text.\1", Side.TEXT),
        r"cross_modal_image_layers\.(\d+)": Counterpart(r"fusion.image.\1", Side.FUSED_IMAGE),
        r"cross_modal_text_pooler": Counterpart("text_pooler", Side.PAIR),
        r"cross_modal_image_pooler": Counterpart("image_pooler", Side.PAIR),
    },
    {
        r"token_type_embeddings": "a row of the table is added to each stream, without a look-up",
        r"(?:text_transformer|vit_model)\..+": "a part of a layer or of the embeddings; the whole is compared",
        r"cross_modal_(?:text|image)_(?:layers\.\d+|pooler)\..+": "a part of a layer; the whole layer is compared",
        r"(?:itm_score|mlm_score|\w+_classifier|rank_output)(?:\..+)?": "a head; its logits are compared",
    },
)


VLMO_TABLES = Tables(
    {
        r"text_embeddings": Counterpart("text", Side.IMAGE),  # padded rows are as all others
        r"transformer\.patch_embed": Counterpart("image.patch_embedding", Side.IMAGE),
        r"transformer\.blocks\.(\d+)": Counterpart(r"blocks.\1", Side.IMAGE, batched=True),
        r"transformer\.norm": Counterpart("norm", Side.IMAGE, batched=True),
        r"pooler": Counterpart("pooler", Side.PAIR),
    },
    {
        r"token_type_embeddings": "a row of the table is added to each stream, without a look-up",
        r"itc_\w+_proj(?:\..+)?": "a head; the unit vectors behind it are compared",
        r"transformer\..+": "a part of a block; the whole is compared",
        r"(?:itm_score|mlm_score|\w+_classifier)(?:\..+)?": "a head; its logits are compared",
    },
)


class Place(NamedTuple):
    """One value of the authors, found here."""

    module: str
    side: Side
    taken: str
    call: int  # of the authors' submodule, from 1; calls for nothing are not counted
    sequence_first: bool = False
    batched: bool = False


def locate(published: str, tables: Tables = VLE_TABLES) -> Place | str | None:
    """Say where a ``mid.*`` is found here, or why nowhere; None where neither table knows it."""
    name, _, number = published.removeprefix("vle.").partition("@call")
    call = int(number or 1)
    for pattern, counterpart in tables.counterparts.items():
        match = re.fullmatch(pattern, name)
        if match and not (counterpart.every_second and call % 2):
            nth = call // 2 if counterpart.every_second else call
            module = match.expand(counterpart.module)
            shape = (counterpart.sequence_first, counterpart.batched)
            return Place(module, counterpart.side, counterpart.taken, nth, *shape)
    return next((reason for pattern, reason in tables.without.items() if re.fullmatch(pattern, name)), None)


Recording = Mapping[tuple[str, str], list[Tensor]]  # (module, "input" or "output") -> its calls, in order


@contextmanager
def record(encoder: nn.Module, published: list[str], tables: Tables = VLE_TABLES) -> Iterator[Recording]:
    """Record, call by call, what the modules behind the ``published`` names take and give."""
    places = [place for name in published if isinstance(place := locate(name, tables), Place)]
    calls: dict[tuple[str, str], list[Tensor]] = {(place.module, place.taken): [] for place in places}
    modules = dict(encoder.named_modules())
    handles = [
        modules[module].register_forward_hook(_keep(calls[module, taken], taken))
        for module, taken in calls
        if module in modules
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _keep(calls: list[Tensor], taken: str) -> Callable[[nn.Module, object, object], None]:
    def hook(module: nn.Module, inputs: object, output: object) -> None:
        del module
        value = inputs if taken == "input" else output
        first = value if isinstance(value, Tensor) else value[0]  # type: ignore[index]
        calls.append(first.detach())

    return hook


class Pass(NamedTuple):
    """How our one forward pass answers for the authors' calls."""

    mask: Tensor  # (B, T) bool, real tokens; (B, C, T) where C choices ran here at once and there one by one

    def find(self, calls: list[Tensor], place: Place, reference: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return our value for a call of theirs, and which rows to compare.

        Raises:
            IndexError: our module did not run as often.
        """
        mask, number = self.mask, place.call - 1
        if place.batched and len(calls[0]) > len(reference):
            value = calls[0].chunk(2)[number]
        elif mask.dim() == 2:
            value = calls[number]
        elif place.side in (Side.IMAGE, Side.TABLE):  # encoded once for all choices
            value = calls[0]
        else:
            value = calls[0].unflatten(0, mask.shape[:2])[:, number]
            mask = mask[:, number]
            if value.dim() == 3:  # padded to the longest choice here
                value, mask = value[:, : reference.shape[1]], mask[:, : reference.shape[1]]
        return value, mask if place.side is Side.TEXT else None


def check_intermediate(
    published: str, reference: Tensor, recording: Recording, run: Pass, tables: Tables = VLE_TABLES
) -> Check:
    """Compare one ``mid.*`` with what our pass recorded.

    Args:
        published: the authors' name.
        reference: their value.
        recording: of our pass.
        run: how the pass is laid out.
        tables: of the family of models.
    """
    tensor, place = f"mid.{published}", locate(published, tables)
    if place is None:
        return failure(tensor, "unknown: it stands in neither table of vle_lightning/parity/intermediates.py")
    if isinstance(place, str):
        return no_counterpart(tensor, place)
    try:
        ours, rows = run.find(recording[place.module, place.taken], place, reference)
    except IndexError:
        return failure(tensor, f"missing: {place.module} did not run so often here, or is not there at all")
    ours = ours.transpose(0, 1) if place.sequence_first else ours
    bound = LARGE_INTERMEDIATE if reference.abs().max() > LARGE else OUTPUT
    if place.batched and ours.shape[1] == 1 < reference.shape[1]:  # the last block computes what the contrast reads
        return compare(tensor, ours, reference[:, :1], bound)._replace(note="first state only: no other is read")
    return compare(tensor, ours, reference, bound, rows)
