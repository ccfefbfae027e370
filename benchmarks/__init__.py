"""Benchmarks: python -m benchmarks NAME, one JSON line each."""
