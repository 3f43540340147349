"""Walk the fixture folders, run each case, print a line a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from vle_lightning.parity.checks import Check, failure
from vle_lightning.parity.conversion import run_conversion
from vle_lightning.parity.fixtures import Case, Folder, read_case, read_folders
from vle_lightning.parity.meter import RUNNERS as METER
from vle_lightning.parity.models import run_features, run_itm, run_mlm, run_model, run_pbc
from vle_lightning.parity.pipelines import run_pipelines
from vle_lightning.parity.preprocessing import run_images, run_processor, run_tokenizer
from vle_lightning.parity.questions import run_positions, run_vcr, run_vqa
from vle_lightning.parity.vlmo import RUNNERS as VLMO

Runners = Mapping[str, Callable[[Case], Iterable[Check]]]
VLE: Runners = {  # by Case.kind
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
RUNNERS: dict[str, Runners] = {"vle": VLE, "meter": METER, "vlmo": VLMO}  # by Folder.family


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
        for case, check in check_folder(folder):
            write(f"{folder.name} {case} {check}")
            failed += not check.ok
            compared += check.error is not None
            without += check.ok and check.error is None
    write(f"{compared} compared, {failed} failed, {without} without counterpart here")
    return Summary(compared, failed, without)


def check_folder(folder: Folder) -> Iterator[tuple[str, Check]]:
    """Run the cases of a folder; what cannot be run is a failure, and the others still run."""
    if folder.family is None:
        yield (
            "-",
            failure("-", "config.json is of no VLE, METER or VLMo, and there is no preprocessor_config.json"),
        )
        return
    names = folder.case_names()
    for name in names:
        for check in check_case(folder, name):
            yield name, check
    for stray in folder.strays():
        yield stray, failure("-", "there is not JSON file beside the tensors")
    if not names:
        yield "-", failure("-", "no cases/*.json")


def check_case(folder: Folder, name: str) -> list[Check]:
    """Run one case."""
    checks: list[Check] = []
    try:
        case = read_case(folder, name)
        runners = RUNNERS[folder.family or "vle"]
        if case.kind not in runners:
            return [failure(case.kind, f"unknown: this harness runs {', '.join(runners)}")]
        for check in runners[case.kind](case):
            checks.append(check)  # one by one: what came before an error is kept
    except Exception as error:  # whatever stops a case is a failed case, named, and the others still run
        checks.append(failure("-", f"stopped by {type(error).__name__}: {' '.join(str(error).split())}"))
    return checks or [failure("-", "nothing was compared")]
