"""The example of the library's page runs as it stands there."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from tests.support.shared_data import REPOSITORY


def test_the_librarys_example_runs() -> None:
    page = (REPOSITORY / "docs" / "simulator-library.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "simulator-library.md", "exec"), names)
    report, waited_s = names["report"], names["waited_s"]
    assert report.summary.requests.finished > 100
    assert np.nanmin(waited_s) > 0
    assert report.summary.queues["gpu"].started >= 1
    assert report.summary.batch.harm
