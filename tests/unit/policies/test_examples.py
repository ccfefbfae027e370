"""What operators will copy: each policy in the documents and in the example files is read and built."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from broker.app.settings import load_policies
from policies.registry import build
from tests.support.shared_data import REPOSITORY

MODEL = "models:\n  chat:\n    engine: {command: [serve]}\n    min: 1\n    max: 6\n    pools: [local]\n"
BLOCKS = re.findall(r"```yaml\n(policy:.*?)```", (REPOSITORY / "docs/policies.md").read_text(), flags=re.DOTALL)
EXAMPLES = sorted((REPOSITORY / "deploy/examples").glob("policies*.yaml"))


def test_both_policies_are_shown() -> None:
    assert [block.split()[2] for block in BLOCKS] == ["threshold", "schedule"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split()[2])
def test_a_documented_policy_can_be_built(block: str, tmp_path: Path) -> None:
    file = tmp_path / "policies.yaml"
    file.write_text(MODEL + textwrap.indent(block, "    "))
    (model,) = load_policies(file)
    assert build(model.policy).kind == model.policy.kind


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_files_policies_can_be_built(file: Path) -> None:
    for model in load_policies(file):
        for spec in (model.policy, *model.shadows.values()):
            assert build(spec).kind == spec.kind
