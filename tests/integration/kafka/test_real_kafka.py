"""The Kafka that tests run on outlives no process that started it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import ROOT
from tests.support.needs import needs_kafka
from tests.support.ports import listens
from tests.support.waiting import until

pytestmark = [
    pytest.mark.integration,
    needs_kafka,
]

HOLDER = """\
import signal
from tests.support.real_kafka import RealKafka
with RealKafka() as kafka:
    print(kafka.bootstrap_servers, flush=True)
    signal.pause()
"""


def test_it_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            port = int(holder.stdout.readline().rpartition(":")[2])
            assert listens(port)
        finally:
            holder.kill()
    until(lambda: not listens(port), "Kafka has ended")
