"""A Slurm cluster in simulated time: its nodes, queue and scheduler, with batch jobs in the background.

Pure: time is an argument, and so is all that is drawn at random (arrivals, failures), as iterables.
"""
