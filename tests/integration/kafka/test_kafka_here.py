"""A Kafka for people to try: started, told what to write into a site file, and gone without a trace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import ROOT
from tests.support.needs import needs_kafka
from tests.support.ports import listens

pytestmark = [
    pytest.mark.integration,
    needs_kafka,
]

NAME = f"test-{os.getpid()}"


def here(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.kafka_here", *words, "--name", NAME],
        cwd=ROOT, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_stays_up_until_it_is_told_and_nothing_is_left_afterwards() -> None:
    told = here("up")
    try:
        (port,) = map(int, re.findall(r"^  bootstrap_servers: 127\.0\.0\.1:(\d+)$", told, re.MULTILINE))
        assert here("up") == told
        assert listens(port)
    finally:
        here("down")
    (folder,) = re.findall(r" in (\S+/kafka-\w+) until", told)
    assert (listens(port), Path(folder).exists()) == (False, False)
    assert here("down") == f"no Kafka named {NAME} is up\n"
