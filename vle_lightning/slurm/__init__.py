"""Slurm: the batch script of a run, the check of its tasks, what follows its end, and a table of all runs."""
