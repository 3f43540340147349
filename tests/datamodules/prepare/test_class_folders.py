"""Folders of classes, and ImageNet's official layout: which class each image has, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from datamodules.prepare import Options, convert
from datamodules.prepare.__main__ import main
from tests.datamodules.prepare.raw_files import picture, records_of, skipped, write_images

BOTH = Options(splits=("train", "val"))
SYNSETS = ("n01440764", "n02119789", "n02012849")
WORDS = "n02119789 kit fox, Vulpes macrotis\nn01440764 tench, Tinca tinca\nn02012849 crane\n"


def labels(folder: Path) -> dict[str, str | None]:
    """Return the class of each image by its id."""
    return {name: record.labels[0].label for name, record in records_of(folder).items()}


def classes_of(folder: Path) -> list[str]:
    """Return the list of classes beside the splits."""
    names: list[str] = json.loads((folder / "classes.json").read_text())
    return names


def test_a_subfolder_is_a_class(tmp_path: Path) -> None:
    write_images(tmp_path / "train", "red circle/a.jpg", "red circle/deep/b.JPG", "blue square/a.jpg", "empty/.keep")
    (tmp_path / "train" / "red circle" / "notes.txt").write_text("no picture")
    write_images(tmp_path / "val", "red circle/c.png")
    convert("class_folders", tmp_path, tmp_path / "out", BOTH)
    out = tmp_path / "out" / "class_folders"
    assert classes_of(out) == ["blue square", "empty", "red circle"]
    assert labels(out / "train") == {
        "class_folders/train/red circle/a.jpg": "red circle",
        "class_folders/train/red circle/deep/b.JPG": "red circle",
        "class_folders/train/blue square/a.jpg": "blue square",
    }
    assert labels(out / "val") == {"class_folders/val/red circle/c.png": "red circle"}
    assert skipped(out / "train") == {"no picture by its ending": 2}


def test_another_image_makes_the_split_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "train", "a/1.jpg", "b/1.jpg")
    command = f"class_folders --src {tmp_path} --out {tmp_path / 'out'} --splits train".split()
    for name, told in (("a/1.jpg", "2 images"), ("a/1.jpg", "already converted"), ("b/2.jpg", "3 images")):
        write_images(tmp_path / "train", name)
        main(command)
        assert told in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ((), "train not found: --src must hold SPLIT/CLASS/"),
        (("train/a.jpg",), "train has no subfolders"),
        (("train/a/1.jpg",), "val not found"),
        (("train/a/1.jpg", "val/b/1.jpg"), "val/b: train has no such class"),
    ],
)
def test_what_is_no_such_folder_ends_with_a_sentence(files: tuple[str, ...], told: str, tmp_path: Path) -> None:
    write_images(tmp_path, *files)
    with pytest.raises((FileNotFoundError, ValueError), match=told):
        convert("class_folders", tmp_path, tmp_path / "out", BOTH)
    assert not (tmp_path / "out" / "class_folders" / "train").exists()


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Two training images of each of three synsets, and four validation images."""
    write_images(tmp_path / "train", *(f"{name}/{name}_{n}.JPEG" for name in SYNSETS for n in (1, 2)))
    write_images(tmp_path / "val", *(f"ILSVRC2012_val_{n:08d}.JPEG" for n in (1, 2, 3, 4)))
    return tmp_path


def converted(src: Path, *splits: str) -> Path:
    """Convert ImageNet; return the folder of its splits."""
    convert("imagenet", src, src / "out", Options(splits=splits or ("train", "val")))
    return src / "out" / "imagenet"


def test_training_classes_are_called_by_synset_and_words(imagenet: Path) -> None:
    (imagenet / "LOC_synset_mapping.txt").write_text(WORDS)
    out = converted(imagenet, "train")
    assert classes_of(out) == ["n01440764 tench, Tinca tinca", "n02012849 crane", "n02119789 kit fox, Vulpes macrotis"]
    assert Counter(labels(out / "train").values()) == dict.fromkeys(classes_of(out), 2)
    assert labels(out / "train")["imagenet/n02012849_1"] == "n02012849 crane"


def test_flat_validation_images_by_kaggles_solution(imagenet: Path) -> None:
    rows = [f"ILSVRC2012_val_{n:08d},{name} 1 2 3 4 {name} 5 6 7 8" for n, name in enumerate(SYNSETS, 1)]
    rows.append("ILSVRC2012_val_00000004,n99999999 1 2 3 4")
    (imagenet / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")
    out = converted(imagenet)
    assert labels(out / "val") == {f"imagenet/ILSVRC2012_val_{n:08d}": name for n, name in enumerate(SYNSETS, 1)}
    assert skipped(out / "val") == {"unknown class": 1}


def write_devkit(src: Path, numbers: str, synsets: Mapping[int, str]) -> None:
    """Write ground truth and meta.mat, in which a number's synset is the devkit's own choice."""
    scipy = pytest.importorskip("scipy.io")
    import numpy as np

    kinds: list[Any] = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, name, name, 0) for number, name in synsets.items()] + [(1001, "n00001740", "entity", 2)]
    folder = src / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    scipy.savemat(folder / "meta.mat", {"synsets": np.array(rows, dtype=kinds)})
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text(numbers)


def test_flat_validation_images_by_the_devkit(imagenet: Path) -> None:
    """The devkit's number 1 is the kit fox, which is not the first of the sorted synsets."""
    write_devkit(imagenet, "1\n3\n2\n1\n", {1: "n02119789", 2: "n01440764", 3: "n02012849"})
    found = labels(converted(imagenet) / "val")
    assert [found[f"imagenet/ILSVRC2012_val_{n:08d}"] for n in (1, 2, 3, 4)] == [
        *("n02119789", "n02012849", "n01440764", "n02119789")
    ]


def test_a_number_that_the_devkit_does_not_know_is_refused(imagenet: Path) -> None:
    write_devkit(imagenet, "1\n1001\n", {1: "n02119789"})
    with pytest.raises(ValueError, match=r"line 2: '1001' is not a number of a class"):
        converted(imagenet)


def test_flat_validation_images_without_classes_are_refused(imagenet: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no subfolders, and none of LOC_val_solution\.csv"):
        converted(imagenet)
    (imagenet / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n")
    with pytest.raises(FileNotFoundError, match=r"numbers the classes as the devkit's meta\.mat does"):
        converted(imagenet)
    (imagenet / "LOC_val_solution.csv").write_text("name,class\n1,2\n")
    with pytest.raises(ValueError, match="the columns ImageId and PredictionString are needed"):
        converted(imagenet)


def test_validation_images_in_folders_need_no_list(imagenet: Path) -> None:
    for n, name in enumerate(SYNSETS, 1):
        (imagenet / "val" / name).mkdir()
        (imagenet / "val" / f"ILSVRC2012_val_{n:08d}.JPEG").rename(imagenet / "val" / name / f"{n}.JPEG")
    assert sorted(map(str, labels(converted(imagenet) / "val").values())) == sorted(SYNSETS)


def test_images_of_the_test_split_have_no_class(imagenet: Path) -> None:
    write_images(imagenet / "test", "ILSVRC2012_test_00000001.JPEG")
    (imagenet / "test" / "bad.JPEG").write_bytes(picture()[:100])
    out = converted(imagenet, "test")
    assert labels(out / "test") == {"imagenet/ILSVRC2012_test_00000001": None}
    assert skipped(out / "test") == {"unreadable image": 1}
