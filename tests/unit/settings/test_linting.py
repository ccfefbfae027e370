"""What is allowed but seldom meant is a warning; the examples have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.app.settings import lint
from tests.unit.settings.files import EXAMPLES, POLICIES, SITE, written

ADD = "{signal: queue_age_s, above: 5s, for: 30s, change: +1}"
REMOVE = "{signal: requests_per_replica, below: 8, for: 5m, change: -1}"


def warnings(*paths: Path) -> list[str]:
    found = lint(*paths)
    assert not found.problems
    return [f"{warning.line}: {warning.field}: {warning.problem}" for warning in found.warnings]


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("policies*.yaml")))
def test_the_examples_are_without_blame(name: str) -> None:
    found = lint(EXAMPLES / name, EXAMPLES / "site.yaml")
    assert [str(finding) for finding in (*found.problems, *found.warnings)] == []


@pytest.mark.parametrize(
    ("model", "warning"),
    [
        pytest.param(
            f"max: 2, policy: {{kind: threshold, rules: [{ADD}]}}",
            "policy.rules: no rule removes replicas: what a peak has added stays for ever",
            id="RAMSES without a way back",
        ),
        pytest.param(
            f"max: 2, policy: {{kind: threshold, rules: [{REMOVE}]}}",
            "policy.rules: no rule adds replicas",
            id="no way out",
        ),
        pytest.param(
            f"max: 2, policy: {{kind: threshold, rules: [{ADD}, {{signal: queue_age_s, below: 1, change: -1}}]}}",
            "policy.rules[1]: removes replicas at the first quiet moment; give it a for",
            id="hasty",
        ),
        pytest.param(
            f"min: 2, max: 2, policy: {{kind: threshold, rules: [{ADD}, {REMOVE}]}}",
            "policy: min and max are both 2, so the policy decides nothing",
            id="a policy without room",
        ),
        pytest.param(
            f"max: 2, stabilisation: {{scale_in: 5m}}, policy: {{kind: threshold, rules: [{ADD}, {REMOVE}]}}",
            "stabilisation: does nothing with threshold",
            id="hysteresis that is not used",
        ),
        pytest.param(
            "max: 2, policy: {kind: schedule, time_zone: UTC}", "policy.entries: a schedule without entries", id="bare"
        ),
        pytest.param(
            "max: 2, policy: {kind: schedule, time_zone: UTC, entries: [{floor: 3}]}",
            "policy.entries[0].floor: 3 is more than the model's max, which is 2",
            id="a floor above max",
        ),
        pytest.param(
            "min: 1, max: 2, policy: {kind: schedule, time_zone: UTC, default: {ceiling: 0}, entries: [{floor: 1}]}",
            "policy.default.ceiling: 0 is less than the model's min, which is 1",
            id="a ceiling below min",
        ),
        pytest.param(
            "max: 2, policy: {kind: schedule, time_zone: UTC, entries: [{floor: 1}], within: {kind: threshold, "
            f"rules: [{ADD}]}}}}",
            "policy.within.rules: no rule removes replicas",
            id="inside a schedule",
        ),
        pytest.param(
            f"shadows: {{bold: {{kind: threshold, rules: [{ADD}]}}}}",
            "shadows.bold.rules: no rule removes replicas",
            id="in a shadow",
        ),
    ],
)
def test_a_policy_that_is_seldom_meant_is_a_warning(tmp_path: Path, model: str, warning: str) -> None:
    path = written(tmp_path, f"models:\n  chat: {{engine: {{command: [serve, '{{port}}']}}, {model}}}\n")
    found = warnings(path)
    assert len(found) == 1
    assert found[0].startswith(f"2: models.chat.{warning}")


def test_an_engine_that_is_not_told_its_port_is_a_warning(tmp_path: Path) -> None:
    path = written(tmp_path, "models:\n  chat: {engine: {command: [vllm, serve]}}\n")
    assert "has no {port}" in warnings(path)[0]
    path = written(tmp_path, "models:\n  chat: {engine: {command: [serve], environment: {PORT: '{port}'}}}\n")
    assert warnings(path) == []


def test_a_model_that_its_pools_cannot_hold_is_a_warning(tmp_path: Path) -> None:
    site = written(tmp_path, SITE.replace("gpus: 4", "gpus: 3"), "site.yaml")
    assert warnings(site, written(tmp_path, POLICIES)) == [
        "4: models.chat.max: 4 replicas of 1 GPUs do not fit: its pools have room for 3"
    ]


SLURM = """
    cluster: hpc
    pools:
      narrow: {kind: slurm, partition: gpu, time_limit: 4h, gpus: 16, gpus_per_node: 4}
      wide: {kind: slurm, partition: fat, time_limit: 4h, gpus: 16, gpus_per_node: 8}
