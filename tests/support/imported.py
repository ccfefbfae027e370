"""Imports every module of an installed wheel; run by its path, from a folder without this checkout.

Only adapters of an extra may miss its libraries; everything else must do without.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator

PACKAGES = ("actuators", "broker", "cli", "gateway", "policies", "signals", "simulator", "traces")
OF_EXTRAS = ("aiokafka", "faust", "orjson")


def modules() -> Iterator[str]:
    for name in PACKAGES:
        yield name
        for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            if not module.name.endswith("__main__"):
                yield module.name


def main() -> None:
    from broker.model.errors import ConfigError  # the wheel's

    imported, left = 0, []
    for name in modules():
        try:
            importlib.import_module(name)
        except (ModuleNotFoundError, ConfigError) as error:
            if not any(library in str(error) for library in OF_EXTRAS):
                raise
            left.append(name)
        else:
            imported += 1
    print(f"{imported} modules of the wheel import; for an extra wait {', '.join(left) or 'none'}")


if __name__ == "__main__":
    sys.path.remove(sys.path[0])  # this folder
    main()
