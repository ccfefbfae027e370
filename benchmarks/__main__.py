"""``python -m benchmarks [--list] [NAME ...]``: run benchmarks, print one JSON line for each figure."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys

import benchmarks


def names() -> list[str]:
    return sorted(
        module.name.removeprefix("bench_")
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if module.name.startswith("bench_")
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run (default: all)")
    parser.add_argument("--list", action="store_true", help="name all benchmarks and exit")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(names()))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(names())}")
    for name in arguments.names or names():
        module = importlib.import_module(f"benchmarks.bench_{name}")
        if arguments.list:
            print(f"{name:20} {(module.__doc__ or '').strip().splitlines()[0]}")
            continue
        for measurement in module.run():
            print(measurement.line(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
