"""Looks at every replica on record, often while it loads, regularly while it serves."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable

from broker.app.runtime import Runtime, cancel
from broker.model.identity import endpoint_key
from broker.model.observation import Probe, ProbeVerdict
from broker.model.replica import ON_ITS_WAY, Replica, ReplicaPhase
from signals.ingest.probe import Prober, ProbeTarget

_LOADING_INTERVAL_S = 0.5
_SERVING_INTERVAL_S = 1.0
_TICK_S = 0.1
_AT_ONCE = 64


class ProbeLoop:
    """One probe of a replica at a time, ``_AT_ONCE`` in all; verdicts that tell something new go to the runtime."""

    def __init__(self, runtime: Runtime, prober: Prober, site_secret: bytes) -> None:
        self._runtime = runtime
        self._prober = prober
        self._secret = site_secret
        self._next_at: dict[str, float] = {}
        self._looking: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """For ever."""
        clock = self._runtime.clock
        try:
            while True:
                self._begin_due(clock.now())
                await clock.sleep_until(clock.now() + _TICK_S)
        finally:
            await cancel(list(self._looking.values()))

    def _begin_due(self, now: float) -> None:
        wanted = {replica.replica_id: replica for replica in self._to_probe()}
        for gone in self._next_at.keys() - wanted.keys():
            del self._next_at[gone]
        due = [
            (at, name)
            for name in wanted
            if name not in self._looking and (at := self._next_at.setdefault(name, now)) <= now
        ]
        # Longest due first: in the order of the records, those at the end of a large site would never have a turn.
        for _, name in sorted(due)[: _AT_ONCE - len(self._looking)]:
            replica = wanted[name]
            interval_s = _LOADING_INTERVAL_S if replica.phase in ON_ITS_WAY else _SERVING_INTERVAL_S
            self._next_at[name] = now + interval_s
            task = self._looking[name] = asyncio.create_task(self._look(replica))
            task.add_done_callback(functools.partial(self._forget, name))

    def _forget(self, name: str, _: asyncio.Task[None]) -> None:
        del self._looking[name]

    def _to_probe(self) -> Iterable[Replica]:
        state = self._runtime.core.loop.state
        for members in state.replicas.values():
            for replica in members.values():
                doubted = (
                    replica.phase is ReplicaPhase.DRAINING and replica.drain and replica.drain.reason == "unhealthy"
                )
                if replica.url and (replica.phase in ON_ITS_WAY or replica.phase is ReplicaPhase.READY or doubted):
                    yield replica

    async def _look(self, replica: Replica) -> None:
        key = endpoint_key(self._secret, replica.replica_id, replica.generation)
        target = ProbeTarget(
            replica.replica_id, replica.model_id, replica.url or "", key, thorough=replica.phase in ON_ITS_WAY
        )
        probe = await self._prober.look(target)
        if not self._says_nothing_new(probe):
            self._runtime.offer(probe)

    def _says_nothing_new(self, probe: Probe) -> bool:
        """What the records say already needs no step and no line in the log: a replica may load for half an hour."""
        record = self._runtime.core.loop.state.replicas_of(probe.model_id).get(probe.replica_id)
        if record is None:
            return True
        match probe.verdict:
            case ProbeVerdict.READY:
                return record.phase is ReplicaPhase.READY and record.unhealthy_since is None
            case ProbeVerdict.LOADING if record.phase in ON_ITS_WAY:
                return record.phase is ReplicaPhase.LOADING
            case ProbeVerdict.LOADING | ProbeVerdict.UNREACHABLE:
                return record.phase is not ReplicaPhase.READY or record.unhealthy_since is not None
            case ProbeVerdict.WRONG:
                return False
