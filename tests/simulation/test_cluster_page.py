"""docs/cluster-model.md: its first program runs as it stands there, with nothing to fetch."""

from __future__ import annotations

import re
from typing import Any

from simulator.cluster.jobs import Started
from tests.support.command_line import ROOT


def test_the_first_program_runs() -> None:
    page = (ROOT / "docs" / "cluster-model.md").read_text(encoding="utf-8")
    program = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(compile(program, "cluster-model.md", "exec"), names)
    started = [event.job_id for event in names["events"] if isinstance(event, Started)]
    assert len(started) > 20
    assert names["job_id"] in started
