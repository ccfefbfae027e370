"""Why a replica ended stays on its record: the reason for which it was told to exit, not that it then exited."""

from __future__ import annotations

from dataclasses import replace

from broker.model.observation import ProbeVerdict
from broker.model.replica import ReplicaPhase
from tests.support.world import World


def test_a_replica_that_gave_a_wrong_answer_still_says_so_when_it_has_exited() -> None:
    world = World().begin()
    launch = world.launches()[0]
    world.see(world.accept(launch))
    world.see(world.listing())
    world.see(replace(world.probe(launch.replica_id, ProbeVerdict.WRONG), detail="it serves other, not chat"))
    world.see(world.listing(chat_0_g1=ReplicaPhase.GONE))
    ended = world.replicas()[0]
    assert (ended.phase, ended.failure) == (ReplicaPhase.FAILED, "wrong_answer")
    assert ended.detail == "it serves other, not chat"
