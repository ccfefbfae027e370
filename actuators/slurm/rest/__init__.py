"""Slurm over slurmrestd: one HTTP client, and one normaliser for each family of its parsers."""
