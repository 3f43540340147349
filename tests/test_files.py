"""Records: valid JSON, whole or not at all, and damaged ones are named."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vle_lightning.errors import UserError
from vle_lightning.files import finite, is_number, read_object, write_json

LEAVES = st.none() | st.booleans() | st.floats() | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


@given(value=VALUES)
def test_what_is_written_is_json_with_null_for_what_is_not_finite(value: object) -> None:
    text = json.dumps(finite(value), allow_nan=False)
    assert json.loads(text, parse_constant=refuse) == finite(value)


def test_only_numbers_that_are_not_finite_change(tmp_path: Path) -> None:
    file = tmp_path / "new" / "metrics.json"
    write_json(file, {"a": math.inf, "b": [math.nan, 1.5], "c": "nan"})
    assert json.loads(file.read_text()) == {"a": None, "b": [None, 1.5], "c": "nan"}
    assert [path.name for path in file.parent.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_record_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"run.json is damaged"):
        read_object(file)
    assert read_object(tmp_path / "none.json") == {}


@pytest.mark.parametrize("value", [math.inf, math.nan, 10**400, True, "1", None])
def test_what_json_may_hold_beside_finite_numbers_is_no_number(value: object) -> None:
    assert not is_number(value)
    assert is_number(10**30)
    assert is_number(-1.5)


def test_a_full_disk_names_the_file_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.json"
    write_json(file, {"steps": 2})

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_json(file, {"steps": 4})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert read_object(file) == {"steps": 2}  # the record of before
