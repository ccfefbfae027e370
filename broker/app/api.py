"""The broker's HTTP API: what gateways follow, what operators ask and order. ``docs/http-api.md`` tells it in prose.

Handlers read the committed state and offer observations; none of them decides anything. What an operator orders is
answered when it is written down, not before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Query
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from pydantic import FiniteFloat

from broker import prometheus_text
from broker.app import metrics
from broker.app.access import AgentAccess, Scope, Tokens
from broker.app.agents import AgentTable, agents_router
from broker.app.bodies import (
    LONGEST_ID,
    Author,
    DecisionList,
    ExplainedDecision,
    GatewaySessionBody,
    Health,
    LatestSnapshot,
    ModelList,
    ModelStatus,
    OverrideBody,
    OverrideTaken,
    PauseBody,
    PauseTaken,
    ReplicaList,
    SessionTaken,
    SmallestChange,
    TargetGroup,
)
from broker.app.feed import EventStream, Feed, endpoints_snapshot, prometheus_targets
from broker.app.gateway_sessions import take_session
from broker.app.guard import BodyLimit, Problem, add_errors, guarded
from broker.app.openapi import answers, document
from broker.app.runtime import Runtime
from broker.control.explain import Explanation
from broker.control.standing import standing
from broker.model import wire
from broker.model.agents import AgentAnswer, AgentReport
from broker.model.api import EndpointsSnapshot
from broker.model.errors import shown
from broker.model.observation import Override, OverrideCleared, PauseChanged, PauseScope
from broker.model.state import ModelState
from broker.prometheus_text import Family

Explain = Callable[[str], Awaitable[Explanation | None]]
"""The explanation of a model's last decision, None if there is none yet."""

MOST_DECISIONS = 10_000

_ASKED = (401, 403, 404, 422, 503)
_ORDERED = (401, 403, 404, 409, 422, 503)

