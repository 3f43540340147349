"""The processor: texts to ids with the checkpoint's tokenizer, pictures to pixels with its image settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerBase
from transformers.utils import logging
from transformers.utils.hub import cached_file

from datamodules.tokenizers import MODEL_FILE, load_tokenizer
from datamodules.transforms import View
from vle_lightning.encoders.base import PixelFacts
from vle_lightning.errors import UserError
from vle_lightning.hub.folder import CONFIG, find_folder
from vle_lightning.inference.pictures import Picture, open_picture
from vle_lightning.inference.runs import IMAGE_TASKS, run_settings

IMAGE_FILE = "preprocessor_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    *(MODEL_FILE, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"),
)
CLIP_TYPES = ("CLIPImageProcessor", "CLIPImageProcessorPil", "CLIPFeatureExtractor")


class Processor:
    """Tokenizer and image settings of one checkpoint."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        image_processor: CLIPImageProcessorPil,
        files: Iterable[Path] = (),
    ) -> None:
        """Join a tokenizer and an image processor.

        Args:
            tokenizer: with the fast backend; None for models of images alone.
            image_processor: the one on Pillow; the one on torchvision is off by one 8-bit level.
            files: that both were read from, for `save_pretrained`.
        """
        self._tokenizer, self.image_processor, self.files = tokenizer, image_processor, tuple(files)
        model_file = next((file for file in self.files if file.name == MODEL_FILE), None)
        self._pieces = SentencePieceProcessor(model_file=str(model_file)) if model_file else None

    @property
    def reads_texts(self) -> bool:
        """Say whether there is a tokenizer."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer; raises UserError where there is none."""
        if self._tokenizer is None:
            raise UserError("this model reads images alone and has no tokenizer; give a processor that has one")
        return self._tokenizer

    @classmethod
    def from_pretrained(cls, source: str | Path) -> Processor:
        """Open the processor of a checkpoint.

        Args:
            source: a folder of the published layout or of ours, a hub name, or a run folder or checkpoint file with
                config.yaml beside it. A run's pictures are prepared as in its training.

        Raises:
            UserError: there is no such checkpoint, or its tokenizer or image settings are missing or unusable.
        """
        run = run_settings(source)
        if run is not None:
            return cls.prepared(run.tokenizer, int(run.data["image_size"]), run.framing, run.pixels)
        path = Path(source) if Path(source).is_dir() else find_folder(source).path
        if _is_of_images(path):
            return cls(None, _open_image_processor(path / IMAGE_FILE), [path / IMAGE_FILE])
        tokenizer, files = _open_tokenizer(str(path), source)
        return cls(tokenizer, _open_image_processor(path / IMAGE_FILE), [*files, path / IMAGE_FILE])

    @classmethod
    def prepared(
        cls,
        tokenizer: str | None,
        image_size: int,
        framing: str = "squeeze",
        pixels: PixelFacts = PixelFacts(),  # noqa: B008 (immutable)
    ) -> Processor:
        """Make a processor that prepares pictures as the data modules do.

        Args:
            tokenizer: folder or hub name; None for models of images alone.
            image_size: of the square that a picture becomes, in pixels.
            framing: squeeze: all of the picture; centre: its central square.
            pixels: how they are normalised.

        Raises:
            UserError: the tokenizer is missing or unusable, or pictures are folded.
        """
        if framing == "fold":
            raise UserError(
                "this model was trained with data.framing fold, which pipelines do not have; predict on shards: "
                "python -m vle_lightning predict --config RUN/config.yaml --ckpt_path RUN/best.ckpt"
            )
        opened, files = (None, []) if tokenizer is None else _open_tokenizer(tokenizer, tokenizer)
        centre, square = framing == "centre", {"height": image_size, "width": image_size}
        settings = CLIPImageProcessorPil(
            size={"shortest_edge": image_size} if centre else square,
            crop_size=square,
            do_center_crop=centre,
            image_mean=list(pixels.mean),
            image_std=list(pixels.std),
        )
        return cls(opened, settings, files)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files that `from_pretrained` reads into a folder, as they came where they came from files.

        The folder's config.json is the model's; nothing is written there.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        contents = {file.name: file.read_bytes() for file in self.files}
        # transformers tells the tokenizer's class by the model's config.json unless this file names it
        settings = json.loads(contents.get(TOKENIZER_CONFIG, b"{}"))
        if self.reads_texts and "tokenizer_class" not in settings:
            settings["tokenizer_class"] = type(self.tokenizer).__name__
            contents[TOKENIZER_CONFIG] = json.dumps(settings, indent=1, sort_keys=True).encode()
        contents.setdefault(IMAGE_FILE, self.image_processor.to_json_string().encode())
        for name, content in contents.items():
            (target / name).write_bytes(content)

    def tokenize(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, max_length: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Tokenise B texts, or pairs of texts, with special tokens, padded to the longest.

        Args:
            texts: B texts; the first ones of the pairs.
            pairs: B second texts.
            max_length: in tokens; the longer text of a pair is cut. Nothing is cut by default.

        Returns:
            Ids (B, T) int64 and the mask (B, T) bool, False on padding.
        """
        encoded = self.tokenizer(
            list(texts),
            None if pairs is None else list(pairs),
            padding=True,
            truncation=max_length is not None,
            max_length=max_length,
            return_tensors="pt",
        )
        return encoded["input_ids"], encoded["attention_mask"].bool()

    def decode(self, ids: Sequence[int]) -> str:
        """Write ids as text, special tokens included, as the tokenizer that VLE was published with does.

        Since transformers 5 texts come back with other spaces (``here ?`` for ``here?``).
        """
        if self._pieces is None:
            return str(self.tokenizer.decode(ids))
        added, special = self.tokenizer.get_added_vocab(), set(self.tokenizer.all_special_tokens)
        parts: list[str] = []
        run: list[str] = []
        for token in self.tokenizer.convert_ids_to_tokens(ids):
            if added.get(token, -1) < self._pieces.get_piece_size():
                run.append(token)
                continue
            parts += [_spell(run, special, self._pieces), token]
            run = []
        text = " ".join(part for part in (*parts, _spell(run, special, self._pieces)) if part)
        return str(self.tokenizer.clean_up_tokenization(text))

    def pixels(self, images: Sequence[Picture]) -> Tensor:
        """Resize, crop and normalise B pictures: (B, 3, H, W) float32.

        Raises:
            UserError: a picture cannot be read, or the settings leave the pictures at different sizes.
        """
        pictures = [open_picture(image) for image in images]
        if self.image_processor.do_convert_rgb:  # as published; since transformers 5 what is transparent turns white
            pictures = [picture.convert("RGB") for picture in pictures]
        arrays = [self.image_processor(picture, return_tensors="pt")["pixel_values"] for picture in pictures]
        if len({array.shape for array in arrays}) > 1:
            raise UserError("these pictures come out at different sizes (no center crop); give them one by one")
        return torch.cat(arrays)

    def view(self, size: tuple[int, int]) -> View:
        """Say which part of a picture of (width, height) pixels the model sees; the view may be of another scale."""
        settings = self.image_processor
        width, height = size
        if settings.do_resize and "shortest_edge" in settings.size:
            shortest = settings.size["shortest_edge"]
            width, height = (max(shortest, int(shortest * edge / min(size))) for edge in size)
        elif settings.do_resize:
            width, height = settings.size["width"], settings.size["height"]
        if not settings.do_center_crop:
            return View(width, height, 0, 0, width, height)
        columns, rows = settings.crop_size["width"], settings.crop_size["height"]
        x0, y0 = (width - columns) // 2, (height - rows) // 2
        return View(width, height, x0, y0, x0 + columns, y0 + rows)


def _is_of_images(folder: Path) -> bool:
    """Say whether a folder is an export of a task on images alone, which comes without a tokenizer."""
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("task") in IMAGE_TASKS


def _open_tokenizer(folder: str, source: str | Path) -> tuple[PreTrainedTokenizerBase, list[Path]]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # transformers warns of a config.json that is of no model of its own
    try:
        tokenizer = load_tokenizer(folder)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{source}: {error}" if str(source) not in str(error) else str(error)) from error
    finally:
        logging.set_verbosity(verbosity)
    found = (cached_file(folder, name, _raise_exceptions_for_missing_entries=False) for name in TOKENIZER_FILES)
    return tokenizer, [Path(file) for file in found if file is not None]


def _open_image_processor(file: Path) -> CLIPImageProcessorPil:
    if not file.is_file():
        raise UserError(f"{file.parent} has no {file.name}, which says how pictures are prepared")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        kind = settings.get("image_processor_type", settings.get("feature_extractor_type"))
        if kind not in CLIP_TYPES:
            raise UserError(f"{file} is for {kind}; only CLIP's processing is known here ({', '.join(CLIP_TYPES)})")
        return CLIPImageProcessorPil.from_pretrained(file.parent)
    except (ValueError, AttributeError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} cannot be read as image settings: {error}") from error


def _spell(tokens: Sequence[str], special: set[str], pieces: SentencePieceProcessor) -> str:
    """Join tokens as transformers 4 does for DeBERTa-v2: a space before the text that ends in a special token."""
    text, after_special = "", False
    run: list[str] = []
    for token in tokens:
        if token in special:
            text += ("" if after_special else " ") + pieces.decode_pieces(run) + token
            run = []
        else:
            run.append(token)
        after_special = token in special
    return str(text + pieces.decode_pieces(run)).strip()
