"""Runs, live or simulated, for people and programs.

The summary of any run is computed in ``summary``, compared in ``compare`` and printed in ``render``. A simulated run's
whole report is the ``document``: a ``recorder`` listens to the run, ``compose`` makes the document of what it and the
requests say, ``folder`` writes it as a page, JSON and Parquet.
"""