_OUT = (
    AgentAnswer, AgentReport, DecisionList, EndpointsSnapshot, ExplainedDecision, Health, LatestSnapshot, ModelList,
    OverrideTaken, PauseTaken, ReplicaList, SessionTaken, TargetGroup,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ApiParts:
    """What the API stands on. ``feed`` is closed by who serves the API, so that open streams end when it stops.
    ``families`` are further metrics of the broker."""

    runtime: Runtime
    feed: Feed
    tokens: Tokens
    agents: AgentTable
    agent_access: AgentAccess
    explain: Explain
    version: str
    families: Callable[[], Iterable[Family]] = tuple


def create_api(parts: ApiParts) -> FastAPI:
    """The application; served by uvicorn in the composition root."""
    app = FastAPI(docs_url=None, redoc_url=None)
    app.add_middleware(BodyLimit)
    add_errors(app)
    routers = [
        _health(parts), _registry(parts), _gateways(parts), _reading(parts), _operating(parts),
        agents_router(parts.agents, parts.agent_access, parts.runtime.clock, lambda: parts.runtime.core.loop.state),
    ]  # fmt: skip
    for router in routers:
        app.include_router(router)
    app.openapi = lambda: document(app.routes, _OUT)  # type: ignore[method-assign]  # FastAPI's documented way
    return app


def _router(parts: ApiParts, *scopes: Scope) -> APIRouter:
    bearer = HTTPBearer(scheme_name="token", auto_error=False)  # for the document; the route class checks
    return APIRouter(route_class=guarded(parts.tokens, *scopes), dependencies=[Depends(bearer)])


def _json(body: Any) -> JSONResponse:
    return JSONResponse(wire.encode(body))


def _health(parts: ApiParts) -> APIRouter:
    runtime, router = parts.runtime, APIRouter()
    told = answers(Health, words="They do.")
    told["responses"][503] = told["responses"][200] | {"description": "They do not."}

    @router.get("/healthz", summary="Whether the broker leads and its steps go on", **told)
    async def healthz() -> JSONResponse:
        """503 with the same body while steps do not go on. No token is asked for."""
        last, epoch, problem = runtime.last_run_at, runtime.core.loop.epoch, runtime.problem
        body = Health(
            status="ok" if problem is None else "degraded",
            leader=epoch is not None,
            epoch=None if epoch is None else epoch.number,
            last_step_age_s=None if last is None else max(0.0, runtime.clock.now() - last),
            problem=problem,
            version=parts.version,
        )
        return JSONResponse(wire.encode(body), status_code=200 if problem is None else 503)

    return router


def _registry(parts: ApiParts) -> APIRouter:
    runtime, router = parts.runtime, _router(parts, Scope.READ, Scope.GATEWAY)

    @router.get("/v1/endpoints", summary="The published endpoints", **answers(EndpointsSnapshot, 401, 403, 503))
    async def endpoints() -> JSONResponse:
        """Ready and draining ones. Scopes: read, gateway."""
        _require_first_step(runtime)
        return _json(endpoints_snapshot(runtime))

    @router.get(
        "/v1/endpoints/stream",
        summary="Snapshot, then changes, as server-sent events",
        **answers(None, 401, 403, 503, kind=EventStream, words="Events `snapshot`, `change` and `lease`."),
    )
    async def stream() -> EventStream:
        """`snapshot` first (and again should a change have been missed), then `change` by rising revision, `lease`
        each second while the broker's steps go on. The `id` of an event is its revision. Scopes: read, gateway."""
        _require_first_step(runtime)
        return EventStream(parts.feed.events())

    @router.get("/v1/prometheus/targets", summary="Prometheus http_sd", **answers(TargetGroup, 401, 403, is_list=True))
    async def targets() -> JSONResponse:
        """One target for each published endpoint. Scopes: read, gateway."""
        return JSONResponse([wire.encode(group) for group in prometheus_targets(runtime.core.loop.state)])

    return router


def _gateways(parts: ApiParts) -> APIRouter:
    runtime, router = parts.runtime, _router(parts, Scope.GATEWAY)

    @router.put("/v1/gateways/{gateway_id}", summary="A gateway's session", **answers(SessionTaken, 401, 403, 413, 422))
    async def gateway_session(
        gateway_id: Annotated[str, Path(max_length=LONGEST_ID)], body: GatewaySessionBody
    ) -> JSONResponse:
        """Applied revision, requests in flight, summaries. A `sequence` must rise, or it is ignored. Scope: gateway."""
        await take_session(runtime, gateway_id, body, runtime.clock.now())
        return _json(SessionTaken(runtime.core.loop.state.control.revision))

    return router


def _reading(parts: ApiParts) -> APIRouter:
    runtime, router = parts.runtime, _router(parts, Scope.READ)

    @router.get(
        "/v1/models", summary="Models with target, phases, override, breaker; pauses", **answers(ModelList, 401, 403)
    )
    async def models() -> JSONResponse:
        """Scope: read."""
        state = runtime.core.loop.state
        found = tuple(_status(model, runtime) for model in state.models.values())
        return _json(ModelList(runtime.clock.now(), found, state.control.pauses))

    @router.get("/v1/replicas", summary="The broker's record of each replica", **answers(ReplicaList, *_ASKED))
    async def replicas(model: str | None = None) -> JSONResponse:
        """Scope: read."""
        if model is not None:
            _known_model(runtime, model)
        state = runtime.core.loop.state
        members = tuple(r for name, rs in state.replicas.items() if model in (None, name) for r in rs.values())
        return _json(ReplicaList(runtime.clock.now(), members, tuple(state.pools.values())))

    @router.get("/v1/decisions", summary="Decisions, newest first", **answers(DecisionList, *_ASKED))
    async def decisions(
        model: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_DECISIONS)] = 100,
        since: Annotated[FiniteFloat, Query()] = 0.0,
    ) -> JSONResponse:
        """The newest `limit` of those not older than `since` (seconds since the Unix epoch). Scope: read."""
        found = tuple(await runtime.log.decisions(model, since=since, limit=limit))
        if model is not None and not found:  # one that is forgotten may still have some on record
            _known_model(runtime, model)
        return _json(DecisionList(found))

    @router.get("/v1/explain/{model_id}", summary="The last decision in words", **answers(ExplainedDecision, *_ASKED))
    async def explain(model_id: str) -> JSONResponse:
        """Why it was taken, and the smallest change of input that would have changed it. Scope: read."""
        _known_model(runtime, model_id)
        explanation = await parts.explain(model_id)
        if explanation is None:
            raise Problem(404, "no_decision", f"nothing has been decided for {model_id!r} yet")
        now = standing(runtime.core.loop.state, model_id, runtime.clock.now())
        return _json(_explained(explanation, tuple(now)))

    @router.get("/v1/signals/{model_id}", summary="The latest snapshot of a model", **answers(LatestSnapshot, *_ASKED))
    async def signals(model_id: str) -> JSONResponse:
        """Scope: read."""
        return _json(LatestSnapshot(_known_model(runtime, model_id).snapshot))

    @router.get(
        "/metrics",
        summary="The broker's own metrics",
        **answers(None, 401, 403, kind=PlainTextResponse, words="Prometheus's text form."),
    )
    async def own_metrics() -> PlainTextResponse:
        """Scope: read."""
        return PlainTextResponse(metrics.render(runtime, parts.families()), media_type=prometheus_text.MEDIA_TYPE)

    return router


