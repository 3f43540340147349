"""What watches a run: progress, speed, pictures, skipped samples and the record of the run folder."""
