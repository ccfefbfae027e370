"""Writes the JSON Schema of ``report.json``'s data:

python -m simulator.report docs/schemas
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from broker.model.json_schema import schema_of
from simulator.report.document import RunReport

NAME = "run_report.json"


def schema_text() -> str:
    return json.dumps(schema_of(RunReport), indent=2) + "\n"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m simulator.report DIRECTORY", file=sys.stderr)
        return 2
    (Path(arguments[0]) / NAME).write_text(schema_text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
