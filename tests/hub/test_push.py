"""A model is handed to the hub. The network alone is a stub: no test reaches the hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from vle_lightning.errors import UserError
from vle_lightning.tasks.vqa import VQATask


@pytest.fixture
def uploads_to_a_stub_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    calls: list[object] = []

    def create_repo(_: HfApi, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        calls.append((repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(_: HfApi, *, repo_id: str, folder_path: Path) -> None:
        calls.append((repo_id, sorted(file.name for file in folder_path.iterdir())))

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return calls


def test_a_task_is_uploaded_as_a_folder(uploads_to_a_stub_of_the_hub: list[object]) -> None:
    address = VQATask("tiny", answers=3).push_to_hub("me/tiny", private=True)
    assert address == "https://huggingface.co/me/tiny"
    assert uploads_to_a_stub_of_the_hub == [
        ("me/tiny", True, True),
        ("me/tiny", ["config.json", "model.safetensors"]),
    ]


def test_a_refusal_of_the_stubbed_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match=r"me/tiny cannot be uploaded \(log in .*\): no route$"):
        VQATask("tiny", answers=3).push_to_hub("me/tiny")
