"""Replicas as jobs of a Slurm cluster."""
