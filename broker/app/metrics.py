"""The broker's own metrics, in Prometheus's text form, read from the committed state at each scrape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from broker.app.runtime import Runtime
from broker.log_lines import LogStream

MEDIA_TYPE = "text/plain; version=0.0.4"

_Labelled = Iterable[tuple[dict[str, str], float]]


def render(runtime: Runtime) -> str:
    """The page for ``GET /metrics``."""
    state, now = runtime.core.loop.state, runtime.clock.now()
    phases = Counter((r.model_id, r.phase.value) for members in state.replicas.values() for r in members.values())
    models = state.models.values()
    live_since = now - (state.control.site.limits.gateway_session_s if state.control.site else 0.0)
    live = sum(gateway.seen_at > live_since for gateway in state.gateways.values())
    families: list[tuple[str, str, _Labelled]] = [
        ("tidegate_model_target", "Replicas wanted.", [({"model": m.model_id}, m.target) for m in models]),
        (
            "tidegate_replicas",
            "Replicas on record, by phase.",
            [({"model": model, "phase": phase}, count) for (model, phase), count in sorted(phases.items())],
        ),
        (
            "tidegate_pool_known",
            "1 while the pool can be listed.",
            [
                ({"pool": p.pool_id}, float(p.known_at is not None and p.unknown_since is None))
                for p in state.pools.values()
            ],
        ),
        (
            "tidegate_model_breaker_open",
            "1 while failed starts of a model in a pool keep the breaker open.",
            [
                ({"model": m.model_id, "pool": pool_id}, float((breaker.open_until or 0.0) > now))
                for m in models
                for pool_id, breaker in m.breakers.items()
            ],
        ),
        ("tidegate_registry_revision", "Changes of the registry so far.", [({}, state.control.revision)]),
        ("tidegate_gateways", "Live gateway sessions.", [({}, live)]),
        ("tidegate_healthy", "1 while steps go on and are written down.", [({}, float(runtime.problem is None))]),
        ("tidegate_log_lines_lost_total", "Log lines that could not be written.", [({}, LogStream.lost)]),
        (
            "tidegate_last_step_age_seconds",
            "Time since the last step; absent before the first.",
            [] if runtime.last_run_at is None else [({}, max(0.0, now - runtime.last_run_at))],
        ),
    ]
    return "".join(_family(*family) for family in families)


def _family(name: str, told: str, values: _Labelled) -> str:
    kind = "counter" if name.endswith("_total") else "gauge"
    lines = [f"# HELP {name} {told}\n# TYPE {name} {kind}\n"]
    for labels, value in values:
        shown = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{shown}}} {value!r}\n" if shown else f"{name} {value!r}\n")
    return "".join(lines)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
