"""The summary of a run, live or simulated: computed in ``summary``, compared in ``compare``, printed in ``render``."""
