"""``cluster.yaml`` describes a cluster, and what is wrong with it is named by line and field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker.app.settings.cluster import load_cluster
from broker.model.errors import ConfigErrors
from cli.clusters import read_cluster
from simulator.cluster.spec import NodeGroup, PreemptMode
from tests.unit.settings.files import EXAMPLES, written

SMALL = """
nodes:
  gpu: {count: 4, gpus: 2}
partitions:
  Batch_A100: {max_time: 1d, preempt: cancel, grace: 30s}
"""


def test_the_example_describes_a_cluster_with_other_users() -> None:
    plan = read_cluster(EXAMPLES / "cluster.yaml")
    assert plan.spec.groups == (NodeGroup("gpu", 24, 4), NodeGroup("service", 2, 4))
    assert [partition.max_limit_s for partition in plan.spec.partitions] == [86_400.0, 7 * 86_400.0]
    assert plan.spec.start_rules[0].windows[-1].closes == 7 * 24 + 6
    assert [each.name for each in plan.background] == ["users"]
    assert plan.cold_starts["chat"].boot_again.median_s == 49.0
    assert plan.cold_starts["chat"].cached_gib == 16.0
    assert (plan.cache_gib, plan.lead_s) == (200.0, 2 * 86_400.0)


def test_partitions_have_slurms_names_and_rules(tmp_path: Path) -> None:
    (partition,) = read_cluster(written(tmp_path, SMALL, "cluster.yaml")).spec.partitions
    assert (partition.name, partition.preempt, partition.grace_s) == ("Batch_A100", PreemptMode.CANCEL, 30.0)


WRONG = {
    "nodes that are not there": (
        "partitions: {a: {nodes: [gpus]}}",
        r"4: partitions\.a\.nodes\[0\]: there are no nodes",
    ),
    "a partition that is not there": (
        "partitions: {a: {}}\nbackground: {b: {kind: swf, path: x, partition: c}}",
        r"5: background\.b\.partition: there is no partition 'c'; known: a",
    ),
    "a profile that is not there": (
        "partitions: {a: {}}\nbackground: {b: {kind: generated, profile: x, partition: a}}",
        r"5: background\.b\.profile: no batch profile 'x'; there are cea_curie, kth_sp2",
    ),
    "a partition of no nodes": ("partitions: {a: {nodes: []}}", r"4: partitions\.a\.nodes: names no nodes"),
    "a window of no time": (
        "partitions: {a: {}}\nstart_rules: [{over: 1h, windows: [{from_day: mon, from: 8:00, to_day: mon, to: 8:00}]}]",
        r"5: start_rules\[0\]\.windows\[0\]\.to: opens and closes at the same time",
    ),
    "nodes that fail all the time": (
        "partitions: {a: {}}\nfailures: {mean_between: 1ms}",
        r"5: failures\.mean_between: .*600",
    ),
    "a load of millions of jobs": (
        "partitions: {a: {}}\nbackground: {b: {kind: generated, profile: kth_sp2, partition: a, rate_scale: 1000000}}",
        r"5: background\.b\.rate_scale: .*100",
    ),
    "a time that is none": ("partitions: {a: {max_time: long}}", r"4: partitions\.a\.max_time"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named_by_line_and_field(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, f"\nnodes:\n  gpu: {{count: 4, gpus: 2}}\n\n{text}\n", "cluster.yaml")
    with pytest.raises(ConfigErrors) as caught:
        load_cluster(path)
    assert re.search(rf"cluster\.yaml:{message}", str(caught.value))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("{gpu: {count: 1000000000000, gpus: 2}}", r"1: nodes\.gpu\.count"),
        ("{gpu: {count: 4, gpus: 1000000000}}", r"1: nodes\.gpu\.gpus"),
        ("{a: {count: 10000, gpus: 2}, b: {count: 10000, gpus: 2}}", r"1: nodes: 20,000 nodes in all"),
    ],
)
def test_a_cluster_that_fits_no_memory_is_refused(tmp_path: Path, nodes: str, message: str) -> None:
    path = written(tmp_path, f"nodes: {nodes}\npartitions: {{a: {{}}}}\n", "cluster.yaml")
    with pytest.raises(ConfigErrors) as caught:
        load_cluster(path)
    assert re.search(rf"cluster\.yaml:{message}", str(caught.value))
