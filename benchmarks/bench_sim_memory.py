"""Peak memory of a simulation of ten million requests with the production core in the loop; takes some minutes."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.base import Measurement

REQUESTS = 10_000_000
_SCRIPT = """
import resource
from benchmarks.bench_sim_end_to_end import simulate
print(simulate({requests}).requests.finished)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def run() -> list[Measurement]:
    """In a process of its own: the peak is of all that a process did."""
    began = time.perf_counter()
    script = _SCRIPT.format(requests=REQUESTS)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    finished, peak_kib = (int(word) for word in done.stdout.split())
    details = {"requests": finished, "wall_s": round(time.perf_counter() - began)}
    return [Measurement("sim_memory", round(peak_kib * 1024 / 1e9, 2), "GB", 1.5, details=details)]
