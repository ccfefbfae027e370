"""site.yaml becomes the site that it declares, or every problem is named."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import pytest

from broker.app.pools import require_runnable
from broker.app.settings import lint, load_site
from broker.app.settings.site import BreakerSettings, LimitSettings, LocalPool, MemoryLog, SiteSettings, SqliteLog
from broker.model.errors import ConfigError, ConfigErrors
from broker.model.replica import Tier
from broker.model.spec import BreakerSpec, JsonValue, Limits, Mode, PoolSpec, SiteSpec
from tests.unit.settings.files import SITE, refusal, site_of_data, written


def test_the_least_that_a_site_says_is_its_cluster_and_a_pool(tmp_path: Path) -> None:
    site = load_site(written(tmp_path, SITE))
    assert site.spec == SiteSpec("demo", (PoolSpec("local", "local", 4),), Mode.ACT, Limits())
    assert site.api.host == "127.0.0.1"
    assert isinstance(site.log, SqliteLog)


def test_everything_that_can_be_said_arrives(tmp_path: Path) -> None:
    site = load_site(
        written(
            tmp_path,
            """
            cluster: demo
            mode: observe
            pools:
              big: {kind: local, gpus: 2, tiers: [elastic], gpu_ids: [3, GPU-8a], ports: [20000, 20099],
                log_limit: 2MiB}
            limits:
              pool_share: 0.5
              signal_patience: 1m30s
              breaker: {failures: 5, open: 30s, max_open: 5m}
            log: {kind: memory, retention: 2h}
            api: {host: "::1", port: 0, read_token_file: /etc/tidegate/read}
            scrape: {interval: 500ms, timeout: 2}
            outputs: {endpoints_file: out/endpoints.json}
            secret_file: secret
            """,
        )
    )
    options: dict[str, JsonValue] = {"gpu_ids": [3, "GPU-8a"], "ports": [20000, 20099]}
    assert site.spec == SiteSpec(
        "demo",
        (PoolSpec("big", "local", 2, (Tier.ELASTIC,), options),),
        Mode.OBSERVE,
        Limits(pool_share=0.5, signal_patience_s=90.0, breaker=BreakerSpec(5, 30.0, 300.0)),
    )
    (big,) = site.pools.values()
    assert isinstance(big, LocalPool)
    assert big.log_limit_bytes == 2 * 2**20
    assert isinstance(site.log, MemoryLog)
    assert site.log.retention_s == 7200.0
    assert (site.scrape.interval_s, site.scrape.timeout_s) == (0.5, 2.0)
    assert site.api.read_token_file == Path("/etc/tidegate/read")
    assert site.outputs.endpoints_file == tmp_path / "out" / "endpoints.json"
    assert site.secret_file == tmp_path / "secret"


def test_paths_start_from_the_files_folder_defaults_too(tmp_path: Path) -> None:
    site = load_site(written(tmp_path, SITE))
    (local,) = site.pools.values()
    assert isinstance(local, LocalPool)
    assert local.state_dir == tmp_path / "var" / "replicas"
    assert isinstance(site.log, SqliteLog)
    assert site.log.path == tmp_path / "var" / "tidegate.sqlite"


def test_a_slurm_pool_says_how_its_jobs_are_asked_for(tmp_path: Path) -> None:
    pool = "{kind: slurm, gpus: 8, partition: GPU_a100, time_limit: 4h, gpu_type: a100, qos: short, gpu_weight: 2}"
    site = load_site(written(tmp_path, f"cluster: hpc\npools:\n  hpc: {pool}\n"))
    options: dict[str, JsonValue] = {
        "gpu_weight": 2.0, "partition": "GPU_a100", "time_limit_s": 14_400.0, "gpu_type": "a100", "qos": "short",
    }  # fmt: skip
    assert site.spec.pools == (PoolSpec("hpc", "slurm", 8, options=options),)
    with pytest.raises(ConfigErrors, match=r"pools\.hpc\.job: is missing"):
        require_runnable(site, tmp_path / "site.yaml")


def test_a_template_that_cannot_be_rendered_is_told_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "own.sh.j2").write_text("#!/bin/sh\n{{ wieghts }}\n")
    job = "{broker_url: 'http://login1:8600', directory: /scratch, template: own.sh.j2}"
    pool = f"{{kind: slurm, gpus: 8, partition: gpu, time_limit: 4h, job: {job}}}"
    path = written(tmp_path, f"cluster: hpc\npools:\n  hpc: {pool}\n")
    with pytest.raises(ConfigErrors, match=r"file\.yaml: pools\.hpc\.job\.template: .*'wieghts' is undefined"):
        require_runnable(load_site(path), path)
    (problem,) = lint(path).problems
    assert (problem.line, problem.field) == (3, "pools.hpc.job.template")
    assert "'wieghts' is undefined; it may use" in problem.problem


def test_a_parser_that_nobody_speaks_is_told_with_those_that_are(tmp_path: Path) -> None:
    transport = "{kind: slurmrestd, url: 'http://login1:6820', parser: v9}"
    pool = f"{{kind: slurm, gpus: 8, partition: gpu, time_limit: 4h, transport: {transport}}}"
    path = written(tmp_path, f"cluster: hpc\npools:\n  hpc: {pool}\n")
    (problem,) = lint(path).problems
    assert (problem.line, problem.field) == (3, "pools.hpc.transport.parser")
    assert "the parser 'v9' is none of those that Tidegate speaks: v0.0.45" in problem.problem


def test_what_the_core_sees_does_not_depend_on_the_folder(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert load_site(written(tmp_path, SITE)).spec == load_site(written(tmp_path / "other", SITE)).spec


@pytest.mark.parametrize(
    ("section", "spec"), [(LimitSettings, Limits), (BreakerSettings, BreakerSpec)], ids=["limits", "breaker"]
)
def test_every_limit_of_the_core_can_be_set(section: type[LimitSettings], spec: type[Limits]) -> None:
    assert set(section.model_fields) == {field.name for field in dataclasses.fields(spec)}
    assert section().to_spec() == spec()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("polls: {}", "4: polls: unknown field; did you mean pools?", id="a mistyped field"),
        pytest.param("mode: watch", "4: mode: 'watch' is not known here; known: observe, act", id="an unknown mode"),
        pytest.param("scrape:", "4: scrape: is empty; give it a value or leave it out", id="an empty section"),
        pytest.param(
            "scrape: {by: scrapers}",
            "4: scrape.by: scrapers write what they read to topics, and the log is kept in sqlite: set log to one in "
            "kafka (docs/kafka.md), or leave it to the broker",
            id="scrapers without topics",
        ),
        pytest.param("scrape: 1s", "4: scrape: '1s' is not a group of fields", id="a value for a section"),
        pytest.param(
            "scrape: {interval: 0}", "4: scrape.interval: 0 is too little; it must be more than 0", id="no time"
        ),
        pytest.param(
            "scrape: {interval: 5 minutes}",
            "4: scrape.interval: '5 minutes' is not a duration; write for example 30s, 5m or 1h30m",
            id="a duration in words",
        ),
        pytest.param(
            "scrape: {interval: [1s]}", "4: scrape.interval: ['1s'] is not a duration", id="a list for a duration"
        ),
        pytest.param("scrape: {interval: -1s}", "4: scrape.interval: '-1s' is not a duration", id="time going back"),
        pytest.param("api: {port: 70000}", "4: api.port: 70000 is too much; the most is 65535", id="no such port"),
        pytest.param('api: {port: "80"}', "4: api.port: '80' is not a whole number", id="text for a number"),
        pytest.param(f"api: {{port: {'9' * 21}}}", "4: api.port: 1e+21 is too large", id="beyond all numbers"),
        pytest.param("api: {port: true}", "4: api.port: True is not a whole number", id="a truth for a number"),
        pytest.param("api: {host: 1}", "4: api.host: 1 is not text; put it in quotes", id="a number for text"),
        pytest.param("secret_file: ''", "4: secret_file: '' is not a path", id="an empty path"),
        pytest.param("log: {path: x}", "4: log.kind: this field is missing; known: sqlite, memory", id="no kind"),
        pytest.param(
            "log: {kind: paper}", "4: log.kind: 'paper' is not known here; known: sqlite, memory, kafka", id="kind"
        ),
        pytest.param(
            "log: {kind: memory, path: x}",
            "4: log.path: unknown field; known: kind, retention",
            id="another kind's field",
        ),
        pytest.param("limits: {pool_share: 1.5}", "4: limits.pool_share: 1.5 is too much; the most is 1", id="share"),
        pytest.param(
            "limits: {snapshot_interval: 15s}",
            "4: limits.snapshot_interval: is not shorter than signal_patience, which is 15s: signals would be stale",
            id="snapshots as rare as patience lasts",
        ),
        pytest.param(
            "limits: {breaker: {open: 1h, max_open: 5m}}",
            "4: limits.breaker.max_open: is shorter than open, which is 1h",
            id="a breaker that closes before it opens",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_line_and_what_would_be_right(tmp_path: Path, text: str, problem: str) -> None:
    problems = refusal(load_site, written(tmp_path, SITE + " " * 4 + text))
    assert len(problems) == 1
    assert problems[0].startswith(problem)


@pytest.mark.parametrize(
    ("pool", "problem"),
    [
        pytest.param("{gpus: 1}", "pools.local.kind: this field is missing; known: local, slurm", id="no kind"),
        pytest.param(
            "{kind: slum, gpus: 1}", "pools.local.kind: 'slum' is not known here; did you mean slurm?", id="kind"
        ),
        pytest.param(
            "{kind: local, gpus: -1}", "pools.local.gpus: -1 is too little; the least is 0", id="less than none"
        ),
        pytest.param("{kind: local, gpus: 1.5}", "pools.local.gpus: 1.5 is not a whole number", id="half a GPU"),
        pytest.param("{kind: local, gpus: 1, tiers: []}", "pools.local.tiers: needs at least 1", id="no tier"),
        pytest.param(
            "{kind: local, gpus: 1, tiers: [elastik]}",
            "pools.local.tiers[0]: 'elastik' is not known here; did you mean elastic?",
            id="a mistyped tier",
        ),
        pytest.param(
            "{kind: local, gpus: 2, gpu_ids: [0]}", "pools.local.gpu_ids: 1 devices for 2 gpus", id="too few devices"
        ),
        pytest.param(
            "{kind: local, gpus: 1, gpu_ids: [-1]}", "pools.local.gpu_ids[0]: -1 is too little", id="no such device"
        ),
        pytest.param(
            "{kind: local, gpus: 1, ports: [9, 8]}", "pools.local.ports: [9, 8] is not [first, last]", id="ports"
        ),
        pytest.param(
            "{kind: local, gpus: 1, log_limit: much}",
            "pools.local.log_limit: 'much' is not a size; write for example 500kB or 20MiB",
            id="a size in words",
        ),
    ],
)
def test_a_wrong_pool_is_named(tmp_path: Path, pool: str, problem: str) -> None:
    problems = refusal(load_site, written(tmp_path, f"cluster: demo\npools:\n  local: {pool}\n"))
    assert problems[0].startswith(f"3: {problem}")


@pytest.mark.parametrize(
    "url", ["login1:8600", "http://login1:99999", "http://[::1", "ftp://login1/", "http://", "http://login 1/"]
)
def test_an_address_that_no_node_could_ask_is_named_before_a_job_waits_for_it(tmp_path: Path, url: str) -> None:
    job = f"{{directory: /jobs, broker_url: '{url}'}}"
    pool = f"{{kind: slurm, gpus: 8, partition: gpu, time_limit: 4h, job: {job}}}"
    problems = refusal(load_site, written(tmp_path, f"cluster: demo\npools:\n  shared: {pool}\n"))
    assert problems[0].startswith(f"3: pools.shared.job.broker_url: {url!r} is no address; write for example http://")


def test_a_name_that_no_job_can_have_is_named(tmp_path: Path) -> None:
    problems = refusal(load_site, written(tmp_path, "cluster: My Cluster\npools:\n  A_B: {kind: local, gpus: 1}\n"))
    assert problems[0].startswith("1: cluster: 'My Cluster' cannot name jobs")
    assert problems[1].startswith("3: pools.A_B: 'A_B' cannot name jobs")


def test_all_problems_are_told_at_once_by_line(tmp_path: Path) -> None:
    problems = refusal(
        load_site, written(tmp_path, "mode: watch\npools: {}\nlimits:\n  pool_share: 2\n  pool_share: 3\nmode: act\n")
    )
    assert [problem.partition(": ")[0] for problem in problems] == ["1", "1", "2", "4", "5", "6"]


@pytest.mark.parametrize("text", ["[]", "demo", "3"], ids=["list", "text", "number"])
def test_a_file_that_is_no_group_of_fields_is_told(tmp_path: Path, text: str) -> None:
    assert refusal(load_site, written(tmp_path, text))[0].endswith("is not a group of fields")


def test_the_errors_are_of_the_one_tree_and_show_the_first_as_their_own(tmp_path: Path) -> None:
    path = written(tmp_path, "cluster: demo\npools: {}\nmode: watch\n")
    with pytest.raises(ConfigError) as caught:
        load_site(path)
    assert (caught.value.path, caught.value.line, caught.value.field) == (str(path), 2, "pools")
    assert len(str(caught.value).splitlines()) == 2


def test_a_site_can_be_made_without_a_file() -> None:
    make = partial(site_of_data, mode="observe")
    assert make().spec.mode is Mode.OBSERVE
    assert isinstance(make(), SiteSettings)
