"""What all datamodules share: options, checks, splits, loaders, and where a run resumes."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import lightning as L
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from datamodules.cache import CacheOptions
from datamodules.dataset import BatchBuilder, MicroBatchDataset
from datamodules.feeding import Feeder, normalise_bytes
from datamodules.lengths import FewLengths
from datamodules.loader import PREFETCHED, BatchLoader, MicroBatchLoader, epoch_is_over
from datamodules.records import Kind
from datamodules.sampler import WINDOW, EvalSampler, MicroBatchSampler, TrainOrder, accumulation
from datamodules.shards import OPEN_SHARDS, ShardFolder, image_numbers
from datamodules.starvation import check_limits, check_open_files, check_shared_memory, check_workers
from datamodules.store import is_remote, open_store
from datamodules.tokenizers import check_folder, load_tokenizer
from datamodules.transforms import MEAN, STD, Framing, ImageTransform
from vle_lightning.batch import Batch, Colours, DataFacts

MOST_PASSES = 1000  # over a source in an epoch; more is a slip
SampleT = TypeVar("SampleT")
BatchT = TypeVar("BatchT", bound=Batch)


class VisionLanguageDataModule(L.LightningDataModule, ABC, Generic[SampleT, BatchT]):
    """Streams the shard folders ROOT/SOURCE/SPLIT. A subclass says what its samples and batches are."""

    task: ClassVar[str]
    kind: ClassVar[Kind]  # which samples of a record the task reads
    reads_texts: ClassVar[bool] = True  # False: nothing is tokenised, and there is no tokenizer
    reads_images: ClassVar[bool] = True  # False: the options of pictures mean nothing

    def __init__(
        self,
        root: str,
        sources: dict[str, float],
        tokenizer: str | None = None,
        batch_size: int = 32,
        global_batch_size: int = 32,
        image_size: int = 224,
        max_text_length: int = 50,
        text_multiple: int = 1,
        workers: int = 2,
        seed: int = 0,
        train_split: str | list[str] = "train",
        val_split: str = "val",
        test_split: str | None = None,
        predict_split: str | None = None,
        val_sources: list[str] | None = None,
        limit_val: int | None = None,
        shuffle_shards: int = WINDOW,
        cache_dir: str = "~/.cache/vle_lightning/shards",
        cache_gb: float = 100.0,
        crop_scale: tuple[float, float] = (1.0, 1.0),
        flip: bool = False,
        augment_ops: int = 0,
        augment_magnitude: int = 5,
        framing: Framing = "squeeze",
        pixel_mean: Colours = MEAN,
        pixel_std: Colours = STD,
    ) -> None:
        """Keep the options; nothing is read before `setup`.

        Args:
            root: folder of the shards; or its address: http(s), or s3 and gs with s3fs and gcsfs.
            sources: passes per epoch over each folder of ``root``.
            tokenizer: folder or hub name; tasks without texts need none.
            batch_size: samples of a micro-batch, on one device; fewer where a step has not so many for each device.
            global_batch_size: samples of an optimiser step.
            image_size: height and width that the model sees, in pixels.
            max_text_length: in tokens, special ones included.
            text_multiple: the texts of a micro-batch are padded to a multiple of so many tokens, at most to
                ``max_text_length``. With 8, compiled layers and CUDA graphs meet few lengths.
            workers: loading processes of a device; 0 loads in the training process.
            seed: of order, crops, masks and all other draws.
            train_split: folder name of the training split, or several: each source is read in all of them. What is
                trained on is never evaluated.
            val_split: folder name of the split that selects checkpoints.
            test_split: folder name of the split that is read once, at the end.
            predict_split: folder name of the split that predictions are made for; ``val_split`` by default.
            val_sources: sources that validation, test and prediction read; all by default.
            limit_val: at most so many validation samples, the same ones each time.
            shuffle_shards: how many shards of a source are open at a time; their samples are shuffled together.
            cache_dir: folder for copies of remote shards, shared by all processes of a machine.
            cache_gb: at most so many GB (1e9 bytes) of them are kept; those used longest ago go first.
            crop_scale: bounds of the share of a picture that a random training crop keeps; (1, 1) is no crop.
            flip: mirror half of the training pictures whose text says neither left nor right.
            augment_ops: how many photometric operations (RandAugment without those that change colours) a training
                picture goes through.
            augment_magnitude: of the operations, 0 to 10.
            framing: squeeze a picture that is no square into one, take its central square (centre), or cut a wide one
                into parts of equal width, laid below each other (fold), in training and evaluation alike.
            pixel_mean: of red, green and blue in [0, 1], which the image encoder was trained with; CLIP's by default.
            pixel_std: their standard deviations likewise.
        """
        super().__init__()
        self.root, self.sources, self.tokenizer_name = str(root), dict(sources), tokenizer
        self.cache_dir, self.cache_gb = Path(cache_dir).expanduser(), cache_gb
        self.batch_size, self.global_batch_size = batch_size, global_batch_size
        self.image_size, self.max_text_length, self.workers, self.seed = (
            image_size,
            max_text_length,
            workers,
            seed,
        )
        self.train_splits = (train_split,) if isinstance(train_split, str) else tuple(dict.fromkeys(train_split))
        self.text_multiple = text_multiple
        self.val_split, self.test_split = val_split, test_split
        self.predict_split = predict_split or val_split
        self.val_sources, self.limit_val = val_sources or list(self.sources), limit_val
        self.shuffle_shards = shuffle_shards
        self.framing, self.pixels = framing, (pixel_mean, pixel_std)
        self.training_view = (crop_scale, flip, augment_ops, augment_magnitude, framing, *self.pixels)
        self._folders: dict[str, list[ShardFolder]] = {}  # by split, in the order of the sources
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._train_loader: MicroBatchLoader[BatchT] | None = None
        self._order: TrainOrder | None = None
        self._start = {"step": 0}
        self._feeder = Feeder()

    @abstractmethod
    def builder(self) -> BatchBuilder[SampleT, BatchT]:
        """Make what turns records into batches."""

    def eval_builder(self) -> BatchBuilder[SampleT, BatchT]:
        """Make what turns records into batches that are evaluated; the training one by default."""
        return self.builder()

    def eval_folders(self, split: str) -> Sequence[ShardFolder]:
        """Return the opened folders of a split, with what evaluation counts as a sample."""
        return self._folders[split]

    def check(self) -> None:
        """Check the options that need no data, before any is read.

        Raises:
            FileNotFoundError: ``root`` or the tokenizer's folder is missing; says what to run.
            ValueError: an option is out of range; names the key.
        """
        if not is_remote(self.root) and not Path(self.root).is_dir():
            raise FileNotFoundError(
                f"data.root: folder {self.root} not found; make data-toy makes the embedded world's, "
                "python -m datamodules.prepare --help says how to convert a data set"
            )
        if self.reads_texts:
            check_folder(self.tokenizer_folder)
        if not self.sources:
            raise ValueError(f"data.sources is empty; name folders of {self.root}, such as {{coco: 1.0}}")
        check_splits(self.train_splits, {"val_split": self.val_split, "test_split": self.test_split})
        if unknown := sorted(set(self.val_sources) - set(self.sources)):
            raise ValueError(f"data.val_sources: {', '.join(unknown)} not in data.sources ({', '.join(self.sources)})")
        for name, weight in self.sources.items():
            if not 0 < weight <= MOST_PASSES:
                raise ValueError(
                    f"data.sources.{name} is {weight}; give its passes per epoch, above 0 and at most {MOST_PASSES}, "
                    "or leave it out"
                )
        least = {
            "batch_size": 1,
            "global_batch_size": 1,
            "max_text_length": 4,
            "text_multiple": 1,
            "workers": 0,
            "seed": 0,
            "limit_val": 1,
            "shuffle_shards": 1,
            "cache_gb": 1,
        }
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"data.{name} is {value}; it must be at least {bound}")
        check_workers(self.workers)
        if self.reads_images:
            ImageTransform(self.image_size, *self.training_view)

    def setup(self, stage: str) -> None:
        """Open the tokenizer and the splits of a stage (fit, validate, test or predict)."""
        self.check()
        if self.reads_texts:
            _ = self.tokenizer  # opened before any worker needs it
        splits: dict[str, list[str | None]] = {
            "fit": [*self.train_splits, self.val_split, self.test_split],  # what is missing is told before, not after
            "validate": [self.val_split],
            "test": [self.test_split],
            "predict": [self.predict_split],
        }
        for split in splits[stage]:
            if split is not None and split not in self._folders:
                self._folders[split] = [self._open(split, source) for source in self._sources_of(split)]

    @property
    def tokenizer_folder(self) -> str:
        """Return the folder or hub name of the tokenizer; raises ValueError where the experiment names none."""
        if self.tokenizer_name is None:
            raise ValueError("data.tokenizer is not set; name a folder, such as data/toy/tokenizer, or a hub name")
        return self.tokenizer_name

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer, opened at need."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.tokenizer_folder)
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """Return the number of token ids."""
        return len(self.tokenizer)

    def facts(self) -> DataFacts:
        """Return what the task has to agree with."""
        facts = DataFacts()
        if self.reads_texts:
            padding: int | None = self.tokenizer.pad_token_id
            facts = facts._replace(vocabulary=self.vocab_size, padding=padding, text_length=self.max_text_length)
        if self.reads_images:
            facts = facts._replace(image_size=self.image_size, pixels=self.pixels)
        return facts

    def labels(self) -> list[str] | None:
        """Return what the numbers of the task's head mean; None where they have no names."""
        return None

    def folders(self) -> list[ShardFolder]:
        """Return all shard folders that were opened."""
        return [folder for folders in self._folders.values() for folder in folders]

    def manifests(self) -> list[dict[str, str]]:
        """Return path and SHA-256 of the manifest of every folder that was opened, for run.json."""
        return [{"path": f"{folder.name}/manifest.json", "sha256": folder.digest} for folder in self.folders()]

    def references(self) -> dict[str, float]:
        """Return the ceilings and floors of this task that came with the data.

        Returns:
            {} where there are none, or where they are of other sources than those that validation reads.
        """
        path = Path(self.root).parent / "references.json"
        if not path.is_file():
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
        sources = content.get("sources", {}).get(self.task)
        if sources is not None and sorted(sources) != sorted(self.val_sources):
            return {}
        values: dict[str, float] = content.get(self.task, {})
        return values

    def accumulation(self, devices: int) -> int:
        """Return how many micro-batches each of ``devices`` devices goes through per optimiser step.

        Raises:
            ValueError: the global batch is not a multiple; names the nearest possible sizes.
        """
        return accumulation(self.global_batch_size, self.batch_size, devices)

    def train_dataloader(self) -> MicroBatchLoader[BatchT]:
        """Return this rank's micro-batches, from where the run stopped.

        Raises:
            ValueError: the trainer's limits do not fit the stream's steps.
            LoaderError: the machine has not the shared memory or the open files that the workers need.
        """
        folders = self._train_folders()
        sampler = MicroBatchSampler(self.order(), self.batch_size, *self._place())
        if self.trainer:
            check_limits(self.trainer, len(sampler), sampler.per_step)
        evaluated = sum(map(len, self.eval_folders(self.val_split))) if self.val_split in self._folders else 0
        self._check_machine(folders, sampler.batch_size, len(sampler), -(-evaluated // self.batch_size))
        transform = ImageTransform(self.image_size, *self.training_view, as_bytes=self.sends_bytes)
        dataset = self._in_few_lengths(self.training_data(folders, transform))
        is_over = partial(epoch_is_over, self.trainer)
        looks_ahead = bool(self.trainer and getattr(self.trainer.lightning_module, "looks_ahead", False))
        self._train_loader = MicroBatchLoader(dataset, sampler, self.workers, is_over, looks_ahead)
        self._train_loader.load_state_dict(self._start)
        return self._train_loader

    def training_data(
        self, folders: Sequence[ShardFolder], transform: ImageTransform
    ) -> MicroBatchDataset[SampleT, BatchT]:
        """Make what reads the micro-batches of the training split."""
        return MicroBatchDataset(folders, transform, self.builder(), self.seed)

    def _in_few_lengths(self, dataset: Dataset[BatchT]) -> Dataset[BatchT]:
        if self.text_multiple == 1 or not self.reads_texts:
            return dataset
        return FewLengths(dataset, self.text_multiple, self.max_text_length, int(self.tokenizer.pad_token_id or 0))

    @property
    def pictures_per_sample(self) -> float:
        """Return how many pictures a sample of a batch has, on average."""
        return 2 if self.builder().paired else 1

    def order(self) -> TrainOrder:
        """Plan the training order of the opened shards, once.

        Raises:
            ValueError: an epoch has less than one step, or a source's weight is not positive.
        """
        if self._order is None:
            self._order = self._plan_order(self._train_folders())
        return self._order

    def samples_by_source(self, steps: int) -> dict[str, int]:
        """Return how many samples of each source the first ``steps`` steps of the run take."""
        named = zip(self._parts(), self.order().samples_by_source(steps), strict=True)
        if len(self.train_splits) == 1:
            return {source: samples for (_, source), samples in named}
        return {f"{source}/{split}": samples for (split, source), samples in named}

    def _parts(self) -> list[tuple[str, str]]:
        """Return split and source of each training folder, in their order."""
        return [(split, source) for split in self.train_splits for source in self.sources]

    def _train_folders(self) -> list[ShardFolder]:
        return [folder for split in self.train_splits for folder in self._folders[split]]

    def _plan_order(self, folders: list[ShardFolder]) -> TrainOrder:
        weights = [self.sources[source] for _, source in self._parts()]
        for (_, name), weight, folder in zip(self._parts(), weights, folders, strict=True):
            if int(weight * len(folder)) < 1:
                raise ValueError(f"data.sources.{name} is {weight}: not one of its {len(folder)} samples in an epoch")
        return TrainOrder(
            [folder.shard_sizes for folder in folders],
            weights,
            self.seed,
            self.global_batch_size,
            self.shuffle_shards,
            partial(image_numbers, folders),
        )

    def val_dataloader(self) -> BatchLoader[BatchT]:
        """Return this rank's part of the validation split."""
        return self._eval_loader(self.val_split, self.limit_val)

    def test_dataloader(self) -> BatchLoader[BatchT]:
        """Return this rank's part of the test split.

        Raises:
            ValueError: there is none.
        """
        if self.test_split is None:
            raise ValueError("data.test_split is not set; name a split folder of data.root's sources")
        return self._eval_loader(self.test_split)

    def predict_dataloader(self) -> BatchLoader[BatchT]:
        """Return this rank's part of the split that predictions are made for."""
        return self._eval_loader(self.predict_split)

    def teardown(self, stage: str) -> None:
        """End the training workers."""
        if stage == "fit" and self._train_loader:
            self._train_loader.close()

    def transfer_batch_to_device(self, batch: BatchT, device: torch.device, dataloader_idx: int) -> BatchT:
        """Move the batch's tensors."""
        del dataloader_idx
        return self._feeder.move(batch, device)

    def on_after_batch_transfer(self, batch: BatchT, dataloader_idx: int) -> BatchT:
        """Normalise pixels that came as bytes."""
        del dataloader_idx
        return normalise_bytes(batch, *self.pixels)

    @property
    def sends_bytes(self) -> bool:
        """Say whether pixels go to the device as bytes: to GPUs, for a quarter of what floats take on the way."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def state_dict(self) -> dict[str, Any]:
        """Return how far training has read.

        A loader says so too, but Lightning gives a loader's state back only in the middle of an epoch.
        """
        state = self._train_loader.state_dict() if self._train_loader else self._start
        return {**state, "order": self._order_options()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue training behind the steps of a checkpoint.

        Raises:
            ValueError: the order is another one, so that samples would be lost or repeated.
        """
        training = self.train_splits[0] in self._folders  # else nothing is read in that order
        before, now = state_dict.get("order", {}) if training else {}, self._order_options()
        if changed := [f"{key} was {old}, is {now.get(key)}" for key, old in before.items() if now.get(key) != old]:
            raise ValueError(
                f"--ckpt_path: {'; '.join(changed)}: samples would be lost or repeated. Keep these, or start a new "
                "run from the checkpoint with --model.init"
            )
        self._start = {"step": state_dict["step"]}
        if self._train_loader:
            self._train_loader.load_state_dict(self._start)

    def _order_options(self) -> dict[str, Any]:
        opened = [folder for split in self.train_splits for folder in self._folders.get(split, [])]
        return {
            "data.global_batch_size": self.global_batch_size,
            "data.seed": self.seed,
            "data.sources": [[name, weight] for name, weight in self.sources.items()],  # their order counts, too
            "data.shuffle_shards": self.shuffle_shards,
            "the hash of each manifest": [folder.digest[:12] for folder in opened],
        }

    def _sources_of(self, split: str) -> list[str]:
        return list(self.sources) if split in self.train_splits else self.val_sources

    def _open(self, split: str, source: str) -> ShardFolder:
        cache = CacheOptions(self.cache_dir, int(self.cache_gb * 1e9))
        folder = ShardFolder(open_store(self.root, source, split, cache=cache))
        return self.accept(folder)

    def accept(self, folder: ShardFolder) -> ShardFolder:
        """Return an opened folder as the task reads it.

        Raises:
            ValueError: it holds another kind of samples.
        """
        if folder.kind != self.kind:
            raise ValueError(f"data.sources: {folder.name} holds {folder.kind}, but task {self.task} reads {self.kind}")
        return folder

    def _eval_loader(self, split: str, limit: int | None = None) -> BatchLoader[BatchT]:
        folders = self.eval_folders(split)
        sampler = EvalSampler(
            [folder.shard_sizes for folder in folders],
            self.batch_size,
            *self._place(),
            limit=limit,
            images_of=partial(image_numbers, folders),
        )
        self._check_machine(folders, self.batch_size, len(sampler))
        mean, std = self.pixels
        transform = ImageTransform(
            self.image_size, framing=self.framing, pixel_mean=mean, pixel_std=std, as_bytes=self.sends_bytes
        )
        dataset = self._in_few_lengths(self.evaluation_data(folders, transform))
        return BatchLoader(dataset, sampler, self.workers)

    def evaluation_data(
        self, folders: Sequence[ShardFolder], transform: ImageTransform
    ) -> MicroBatchDataset[SampleT, BatchT]:
        """Make what reads the micro-batches of a split that is evaluated."""
        return MicroBatchDataset(folders, transform, self.eval_builder(), self.seed)

    def _check_machine(self, folders: Sequence[ShardFolder], batch_size: int, *passes: int) -> None:
        """Raise LoaderError where the machine lacks what the workers of these passes (in batches) need at a time."""
        pictures = math.ceil(batch_size * self.pictures_per_sample)
        pixel = torch.uint8 if self.sends_bytes else torch.float32
        batch_bytes = pictures * 3 * self.image_size**2 * pixel.itemsize  # the rest is small
        in_flight = sum(min(batches, self.workers * PREFETCHED + 1) for batches in passes)
        ranks = self.trainer.num_devices if self.trainer else 1
        check_shared_memory(batch_bytes, in_flight, self.workers, ranks)
        open_shards = sum(min(len(folder.shard_sizes), OPEN_SHARDS) for folder in folders)
        check_open_files(self.workers, PREFETCHED, open_shards)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def holds(split: str, other: str) -> bool:
    """Say whether a split holds another: it is the same, or its part by name, as ``val_rest`` is of ``val``."""
    return other == split or other.startswith(f"{split}_")


def check_splits(trained: Sequence[str], evaluated: Mapping[str, str | None]) -> None:
    """Refuse to evaluate what is trained on.

    Args:
        trained: splits.
        evaluated: split by option; None where none is named.

    Raises:
        ValueError: none is trained on, or one is evaluated that is, or that is a part of one that is, or holds one.
    """
    if not trained:
        raise ValueError("data.train_split is empty; name a split, such as train")
    for option, split in evaluated.items():
        if split is not None and (seen := [n for n in trained if holds(n, split) or holds(split, n)]):
            raise ValueError(
                f"data.{option} {split} is trained on (data.train_split: {seen[0]}): scores on what was seen say "
                "nothing; train on the other part, such as val_train beside val_rest"
            )
