"""Handing a model to the hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from vle_lightning.errors import UserError


def push_folder(repository: str, folder: Path, private: bool = False) -> str:
    """Make a repository on the hub if need be, and upload a folder.

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
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{repository} cannot be uploaded (log in with `hf auth login`?): {reason}") from error
    return str(address)
