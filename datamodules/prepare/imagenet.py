"""ImageNet-1k (ILSVRC 2012, arXiv 1409.0575): 1,281,167 training and 50,000 validation images of 1,000 classes.

Training images lie in a folder a class, ``train/n01440764/*.JPEG``, as the tars in ILSVRC2012_img_train.tar unpack.
Validation images lie likewise, or all in ``val``, as ILSVRC2012_img_val.tar unpacks; then their classes are in one of

- ``LOC_val_solution.csv`` (Kaggle's), by the synset;
- ``ILSVRC2012_validation_ground_truth.txt`` of the devkit, by the devkit's own numbers, which ``meta.mat`` beside it
  explains (read by SciPy; they are not the places in a sorted list of the synsets).

They are looked for in the raw folder, in ``meta`` and in the devkit's folder. With ``LOC_synset_mapping.txt`` a class
is called "n01440764 tench, Tinca tinca", without it "n01440764". The split ``test`` has no classes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path, PurePosixPath

from datamodules.prepare.class_folders import TRAIN, Found, picture_names, subfolders
from datamodules.prepare.class_folders import Dataset as ClassFolders
from datamodules.prepare.rows import SkipDefect

NAMES, SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"
GROUND_TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
PLACES = (".", "meta", "ILSVRC2012_devkit_t12/data", "data")
VALIDATION, TEST = "val", "test"


class Dataset(ClassFolders):
    """``train/WNID/*.JPEG``, and ``val`` likewise or flat with a file of its classes."""

    def annotation_files(self, split: str) -> tuple[Path, ...]:
        """Return the files that say the classes of a flat split, and the names of all classes.

        Raises:
            FileNotFoundError: The split has no folder, or is flat and nothing says its classes.
        """
        folder, named = self.split_folder(split), self.find(NAMES)
        found = [] if named is None else [named]
        if self.is_flat(folder) and split == VALIDATION:
            solution, truth, meta = (self.find(name) for name in (SOLUTION, GROUND_TRUTH, META))
            if solution is None and truth is None:
                raise FileNotFoundError(
                    f"{folder} has no subfolders, and none of {SOLUTION}, {GROUND_TRUTH} is in {self.src}: give one"
                )
            if solution is None and meta is None:
                raise FileNotFoundError(
                    f"{truth} numbers the classes as the devkit's {META} does, which is not in {self.src}: put it there"
                )
            found += [path for path in ((truth, meta) if solution is None else (solution,)) if path is not None]
        return tuple(found)

    def class_names(self) -> list[str]:
        """Return the names of the synsets of train, sorted by synset."""
        return [str(self.described(name)) for name in self.folders()]

    def images(self, split: str, skip: SkipDefect) -> list[Found]:
        """Return the images of a split; of the flat ones those whose class is known, or all of test."""
        folder = self.split_folder(split)
        if not self.is_flat(folder):
            return super().images(split, skip)
        if split != VALIDATION:
            return [Found(name, None) for name in picture_names(self.src, split, skip)]
        known = set(self.folders())
        found = []
        for name, synset in sorted(self.flat_labels().items()):
            if synset in known:
                found.append(Found(f"{split}/{name}.JPEG", synset))
            else:
                skip("unknown class", f"{name}: {synset!r:.80} is not a folder of {self.src / TRAIN}")
        return found

    def is_flat(self, folder: Path) -> bool:
        """Say whether a split has no folder a class; test never has."""
        return folder.name == TEST or (folder.name != TRAIN and not subfolders(folder))

    def flat_labels(self) -> dict[str, str]:
        """Return the synset of each validation image, by its name without ending.

        Raises:
            ValueError: The file is of another form.
        """
        solution, truth, meta = (self.find(name) for name in (SOLUTION, GROUND_TRUTH, META))
        if solution is not None:
            return read_solution(solution)
        assert truth is not None
        assert meta is not None
        synsets = read_meta(meta)
        found: dict[str, str] = {}
        for line, number in enumerate(truth.read_text(encoding="utf-8").split(), 1):
            if not number.isdecimal() or int(number) not in synsets:
                raise ValueError(f"{truth}, line {line}: {number!r:.40} is not a number of a class of {meta}")
            found[f"ILSVRC2012_val_{line:08d}"] = synsets[int(number)]
        return found

    def image_id(self, name: str) -> str:
        """Return the id of an image: file names are unique over all splits."""
        return f"imagenet/{PurePosixPath(name).stem}"

    def described(self, label: str | None) -> str | None:
        """Return synset and words, where the words are known."""
        return label if label is None else self.words.get(label, label)

    @cached_property
    def words(self) -> dict[str, str]:
        """The lines of LOC_synset_mapping.txt by their synset; {} without the file."""
        path = self.find(NAMES)
        lines = [] if path is None else path.read_text(encoding="utf-8").splitlines()
        return {line.split()[0]: " ".join(line.split()) for line in lines if line.strip()}

    def find(self, name: str) -> Path | None:
        """Return the place of a file of the devkit or Kaggle's; None if there is none."""
        return next((path for place in PLACES if (path := self.src / place / name).is_file()), None)


def read_solution(path: Path) -> dict[str, str]:
    """Return the synset of each image of LOC_val_solution.csv, the first that its boxes name.

    Raises:
        ValueError: It has other columns.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows: Iterator[Mapping[str, str | None]] = csv.DictReader(file)
        found: dict[str, str] = {}
        for line, row in enumerate(rows, 2):
            name, boxes = row.get("ImageId"), (row.get("PredictionString") or "").split()
            if not name or not boxes:
                raise ValueError(f"{path}, line {line}: the columns ImageId and PredictionString are needed")
            found[name] = boxes[0]
    return found


def read_meta(path: Path) -> dict[int, str]:
    """Return the synset of each number of the devkit's meta.mat, of the classes without subclasses.

    Raises:
        ValueError: It is another file, or SciPy is not installed.
    """
    try:
        matlab = import_module("scipy.io")
    except ModuleNotFoundError as error:
        raise ValueError(f"{path} is read by SciPy: pip install scipy, or give {SOLUTION} instead") from error
    try:
        synsets = matlab.loadmat(path, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets if int(row["num_children"]) == 0}
    except (KeyError, ValueError, TypeError, OSError, IndexError) as error:
        raise ValueError(f"{path} is not the devkit's {META} ({error})") from error
