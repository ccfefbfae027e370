"""The fault table on a real Slurm of this machine. ``make faults-slurm`` runs all of it."""
