"""The broker's HTTP API: what gateways follow, what operators ask and order. ``docs/http-api.md`` tells it in prose.

Handlers read the committed state and offer observations; none of them decides anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from starlette.exceptions import HTTPException

from broker.app import metrics
from broker.app.access import Scope, Tokens
from broker.app.feed import Feed, prometheus_targets, snapshot_body
from broker.app.runtime import Runtime
from broker.control.explain import Explanation
from broker.model import wire
from broker.model.errors import LogError, WireError
from broker.model.observation import GatewayReport, Override, OverrideCleared, PauseChanged, PauseScope
from broker.model.signals import RequestSummary
from broker.model.state import ModelState

Explain = Callable[[str], Awaitable[Explanation | None]]
"""The explanation of a model's last decision, None if there is none yet."""


class GatewaySessionBody(BaseModel):
    """A gateway's heartbeat; ``summaries`` are RequestSummary objects (``docs/schemas``)."""

    model_config = ConfigDict(extra="ignore")
    boot_id: str = Field(min_length=1, max_length=200)
    sequence: int = Field(ge=0)
    applied_revision: int = Field(ge=0)
    observed_at: FiniteFloat
    in_flight: dict[str, Annotated[int, Field(ge=0)]] = {}
    closed: bool = False
    summaries: list[dict[str, Any]] = Field(default=[], max_length=10_000)


class OverrideBody(BaseModel):
    """``target`` null holds the present one."""

    model_config = ConfigDict(extra="forbid")
    model_id: str
    target: int | None = Field(default=None, ge=0)
    for_s: float = Field(gt=0, le=366 * 86400)
    because: str = Field(min_length=1, max_length=1000)
    author: str = Field(min_length=1, max_length=200)


class PauseBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    scope: Literal["all", "pool", "model"]
    name: str = ""
    paused: bool
    because: str = Field(min_length=1, max_length=1000)
    author: str = Field(min_length=1, max_length=200)


@dataclass(frozen=True, slots=True)
class ApiParts:
    """What the API stands on."""

    runtime: Runtime
    tokens: Tokens
    explain: Explain
    version: str


