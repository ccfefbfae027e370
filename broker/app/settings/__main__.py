"""``python -m broker.app.settings docs``: write the reference of both files and their JSON Schemas."""

from __future__ import annotations

import sys
from pathlib import Path

from broker.app.settings.reference import write_reference


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m broker.app.settings DIRECTORY", file=sys.stderr)
        return 2
    write_reference(Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
