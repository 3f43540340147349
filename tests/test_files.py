"""Records: valid JSON, whole or not at all, and damaged ones are named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vle_lightning.errors import UserError
from vle_lightning.files import finite, read_object, write_json

LEAVES = st.none() | st.booleans() | st.floats() | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


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
