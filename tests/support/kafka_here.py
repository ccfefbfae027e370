"""A real Kafka on this machine, for people, until it is told to end.

python -m tests.support.kafka_here up [--nodes 3]
python -m tests.support.kafka_here down
python -m tests.support.kafka_here run -- COMMAND ...
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cli.demo.memory import SERVERS
from tests.support import kept
from tests.support.command_line import ROOT
from tests.support.kafka_jars import RELEASE
from tests.support.real_kafka import RealKafka, why_not

STATE = ROOT / "build" / "kafka"
USAGE = 2

DESCRIPTION = """\
Kafka {release} is up: {nodes}. For site.yaml (docs/kafka.md):

log:
  kind: kafka
  bootstrap_servers: {servers}

Its logs and its data are in {folder} until `make kafka-down` ends it.
"""


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.kafka_here", description=__doc__)
    parser.add_argument("order", choices=["up", "down", "keep", "run"])
    parser.add_argument("words", nargs="*", help="the command to run")
    parser.add_argument("--nodes", type=int, choices=[1, 3], default=1)
    parser.add_argument("--name", default="host", help="to keep another one beside it")
    given = parser.parse_args(words)
    state = STATE / f"{given.name}.json"
    if given.order == "down":
        return kept.down(state, f"Kafka named {given.name}")
    if (reason := why_not()) is not None:
        print(f"a Kafka on this machine {reason}", file=sys.stderr)
        return USAGE
    if given.order == "run":
        return kept.run(RealKafka(given.nodes), _environment, given.words)
    if given.order == "keep":
        return keep(state, given.nodes)
    return kept.up(state, ["tests.support.kafka_here", "keep", "--nodes", str(given.nodes), "--name", given.name])


def _environment(kafka: RealKafka) -> dict[str, str]:
    return os.environ | {SERVERS: kafka.bootstrap_servers}


def keep(state: Path, nodes: int) -> int:
    """Hold a cluster until SIGTERM."""
    kept.exit_when_told()
    with RealKafka(nodes) as kafka:
        counted = "one node" if nodes == 1 else f"{nodes} nodes"
        kept.keep(
            state,
            DESCRIPTION.format(release=RELEASE, nodes=counted, servers=kafka.bootstrap_servers, folder=kafka.folder),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
