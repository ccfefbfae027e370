"""Log lines are lost, told and counted rather than stopping who writes them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from broker.log_lines import LogStream, configure_logging


@pytest.fixture
def lost_so_far() -> int:
    return LogStream.lost


@pytest.fixture
def configured() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_a_line_for_a_full_disk_is_lost_and_counted(lost_so_far: int, configured: None) -> None:
    with Path("/dev/full").open("w") as full:
        configure_logging(full)
        structlog.get_logger().info("one")
        structlog.get_logger().info("two")
    assert LogStream.lost == lost_so_far + 2


def test_a_line_for_a_reader_that_went_away_is_lost_and_counted(lost_so_far: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        LogStream(pipe).write("one\n")
    assert LogStream.lost == lost_so_far + 1


def test_a_line_without_a_stream_is_lost_and_counted(lost_so_far: int, configured: None) -> None:
    configure_logging(None)
    structlog.get_logger().info("one")
    assert LogStream.lost == lost_so_far + 1


def test_a_command_that_answers_and_is_done_logs_what_went_wrong_alone(tmp_path: Path, configured: None) -> None:
    path = tmp_path / "log"
    with path.open("w") as file:
        configure_logging(file, warnings_only=True)
        structlog.get_logger().debug("slurm_token_renewed")
        structlog.get_logger().info("slurm_parser_chosen")
        structlog.get_logger().warning("job_not_cancelled")
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["event"] == "job_not_cancelled"


def test_the_line_after_a_torn_one_stands_on_its_own(lost_so_far: int) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(reading, "rb") as reader, os.fdopen(writing, "w") as pipe:
        stream = LogStream(pipe)
        stream.write("a" * 1_000_000 + "\n")
        taken = len(os.read(reading, 1_000_000))
        assert 0 < taken < 1_000_000
        stream.write("whole\n")
        pipe.close()
        assert reader.read() == b"\nwhole\n"
    assert LogStream.lost == lost_so_far + 1


def test_a_line_comes_out_as_it_is(tmp_path: Path, lost_so_far: int) -> None:
    path = tmp_path / "log"
    with path.open("w") as file:
        stream = LogStream(file)
        stream.write("grün \ud800\n")
    assert path.read_bytes() == "grün \\ud800\n".encode()
    assert LogStream.lost == lost_so_far


def test_a_text_of_many_lines_stands_on_a_terminal_as_it_is_and_for_machines_on_one_line(
    tmp_path: Path, configured: None
) -> None:
    script = "#!/bin/bash\n#SBATCH --time=60\n\nexec chat\n"
    path, (master, slave) = tmp_path / "log", os.openpty()
    with os.fdopen(master, "rb"), os.fdopen(slave, "w") as terminal, path.open("w") as file:
        for stream in (terminal, file):
            configure_logging(stream)
            structlog.get_logger().info("would_start", text=script)
        shown = os.read(master, 65536).decode().splitlines()
    assert "would_start" in shown[0]
    assert shown[1:] == ["    #!/bin/bash", "    #SBATCH --time=60", "", "    exec chat"]
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["text"] == script
