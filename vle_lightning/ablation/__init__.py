"""Ablation studies: rows that each change an experiment in one place, run and tabulated side by side."""
