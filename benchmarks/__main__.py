"""``python -m benchmarks [--list] [--check] [NAME ...]``: run benchmarks, print one JSON line for each figure."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys

import benchmarks
from broker.log_lines import configure_logging

ON_REQUEST = frozenset({"sim_fleet_day", "sim_memory"})
"""Takes minutes: runs only when named."""


def names() -> list[str]:
    return sorted(
        module.name.removeprefix("bench_")
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if module.name.startswith("bench_")
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run (default: all but the longest)")
    parser.add_argument("--list", action="store_true", help="name all benchmarks, run none")
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a figure misses its target")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names()))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(names())}")
    configure_logging(sys.stderr)
    missed: list[str] = []
    chosen = arguments.names or [name for name in names() if arguments.list or name not in ON_REQUEST]
    for name in chosen:
        module = importlib.import_module(f"benchmarks.bench_{name}")
        if arguments.list:
            print(f"{name:20} {(module.__doc__ or '').strip().splitlines()[0]}")
            continue
        for measurement in module.run():
            print(measurement.line(), flush=True)
            if not measurement.met:
                missed.append(measurement.name)
    if missed and arguments.check:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
