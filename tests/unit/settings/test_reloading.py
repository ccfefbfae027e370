"""What a running broker reads again, and what it must not wait for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.app.reloading import read_again
from broker.app.settings import load_site
from broker.model.errors import ConfigError

SITE = """cluster: test
pools: {here: {kind: local, gpus: 1, state_dir: state, log_dir: logs}}
log: {kind: sqlite, path: log.sqlite}
"""


def test_a_named_pipe_in_place_of_the_policies_is_refused_without_opening_it(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(SITE)
    site = load_site(tmp_path / "site.yaml")
    policies = tmp_path / "policies.yaml"
    os.mkfifo(policies)
    with pytest.raises(ConfigError, match="is no regular file"):
        read_again(policies, site)
