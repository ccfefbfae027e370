"""Small files for these tests, and the words of what they say wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from broker.app.settings import SiteSettings
from broker.model.errors import ConfigErrors
from tests.support.shared_data import REPOSITORY

EXAMPLES = REPOSITORY / "deploy" / "examples"

SITE = """
    cluster: demo
    pools:
      local: {kind: local, gpus: 4}
"""

POLICIES = """
    models:
      chat:
        engine: {command: [serve, '--port={port}']}
        max: 4
        policy:
          kind: threshold
          rules:
            - {signal: queue_age_s, above: 5s, for: 30s, change: +1}
            - {signal: requests_per_replica, below: 8, for: 5m, projected: true, change: -1}
"""


def written(folder: Path, text: str, name: str = "file.yaml") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return path


def site_of_data(**fields: Any) -> SiteSettings:
    return SiteSettings.model_validate({"cluster": "demo", "pools": {"local": {"kind": "local", "gpus": 4}}, **fields})


def refusal(load: Callable[[Path], object], path: Path) -> list[str]:
    """Each problem without the file's name: ``line: field: words``."""
    with pytest.raises(ConfigErrors) as caught:
        load(path)
    assert all(problem.path == str(path) for problem in caught.value.problems)
    return [str(problem).removeprefix(str(path)).removeprefix(":").strip() for problem in caught.value.problems]
