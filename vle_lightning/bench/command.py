"""Measure everything and print it: a line each, then as JSON."""

from __future__ import annotations

import argparse
import json

from vle_lightning.bench.bf16 import bench_bf16
from vle_lightning.bench.dispatch import bench_dispatch
from vle_lightning.bench.dual import bench_dual
from vle_lightning.bench.pretraining import bench_memory, bench_step
from vle_lightning.bench.retrieval import bench_retrieval
from vle_lightning.bench.text import bench_text
from vle_lightning.bench.vcr import bench_vcr
from vle_lightning.bench.vlmo_step import bench_vlmo_step

BENCHES = {
    "pretraining": bench_step,
    "dispatch": bench_dispatch,
    "text": bench_text,
    "memory": bench_memory,
    "bf16": bench_bf16,
    "vcr": bench_vcr,
    "retrieval": bench_retrieval,
    "dual": bench_dual,
    "vlmo": bench_vlmo_step,
}


def main() -> None:
    """Run the benches that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m vle_lightning.bench", description=__doc__)
    parser.add_argument("benches", nargs="*", default=list(BENCHES), help=f"of {', '.join(BENCHES)}; all by default")
    parser.add_argument("--architecture", default="vle-base", help="preset to measure; text, dual, vlmo: their own")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way, alternating; the best counts")
    options = parser.parse_args()
    if unknown := sorted(set(options.benches) - set(BENCHES)):
        parser.error(f"there is no bench {', '.join(unknown)}; choose among {', '.join(BENCHES)}")
    results: dict[str, float] = {}
    for name in options.benches:
        for key, value in BENCHES[name](options.architecture, options.repeats).items():
            results[key] = value
            print(f"{key:<44} {value:10.4g}", flush=True)
    print(json.dumps(results))
