"""A model for tests of a whole stack: the emulator, whose policy only ever gives back what an order asked for."""

POLICIES = """\
models:
  chat:
    engine:
      command: ["{python}", "-m", "simulator.emulator", "--model", "{model}", "--host", "{host}", "--port", "{port}",
                "--shutdown-timeout", "10"]
    min: 1
    max: 3
    drain_limit: 20s
    load_timeout: 60s
    stop_grace: 10s
    stabilisation: {scale_in: 1s}
    policy:
      kind: threshold
      rules: [{name: calm, signal: requests_per_replica, below: 8, for: 1s, projected: true, change: -1}]
"""
