"""A model is handed to the hub. The network alone is a stub: no test reaches the hub."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from vle_lightning.errors import UserError
from vle_lightning.hub.card import write_card
from vle_lightning.hub.push import push_folder
from vle_lightning.hub.run_facts import Origin
from vle_lightning.tasks.vqa import VQATask


@pytest.fixture
def uploads_to_a_stub_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    calls: list[object] = []

    def create_repo(_: HfApi, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        calls.append((repo_id, private, exist_ok))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(_: HfApi, *, repo_id: str, folder_path: Path, ignore_patterns: list[str] | None) -> None:
        left_out = ignore_patterns or []
        calls.append((repo_id, sorted(file.name for file in folder_path.iterdir() if file.name not in left_out)))

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(HfApi, "file_exists", lambda *_: False)
    return calls


def hold_card(monkeypatch: pytest.MonkeyPatch, card: Path) -> None:
    """Make the stub hold a README.md."""
    monkeypatch.setattr(HfApi, "file_exists", lambda *_: True)
    monkeypatch.setattr(HfApi, "hf_hub_download", lambda *_: str(card))


def test_a_task_is_uploaded_as_a_folder(uploads_to_a_stub_of_the_hub: list[object]) -> None:
    address = VQATask("tiny", answers=3).push_to_hub("me/tiny", private=True)
    assert address == "https://huggingface.co/me/tiny"
    assert uploads_to_a_stub_of_the_hub == [
        ("me/tiny", True, True),
        ("me/tiny", ["README.md", "config.json", "model.safetensors"]),
    ]


def test_a_card_by_hand_on_the_hub_stays(
    uploads_to_a_stub_of_the_hub: list[object],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "README.md").write_text("# Mine\n")
    hold_card(monkeypatch, tmp_path / "README.md")
    task = VQATask("tiny", answers=3)
    task.push_to_hub("me/tiny")
    assert uploads_to_a_stub_of_the_hub[-1] == ("me/tiny", ["config.json", "model.safetensors"])
    assert "README.md was written by hand and is kept" in capsys.readouterr().out
    write_card(tmp_path, task.card("me/tiny", "own", Origin(), None, False))  # one of ours is renewed
    task.push_to_hub("me/tiny")
    assert uploads_to_a_stub_of_the_hub[-1] == ("me/tiny", ["README.md", "config.json", "model.safetensors"])
    task.save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("# Mine, and newer\n")  # a person's replaces a person's
    push_folder("me/tiny", tmp_path)
    assert uploads_to_a_stub_of_the_hub[-1] == ("me/tiny", ["README.md", "config.json", "model.safetensors"])


def test_a_refusal_of_the_stubbed_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match=r"me/tiny cannot be uploaded \(log in .*\): no route$"):
        VQATask("tiny", answers=3).push_to_hub("me/tiny")