"""


@pytest.mark.parametrize(
    ("gpus", "pools", "warned"),
    [
        pytest.param(4, "[narrow, wide]", "", id="it fits a node of each"),
        pytest.param(8, "[narrow, wide]", "narrow: 4", id="it fits a node of one"),
        pytest.param(8, "[wide]", "", id="it never runs where it does not fit"),
        pytest.param(16, "[]", "narrow: 4, wide: 8", id="it fits no node"),
    ],
)
def test_a_replica_larger_than_a_node_is_a_warning(tmp_path: Path, gpus: int, pools: str, warned: str) -> None:
    model = f"{{engine: {{command: [serve, '{{port}}']}}, gpus: {gpus}, pools: {pools}}}"
    policies = written(tmp_path, f"models:\n  chat: {model}\n", "policies.yaml")
    found = warnings(policies, written(tmp_path, SLURM, "site.yaml"))
    words = (
        f"{gpus} are more than one node has ({warned}): a simulation takes several, and no replica can be run there yet"
    )
    assert found == ([f"2: models.chat.gpus: {words}"] if warned else [])


@pytest.mark.parametrize(
    ("drain_limit", "warned"),
    [
        pytest.param("58m", False, id="a quarter of the wall time holds it and the margin"),
        pytest.param("59m", True, id="a quarter of the wall time is too little"),
    ],
)
def test_a_drain_limit_too_long_for_a_jobs_wall_time_is_a_warning(
    tmp_path: Path, drain_limit: str, warned: bool
) -> None:
    model = f"{{engine: {{command: [serve, '{{port}}']}}, drain_limit: {drain_limit}, pools: [wide]}}"
    policies = written(tmp_path, f"models:\n  chat: {model}\n", "policies.yaml")
    found = warnings(policies, written(tmp_path, SLURM, "site.yaml"))
    told = (
        "2: models.chat.drain_limit: takes 1h1m with limits.renewal.margin, more than a quarter of a job's wall time "
        "(wide: 4h): no more is kept free to drain, and what takes longer may be cut at the job's end"
    )
    assert found == ([told] if warned else [])


def test_all_problems_of_a_model_are_told_at_once(tmp_path: Path) -> None:
    """Told one after the other, each costs its reader another round."""
    model = """
        models:
          chat:
            engine: {command: [serve, '{prot}']}
            gpus: 8
            min: 5
            max: 2
            pools: [nowhere, local]
            slo: {first_token: -1}
            policy:
              kind: threshold
              rules:
                - {signal: kv_cache_use, above: 80, for: 10x, change: -1, projected: true}
    """
    found = lint(written(tmp_path, model, "policies.yaml"), written(tmp_path, SITE, "site.yaml"))
    assert [problem.field for problem in found.problems] == [
        "models.chat.engine.command[1]",
        "models.chat.max",
        "models.chat.pools[0]",
        "models.chat.slo.first_token",
        "models.chat.policy.rules[0].above",
        "models.chat.policy.rules[0].for",
        "models.chat.policy.rules[0].change",
    ]
    assert [warning.field for warning in found.warnings] == ["models.chat.max"]


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        pytest.param("api: {host: 0.0.0.0}", "api.host: 0.0.0.0 can be reached by others", id="open to others"),
        pytest.param("api: {host: localhost}", "", id="localhost is this machine"),
        pytest.param("log: {kind: memory}", "log.kind: after a restart", id="a broker that forgets"),
        pytest.param("scrape: {interval: 10s}", "limits.signal_patience: is less than three scrape", id="impatient"),
        pytest.param(
            "secret_file: none",
            "secret_file: none does not exist yet; make one with: (umask 077; openssl",
            id="no secret yet",
        ),
        pytest.param(
            "api: {read_token_file: open}", "api.read_token_file: open can be read by every", id="known to all"
        ),
        pytest.param("api: {read_token_file: closed}", "", id="a token of one's own"),
    ],
)
def test_a_site_that_is_seldom_meant_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, warning: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "x", "open").chmod(0o644)
    written(tmp_path, "x", "closed").chmod(0o600)
    found = warnings(written(tmp_path, SITE + " " * 4 + line))
    assert [f"4: {warning}" in text or warning in text for text in found] == [True] * bool(warning)


def test_a_site_without_a_baseline_pool_is_a_warning(tmp_path: Path) -> None:
    path = written(tmp_path, SITE.replace("gpus: 4", "gpus: 4, tiers: [elastic]"))
    assert "no pool takes the baseline tier" in warnings(path)[0]


def test_the_problems_of_all_files_are_told_and_policies_are_judged_alone_then(tmp_path: Path) -> None:
    site = written(tmp_path, "cluster: demo\n", "site.yaml")
    policies = written(tmp_path, POLICIES.replace("max: 4", "max: 4\n        pools: [nowhere]"), "policies.yaml")
    broken = written(tmp_path, "models: {chat: }\n", "broken.yaml")
    found = lint(site, policies, broken, tmp_path / "none.yaml")
    assert [(Path(problem.path or "").name, problem.field) for problem in found.problems] == [
        ("site.yaml", "pools"),
        ("broken.yaml", "models.chat"),
        ("none.yaml", None),
    ]


def test_policies_with_models_misspelt_are_no_site(tmp_path: Path) -> None:
    path = written(tmp_path, "model:\n  chat: {engine: {command: [serve]}}\n")
    told = [str(problem) for problem in lint(path).problems]
    assert any("did you mean models?" in problem for problem in told)
    assert not any("cluster" in problem for problem in told)


def test_an_unknown_pool_is_a_problem_when_the_site_is_known(tmp_path: Path) -> None:
    site = written(tmp_path, SITE, "site.yaml")
    policies = written(tmp_path, POLICIES.replace("max: 4", "max: 4\n        pools: [nowhere]"), "policies.yaml")
    assert [problem.field for problem in lint(policies, site).problems] == ["models.chat.pools[0]"]


def test_policies_without_a_model_are_warned_of(tmp_path: Path) -> None:
    """They are how to end everything, and what an editor leaves that saved too early."""
    path = tmp_path / "policies.yaml"
    path.write_text("models: {}\n")
    assert warnings(path) == [
        "1: models: no model is declared: a broker that reads this drains and stops every replica"
    ]
