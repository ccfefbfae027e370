"""The broker's own metrics, read from the committed state at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain

from broker.app.runtime import Runtime
from broker.log_lines import LogStream
from broker.prometheus_text import Family, single, text_of


def render(runtime: Runtime, others: Iterable[Family] = ()) -> str:
    """The page for ``GET /metrics``; ``others`` follow the broker's own."""
    return text_of(chain(_families(runtime), others))


def _families(runtime: Runtime) -> Iterator[Family]:
    state, now = runtime.core.loop.state, runtime.clock.now()
    phases = Counter((r.model_id, r.phase.value) for members in state.replicas.values() for r in members.values())
    models = state.models.values()
    live_since = now - (state.control.site.limits.gateway_session_s if state.control.site else 0.0)
    yield Family("tidegate_model_target", "Replicas wanted.", [("", {"model": m.model_id}, m.target) for m in models])
    yield Family(
        "tidegate_replicas",
        "Replicas on record, by phase.",
        [("", {"model": model, "phase": phase}, count) for (model, phase), count in sorted(phases.items())],
    )
    yield Family(
        "tidegate_pool_known",
        "1 while the pool can be listed.",
        [
            ("", {"pool": p.pool_id}, float(p.known_at is not None and p.unknown_since is None))
            for p in state.pools.values()
        ],
    )
    yield Family(
        "tidegate_model_breaker_open",
        "1 while failed starts of a model in a pool keep the breaker open.",
        [
            ("", {"model": m.model_id, "pool": pool_id}, float((breaker.open_until or 0.0) > now))
            for m in models
            for pool_id, breaker in m.breakers.items()
        ],
    )
    yield single("tidegate_registry_revision", "Changes of the registry so far.", state.control.revision)
    live = sum(gateway.seen_at > live_since for gateway in state.gateways.values())
    yield single("tidegate_gateways", "Live gateway sessions.", live)
    yield single("tidegate_healthy", "1 while steps go on and are written down.", float(runtime.problem is None))
    yield single("tidegate_log_lines_lost_total", "Log lines that could not be written.", LogStream.lost)
    if runtime.last_run_at is not None:
        age_s = max(0.0, now - runtime.last_run_at)
        yield single("tidegate_last_step_age_seconds", "Time since the last step; absent before the first.", age_s)
