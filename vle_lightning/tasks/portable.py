"""How a task starts from other weights, and how it is saved so that others can load it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from inspect import signature
from pathlib import Path
from typing import Any, Literal, Self

import lightning as L
from torch import Tensor, nn

from vle_lightning.errors import UserError
from vle_lightning.hub.architecture import read_architecture, refuse_unknown
from vle_lightning.hub.card import Model, write_card
from vle_lightning.hub.checks import check_values
from vle_lightning.hub.filling import own_tensors
from vle_lightning.hub.meter_export import write_meter
from vle_lightning.hub.own import CARRIED, Description, to_plain, write_own
from vle_lightning.hub.pretrained import Pretrained, architecture_of, fill_pretrained, read_pretrained
from vle_lightning.hub.push import push_folder
from vle_lightning.hub.run_facts import Origin, find_origin
from vle_lightning.hub.temperatures import renew_temperatures
from vle_lightning.hub.towers import fill_encoder
from vle_lightning.hub.vle import Published, write_vle
from vle_lightning.hub.vlmo_export import write_vlmo
from vle_lightning.models.backbone import Backbone
from vle_lightning.optim import fuse_saved

TASKS = __name__.rsplit(".", 1)[0]
Layout = Literal["own", "vle", "meter", "vlmo"]
FAMILIES = {"vle": "VLE", "meter": "METER", "vlmo": "VLMo"}  # whose layouts are not ours


class PortableTask(L.LightningModule):
    """An encoder with heads that can be rebuilt from what is saved of it."""

    options: Mapping[str, Any]  # of the constructor, as far as they shape the network: plain types

    def __init__(self, model: Backbone) -> None:
        """Take the encoder; the subclass makes the heads."""
        super().__init__()
        self.model = model
        self.load_report: str | None = None
        self.new_heads: tuple[str, ...] = ()  # those that the weights it started from lack: they answer at random
        self.labels: list[str] | None = None  # what the numbers of the head mean, where the weights came with names
        self.published: Published | None = None
        self.carried: Mapping[str, Tensor] = {}  # what a VLMo file held beside the weights

    def start(self, init: str | None, heads: Mapping[str, nn.Module], new: tuple[str, ...] = ()) -> Pretrained | None:
        """Fill the encoder, and those of ``heads`` (by published name) that the source holds.

        Args:
            init: a checkpoint, run folder, exported or published folder, or hub name; None starts afresh.
            heads: those whose numbers mean the same in every data set.
            new: names of the others, which start at random whatever the source holds.

        Returns:
            What was read of the source.

        Raises:
            UserError: the source is missing or does not fit.
        """
        if not init:
            return None
        pretrained = read_pretrained(init, "model.init")
        self._fill(pretrained, heads, "model.init")
        self.new_heads = (*self.new_heads, *new)
        self.load_report = f"{self.load_report}; new for this data: {', '.join(new)}" if new else self.load_report
        return pretrained

    def start_encoders(self, init: str | None, text_init: str | None = None, image_init: str | None = None) -> None:
        """Fill the encoders from published models of one modality, and add to ``load_report``.

        Args:
            init: what all of the model started from; where it is given, the others would overwrite it and are left out.
            text_init: see `fill_encoder`.
            image_init: likewise.

        Raises:
            UserError: a source is missing or does not fit.
        """
        reports = [self.load_report] if self.load_report else []
        for name, source in () if init else (("text", text_init), ("image", image_init)):
            if source:
                reports.append(str(fill_encoder(self.model, name, source)))
        self.load_report = "; ".join(reports) or None

    @classmethod
    def from_pretrained(cls, source: str | Path, image_size: int | None = None, **options: Any) -> Self:  # noqa: ANN401
        """Build the task that a source describes, and fill it; ``load_report`` says what was loaded.

        Args:
            source: an exported or published folder, its hub name, a run folder or a checkpoint of this code.
            image_size: pixels; the position table is resized to it. That of the source by default.
            options: of the constructor; architecture, answers, mode and objectives are the source's by default.

        Raises:
            UserError: the source cannot be read, or does not fit.
        """
        return cls.restore(read_pretrained(source), image_size, **options)

    @classmethod
    def restore(cls, pretrained: Pretrained, image_size: int | None = None, **options: Any) -> Self:  # noqa: ANN401
        """Build the task from what was read of a source; see `from_pretrained`."""
        description, given = pretrained.description, dict(options)
        architecture = read_architecture(given.pop("architecture", None) or architecture_of(pretrained))
        architecture = architecture.resized(image_size) if image_size else architecture
        stored = description.options if description.task == cls.task_name() else {}
        refuse_unknown(
            stored, set(signature(cls).parameters), f"{pretrained.source}: options of the task {cls.task_name()}"
        )
        check_values(cls.__init__, stored, f"{pretrained.source}: options")
        task = cls(**{"architecture": architecture, **cls.options_of(pretrained), **stored, **given})
        task._fill(pretrained, task.heads(), "source")
        task.labels = description.labels
        return task

    def _fill(self, pretrained: Pretrained, heads: Mapping[str, nn.Module], option: str) -> None:
        report = fill_pretrained(pretrained, self.model, heads, option)
        self.load_report, self.new_heads = str(report), report.new
        self.published, self.carried = pretrained.description.published, pretrained.carried

    @classmethod
    def options_of(cls, pretrained: Pretrained) -> dict[str, Any]:
        """Read options of the constructor off the heads that a source holds."""
        del pretrained
        return {}

    @classmethod
    def task_name(cls) -> str:
        """Return the module's name, which experiment files give as ``task``."""
        own = next(base for base in cls.__mro__ if base.__module__.startswith(TASKS))  # FSDP2 puts a class before it
        return own.__module__.rsplit(".", 1)[-1]

    def lacks(self, untrained: Collection[str]) -> str | None:
        """Say why the task cannot do without one of the heads that are as they were drawn and do not train.

        Args:
            untrained: names of such heads.
        """
        del untrained
        return None

    def published_heads(self) -> dict[str, nn.Module]:
        """Return the heads that the published checkpoints have, by their names there."""
        return {}

    def heads(self) -> dict[str, nn.Module]:
        """Return all heads, those without a published counterpart by a name of ours."""
        return self.published_heads()

    def describe(self) -> Description:
        """Say in plain types what rebuilds the task around its weights."""
        places = {id(module): name for name, module in self.named_modules()}
        heads = {name: places[id(head)] for name, head in self.heads().items()}
        options = {**self.options, "blind": self.model.blind}
        untrained = [name for name in heads if name not in self.trained_heads()]
        return Description(self.task_name(), self.model.config, options, self.labels, heads, self.published, untrained)

    def save_pretrained(self, folder: str | Path, layout: Layout = "own") -> None:
        """Write config.json and model.safetensors, or for METER's layout meter.ckpt, for VLMo's vlmo.pt.

        Args:
            folder: made if need be; files of these names are overwritten.
            layout: ours; ``vle``, which the authors' own ``from_pretrained`` reads; ``meter`` and ``vlmo``, which the
                ``load_path`` of METER and VLMo reads. The published ones have no place for heads without a published
                counterpart. VLMo's leaves out heads that the source lacked and that do not train.

        Raises:
            UserError: the model has no form in the published layout: a part of it, or a masked modality.
        """
        if layout != "own" and self.model.blind != "none":
            name, blind = FAMILIES[layout], self.model.blind
            raise UserError(f"a model with blind={blind} has no form in {name}'s layout; export it in ours")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if layout == "vle":
            write_vle(folder, self.model, self.published_heads(), self.published, self.labels)
        elif layout == "meter":
            write_meter(folder, self.model, self.heads())
        elif layout == "vlmo":
            write_vlmo(folder, self.model, self.trained_heads(), self.carried)
        else:
            beside = {CARRIED + key: value for key, value in self.carried.items()}
            write_own(folder, self.describe(), {**own_tensors({"": self}).tensors, **beside})

    def trained_heads(self) -> dict[str, nn.Module]:
        """Return the heads without those that are as they were drawn: the source lacked them, and they do not train."""
        rests = {name: not any(p.requires_grad for p in head.parameters()) for name, head in self.heads().items()}
        return {name: head for name, head in self.heads().items() if not (rests[name] and name in self.new_heads)}

    def card(self, name: str, layout: Layout, origin: Origin, license: str | None, tokenizer: bool) -> Model:
        """Say what the model card needs.

        Args:
            name: ``OWNER/NAME``, or the folder.
            layout: of the folder.
            origin: where the weights come from.
            license: by the hub's name; None where nobody has given one.
            tokenizer: whether the folder holds tokenizer and image settings.
        """
        count = sum(tensor.numel() for tensor in own_tensors({"": self}).tensors.values())
        heads = [name for name in self.trained_heads() if layout == "own" or name in self.published_heads()]
        answers, kind = self.options.get("answers"), self.model.config.kind
        return Model(name, self.task_name(), kind, layout, count, tuple(heads), answers, tokenizer, license, origin)

    def push_to_hub(
        self,
        repository: str,
        layout: Layout = "own",
        private: bool = False,
        source: str | Path | None = None,
        license: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes, and a model card, to ``OWNER/NAME`` on the hub; return its address.

        Args:
            repository: to make or to fill.
            layout: see `save_pretrained`.
            private: of a new repository.
            source: run folder or checkpoint that the weights come from; its scores go into the card.
            license: of the weights, by the hub's name, such as apache-2.0.

        Raises:
            UserError: the hub cannot be reached or refuses.
        """
        origin = Origin() if source is None else find_origin(source)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, layout)
            write_card(Path(folder), self.card(repository, layout, origin, license, tokenizer=False))
            return push_folder(repository, Path(folder), private)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Store what rebuilds the task, in plain types: such checkpoints open with ``weights_only=True``."""
        checkpoint.update(to_plain(self.describe()))
        if self.carried:
            checkpoint[CARRIED.rstrip(".")] = dict(self.carried)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up what was carried along, untrained heads, and checkpoints of earlier versions as those of today."""
        renew_temperatures(checkpoint)
        fuse_saved(checkpoint)
        self.carried = checkpoint.get(CARRIED.rstrip("."), self.carried)
        self.new_heads = tuple(checkpoint.get("untrained", ()))
