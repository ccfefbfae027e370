"""Many runs: what to run, on all cores, kept as they end, ranked."""
