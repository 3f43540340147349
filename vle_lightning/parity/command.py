"""Walk the fixture folders, run each case, print a line a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from vle_lightning.parity.checks import Check, failure
from vle_lightning.parity.conversion import run_conversion
from vle_lightning.parity.fixtures import Case, Folder, read_folders
from vle_lightning.parity.models import run_features, run_itm, run_mlm, run_model, run_pbc
from vle_lightning.parity.pipelines import run_pipelines
from vle_lightning.parity.preprocessing import run_images, run_processor, run_tokenizer
from vle_lightning.parity.questions import run_positions, run_vcr, run_vqa

RUNNERS: dict[str, Callable[[Case], Iterable[Check]]] = {  # by Case.kind
    "VLEModel": run_model,
    "VLEModel.get_text_features": run_features,
    "VLEForITM": run_itm,
    "VLEForMLM": run_mlm,
    "VLEForPBC": run_pbc,
    "VLEForVQA": run_vqa,
    "VLEForVCRQ2A": partial(run_vcr, "q2a"),
    "VLEForVCRQA2R": partial(run_vcr, "qa2r"),
    "extend_position_embedding": run_positions,
    "tokenizer": run_tokenizer,
    "CLIPImageProcessor": run_images,
    "VLEProcessor": run_processor,
    "VCR": run_conversion,
    "pipelines": run_pipelines,
}


class Summary(NamedTuple):
    """How a walk ended."""

    compared: int
    failed: int
    without: int  # no counterpart here

    @property
    def ok(self) -> bool:
        """Whether something was compared and all of it passed."""
        return self.compared > 0 and not self.failed


def check_fixtures(root: Path, write: Callable[[str], None] = print) -> Summary:
    """Run every case of every folder.

    Args:
        root: a folder of fixture folders (docs/parity.md).
        write: takes each line of the report.

    Raises:
        UserError: there are no fixture folders.
    """
    compared = failed = without = 0
    for folder in read_folders(root):
        if folder.unimplemented:
            write(f"skipped {folder.name}: {folder.unimplemented} is not implemented yet")
            continue
        for case, check in check_folder(folder):
            write(f"{folder.name} {case} {check}")
            failed += not check.ok
            compared += check.error is not None
            without += check.ok and check.error is None
    write(f"{compared} compared, {failed} failed, {without} without counterpart here")
    return Summary(compared, failed, without)


def check_folder(folder: Folder) -> Iterator[tuple[str, Check]]:
    """Run the cases of a folder; what cannot be run is a failure, and the others still run."""
    number = 0
    if not folder.known:
        yield "-", failure("-", "neither a VLE model (config.json, model_type vle) nor preprocessor_config.json")
        return
    for number, case in enumerate(folder.cases(), 1):
        for check in check_case(case):
            yield case.name, check
    if not number:
        yield "-", failure("-", "no cases/*.json")


def check_case(case: Case) -> Iterator[Check]:
    """Run one case."""
    runner = RUNNERS.get(case.kind)
    if runner is None:
        yield failure(case.kind, f"unknown: this harness runs {', '.join(RUNNERS)}")
        return
    number = 0
    try:
        torch.manual_seed(0)
        for number, check in enumerate(runner(case), 1):
            yield check
    except Exception as error:  # whatever stops a case is a failed case, named, and the others still run
        yield failure(case.kind, f"stopped by {type(error).__name__}: {error}")
    if not number:
        yield failure(case.kind, "nothing was compared")
