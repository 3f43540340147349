"""Small studies, and the folders that their runs would leave."""

from __future__ import annotations

import json
from pathlib import Path

from vle_lightning.ablation.report import FINETUNE, PRETRAIN
from vle_lightning.ablation.rows import Study, read_study
from vle_lightning.ablation.running import Job, jobs_of
from vle_lightning.files import write_text

ROOT = Path(__file__).parents[2]
METER, CLAIMS = (ROOT / "experiments" / "ablations" / f"{name}.yaml" for name in ("meter_toy", "vle_toy"))
STUDY = """
seeds: {seeds}
pretrain:
  experiment: {root}/experiments/pretrain/toy.yaml
  options:
    trainer: {{max_steps: 2, log_every_n_steps: 1}}
    validate_every: 2
    model: {{architecture: tiny, objectives: {{mlm: 1.0, itm: 1.0}}}}
    data: {{batch_size: 8, global_batch_size: 8, workers: 0, limit_val: 8}}
finetune:
  experiment: {root}/experiments/vqa/toy.yaml
  options:
    trainer: {{max_steps: 2}}
    validate_every: 2
    model: {{architecture: tiny}}
    data: {{batch_size: 8, global_batch_size: 8, workers: 0, limit_val: 8}}
baseline: {{both: {{model: {{architecture: {{preset: tiny, fusion: {{layers: 2}}}}}}}}}}
axes:
  fusion:
    title: Fusion
    baseline: co-attention
    rows:
      merged: {{about: merged attention, both: {{model: {{architecture: {{fusion: {{kind: merged_attention}}}}}}}}}}
  more:
    title: More
    baseline: both objectives
    rows:
{more}
limits: [It is small.]
"""
MLM = "      mlm: {pretrain: {model: {objectives: {mlm: 1.0}}}}"


def write_study(folder: Path, more: str = MLM, seeds: str = "[0, 1]") -> Path:
    """Write a study with the tiny preset; ``more`` are rows of its second axis."""
    file = folder / "study.yaml"
    file.write_text(STUDY.format(root=ROOT, seeds=seeds, more=more))
    return file


def make_study(folder: Path, more: str = MLM, seeds: str = "[0, 1]") -> Study:
    return read_study(write_study(folder, more, seeds))


def make_full_study(folder: Path, more: str) -> Study:
    """Return a study whose rows all run under all seeds; ``more`` are rows of its second axis."""
    file = write_study(folder, more)
    file.write_text(f"row_seeds: all\ncosts: [parameters, minutes]\n{file.read_text()}")
    return read_study(file)


def finish(job: Job, **scores: float) -> None:
    """Leave what a finished run leaves."""
    write_text(job.settings, job.described())
    job.folder.path.mkdir(parents=True, exist_ok=True)
    job.folder.record.write_text(json.dumps({"steps": 2, "samples_seen": 16, "commit": "abcdef0123", "seconds": 90.0}))
    metrics = {f"val/{name}": value for name, value in scores.items()}
    job.folder.metrics.write_text(json.dumps({**metrics, "floor/itm_accuracy": 0.5}))


def finish_all(study: Study, root: Path, vqa: dict[str, list[float]]) -> None:
    """Leave finished runs of all rows; ``vqa`` has one accuracy for each seed."""
    for job in jobs_of(study, list(study.rows.values()), root):
        if job.stage == PRETRAIN:
            finish(job, itm_accuracy=0.75, mlm_content_accuracy=0.5)
        if job.stage == FINETUNE and job.row.name in vqa:
            finish(job, vqa_accuracy=vqa[job.row.name][study.seeds.index(job.seed)])