def _operating(parts: ApiParts) -> APIRouter:
    runtime, router = parts.runtime, _router(parts, Scope.OPERATE)

    @router.post(
        "/v1/overrides", summary="Set or hold a model's target for a time", **answers(OverrideTaken, *_ORDERED)
    )
    async def override(body: OverrideBody) -> JSONResponse:
        """Answered when it is durable, with the target that the next step made of it. Scope: operate."""
        if _known_model(runtime, body.model_id).retired:
            raise Problem(409, "retired", f"{body.model_id!r} is no longer in the policies; it is being drained")
        now = runtime.clock.now()
        until = now + body.for_s
        await runtime.record(Override(body.model_id, body.author, body.because, now, until, body.target))
        return _json(OverrideTaken(body.model_id, _known_model(runtime, body.model_id).target, until))

    @router.delete("/v1/overrides/{model_id}", summary="Take an override back", **answers(OverrideTaken, *_ORDERED))
    async def clear_override(model_id: str, author: Annotated[Author, Query()] = "api") -> JSONResponse:
        """Success too if there is none. Scope: operate."""
        _known_model(runtime, model_id)
        await runtime.record(OverrideCleared(model_id, author, runtime.clock.now()))
        return _json(OverrideTaken(model_id, _known_model(runtime, model_id).target, None))

    @router.post("/v1/pauses", summary="Freeze or thaw starts and stops", **answers(PauseTaken, *_ORDERED))
    async def pause(body: PauseBody) -> JSONResponse:
        """What serves keeps serving. Answered when it is durable. Scope: operate."""
        state, scope = runtime.core.loop.state, PauseScope(body.scope)
        if scope is PauseScope.ALL and body.name:
            raise Problem(422, "invalid", f"body.name: the scope all has no name, not {shown(body.name)}")
        known = {PauseScope.MODEL: set(state.models), PauseScope.POOL: set(state.pools)}.get(scope)
        if known is not None and body.name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise Problem(404, f"no_such_{scope}", f"there is no {scope} {shown(body.name)}; known are: {names}")
        now = runtime.clock.now()
        await runtime.record(PauseChanged(scope, body.name, body.paused, body.author, body.because, now))
        return _json(PauseTaken(scope.value, body.name, body.paused))

    return router


def _require_first_step(runtime: Runtime) -> None:
    """A registry that was never read must not look like an empty one."""
    if runtime.core.loop.state.control.site is None:
        raise Problem(503, "starting", "the broker has not made its first step yet; ask again", {"Retry-After": "1"})


def _known_model(runtime: Runtime, model_id: str) -> ModelState:
    _require_first_step(runtime)
    models = runtime.core.loop.state.models
    if model_id not in models:
        names = ", ".join(sorted(models)) or "none"
        raise Problem(404, "no_such_model", f"there is no model {shown(model_id)}; known are: {names}")
    return models[model_id]


def _status(model: ModelState, runtime: Runtime) -> ModelStatus:
    state = runtime.core.loop.state
    replicas = state.replicas_of(model.model_id).values()
    return ModelStatus(
        model_id=model.model_id,
        target=model.target,
        baseline=model.baseline,
        minimum=model.spec.minimum,
        maximum=model.spec.maximum,
        policy=model.spec.policy.kind,
        retired=model.retired,
        phases=Counter(replica.phase.value for replica in replicas),
        override=model.override,
        breakers=model.breakers,
        last_code=model.last_code,
        standing=tuple(standing(state, model.model_id, runtime.clock.now())),
    )


def _explained(explanation: Explanation, now: tuple[str, ...]) -> ExplainedDecision:
    smallest = explanation.smallest
    change = None
    if smallest is not None:
        signal = None if smallest.signal is None else smallest.signal.value
        change = SmallestChange(smallest.words, smallest.target, signal, smallest.was, smallest.becomes)
    return ExplainedDecision(explanation.decision, (*explanation.words, *now), change)