def create_api(parts: ApiParts) -> FastAPI:
    """The application; served by uvicorn in the composition root."""
    app = FastAPI(title="Tidegate broker", version=parts.version, docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_health(app, parts)
    _add_registry(app, parts)
    _add_reading(app, parts)
    _add_operating(app, parts)
    return app


class Problem(Exception):
    """Ends a request with an error in the API's own form."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        body = {"error": {"code": error.code, "message": str(error)}}
        return JSONResponse(body, status_code=error.status, headers=headers)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": {"code": "http", "message": error.detail}}, status_code=error.status_code)

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        return JSONResponse({"error": {"code": "invalid", "message": "; ".join(problems)}}, status_code=422)

    @app.exception_handler(LogError)
    async def log_error(_: Request, error: LogError) -> JSONResponse:
        return JSONResponse({"error": {"code": "log", "message": str(error)}}, status_code=503)


def _guard(tokens: Tokens, *scopes: Scope) -> Any:
    """A dependency that lets only holders of one of ``scopes`` pass."""
    wanted = frozenset(scopes)

    def check(authorization: Annotated[str, Header()] = "") -> None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Problem(401, "unauthorized", "send a token as 'Authorization: Bearer TOKEN'")
        if not tokens.allows(token.strip(), wanted):
            needed = " or ".join(sorted(scope.value for scope in wanted))
            raise Problem(403, "forbidden", f"this token may not do that; it needs the scope {needed}")

    return Depends(check)


def _add_health(app: FastAPI, parts: ApiParts) -> None:
    runtime = parts.runtime

    @app.get("/healthz", summary="Whether the broker leads and its steps go on")
    async def healthz() -> JSONResponse:
        last = runtime.last_run_at
        age_s = None if last is None else runtime.clock.now() - last
        healthy = runtime.log_problem is None
        body = {
            "status": "ok" if healthy else "degraded",
            "leader": runtime.core.loop.epoch is not None,
            "epoch": runtime.core.loop.epoch.number if runtime.core.loop.epoch else None,
            "last_step_age_s": age_s,
            "problem": runtime.log_problem,
        }
        return JSONResponse(body, status_code=200 if healthy else 503)


def _add_registry(app: FastAPI, parts: ApiParts) -> None:
    runtime, readers = parts.runtime, _guard(parts.tokens, Scope.READ, Scope.GATEWAY)
    feed = Feed(runtime)

    @app.get("/v1/endpoints", dependencies=[readers], summary="The published endpoints")
    async def endpoints() -> dict[str, Any]:
        return snapshot_body(runtime.core.loop.state, runtime.clock.now())

    @app.get("/v1/endpoints/stream", dependencies=[readers], summary="Snapshot, then changes, as server-sent events")
    async def stream() -> StreamingResponse:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(feed.events(), media_type="text/event-stream", headers=headers)

    @app.put(
        "/v1/gateways/{gateway_id}",
        dependencies=[_guard(parts.tokens, Scope.GATEWAY)],
        summary="A gateway's session: applied revision, requests in flight, summaries",
    )
    async def gateway_session(gateway_id: str, body: GatewaySessionBody) -> dict[str, int]:
        now = runtime.clock.now()
        for raw in body.summaries:
            stamped = raw | {"gateway_id": gateway_id, "boot_id": body.boot_id, "received_at": now}
            try:
                runtime.observe(wire.decode(RequestSummary, stamped))
            except WireError as error:
                await runtime.log.append("dead-letters", [{"topic": "requests", "at": now, "reason": str(error)}])
        runtime.offer(
            GatewayReport(
                gateway_id, body.boot_id, body.sequence, body.applied_revision, body.observed_at, now,
                body.in_flight, body.closed,
            )
        )  # fmt: skip
        return {"revision": runtime.core.loop.state.control.revision}

    @app.get("/v1/prometheus/targets", dependencies=[readers], summary="Prometheus http_sd")
    async def targets() -> list[dict[str, Any]]:
        return prometheus_targets(runtime.core.loop.state)


def _add_reading(app: FastAPI, parts: ApiParts) -> None:
    runtime, readers = parts.runtime, _guard(parts.tokens, Scope.READ)

    @app.get("/v1/models", dependencies=[readers], summary="Models with target, phases, override, breaker")
    async def models() -> dict[str, Any]:
        state = runtime.core.loop.state
        return {"now": runtime.clock.now(), "models": [_model_row(m, runtime) for m in state.models.values()]}

    @app.get("/v1/replicas", dependencies=[readers], summary="The broker's record of each replica")
    async def replicas(model: str | None = None) -> dict[str, Any]:
        state = runtime.core.loop.state
        members = [r for name, rs in state.replicas.items() if model in (None, name) for r in rs.values()]
        return {"now": runtime.clock.now(), "replicas": [wire.encode(replica) for replica in members]}

    @app.get("/v1/decisions", dependencies=[readers], summary="Decisions, newest first")
    async def decisions(model: str | None = None, limit: int = 100, since: float = 0.0) -> dict[str, Any]:
        found = await runtime.log.decisions(model, since=since, limit=max(1, min(limit, 10_000)))
        return {"decisions": [wire.encode(decision) for decision in found]}

    @app.get("/v1/explain/{model_id}", dependencies=[readers], summary="The last decision in words")
    async def explain(model_id: str) -> dict[str, Any]:
        _known_model(runtime, model_id)
        explanation = await parts.explain(model_id)
        if explanation is None:
            raise Problem(404, "no_decision", f"nothing has been decided for {model_id!r} yet")
        return explanation_body(explanation)

    @app.get("/v1/signals/{model_id}", dependencies=[readers], summary="The latest snapshot of a model")
    async def signals(model_id: str) -> dict[str, Any]:
        snapshot = _known_model(runtime, model_id).snapshot
        return {"snapshot": None if snapshot is None else wire.encode(snapshot)}

    @app.get("/metrics", dependencies=[readers], response_class=PlainTextResponse, summary="The broker's own metrics")
    async def own_metrics() -> str:
        return metrics.render(runtime)


def _add_operating(app: FastAPI, parts: ApiParts) -> None:
    runtime, operators = parts.runtime, _guard(parts.tokens, Scope.OPERATE)

    @app.post("/v1/overrides", dependencies=[operators], summary="Set or hold a model's target for a time")
    async def override(body: OverrideBody) -> dict[str, Any]:
        _known_model(runtime, body.model_id)
        now = runtime.clock.now()
        await runtime.order(Override(body.model_id, body.author, body.because, now, now + body.for_s, body.target))
        return {"until": now + body.for_s}

    @app.delete("/v1/overrides/{model_id}", dependencies=[operators], summary="Take an override back")
    async def clear_override(model_id: str, author: str = "api") -> dict[str, Any]:
        _known_model(runtime, model_id)
        await runtime.order(OverrideCleared(model_id, author, runtime.clock.now()))
        return {}

    @app.post("/v1/pauses", dependencies=[operators], summary="Freeze or thaw starts and stops")
    async def pause(body: PauseBody) -> dict[str, Any]:
        state, scope = runtime.core.loop.state, PauseScope(body.scope)
        known = {PauseScope.MODEL: set(state.models), PauseScope.POOL: set(state.pools)}.get(scope)
        if known is not None and body.name not in known:
            names = ", ".join(sorted(known)) or "none"
            raise Problem(404, f"no_such_{scope}", f"there is no {scope} {body.name!r}; known are: {names}")
        name = "" if scope is PauseScope.ALL else body.name
        await runtime.order(PauseChanged(scope, name, body.paused, body.author, body.because, runtime.clock.now()))
        return {}


def _known_model(runtime: Runtime, model_id: str) -> ModelState:
    models = runtime.core.loop.state.models
    if model_id not in models:
        names = ", ".join(sorted(models)) or "none"
        raise Problem(404, "no_such_model", f"there is no model {model_id!r}; known are: {names}")
    return models[model_id]


def _model_row(model: ModelState, runtime: Runtime) -> dict[str, Any]:
    phases: dict[str, int] = {}
    for replica in runtime.core.loop.state.replicas_of(model.model_id).values():
        phases[replica.phase.value] = phases.get(replica.phase.value, 0) + 1
    return {
        "model_id": model.model_id,
        "target": model.target,
        "baseline": model.baseline,
        "minimum": model.spec.minimum,
        "maximum": model.spec.maximum,
        "policy": model.spec.policy.kind,
        "retired": model.retired,
        "phases": phases,
        "override": None if model.override is None else wire.encode(model.override),
        "breaker": wire.encode(model.breaker),
        "last_code": model.last_code,
    }


def explanation_body(explanation: Explanation) -> dict[str, Any]:
    """The wire form of an explanation: the decision, its words, and the smallest change that flips it."""
    smallest = explanation.smallest
    return {
        "decision": wire.encode(explanation.decision),
        "words": list(explanation.words),
        "smallest_change": None
        if smallest is None
        else {
            "words": smallest.words,
            "target": smallest.target,
            "signal": smallest.signal,
            "was": smallest.was,
            "becomes": smallest.becomes,
        },
    }
