"""Handing a model to the hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from vle_lightning.errors import UserError
from vle_lightning.hub.card import CARD, is_by_hand


def push_folder(repository: str, folder: Path, private: bool = False) -> str:
    """Make a repository on the hub if need be, and upload a folder.

    A card that a person has written there stays, unless the folder's is a person's too; that is printed.

    Args:
        repository: ``OWNER/NAME``.
        folder: with the files.
        private: of a new repository.

    Returns:
        The repository's address.

    Raises:
        UserError: the name is no hub name, the hub cannot be reached, or it refuses (log in with ``hf auth login``).
    """
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        kept = not is_by_hand(folder / CARD) and _has_card_by_hand(api, repository)
        api.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=[CARD] if kept else None)
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{repository} cannot be uploaded (log in with `hf auth login`?): {reason}") from error
    if kept:
        print(f"{repository}: its {CARD} was written by hand and is kept; the new one was not uploaded")
    return str(address)


def _has_card_by_hand(api: HfApi, repository: str) -> bool:
    return api.file_exists(repository, CARD) and is_by_hand(Path(api.hf_hub_download(repository, CARD)))
