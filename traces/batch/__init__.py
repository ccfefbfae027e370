"""Logs of batch jobs: a reader of the Standard Workload Format, fitted profiles, a generator."""
