"""Puts a gateway together: its parts, its routes, its start and its end."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import aiohttp
import structlog
from aiohttp import web

from broker import prometheus_text
from broker.clock import SystemClock
from broker.model.errors import ConfigError, TidegateError
from broker.model.ports import Clock
from broker.stop_signals import set_on_stop_signals
from gateway import metrics, openai
from gateway.changed import Changed
from gateway.health import Prober
from gateway.keys import EngineKeys, UserKeys
from gateway.openai import ApiError
from gateway.proxy import Proxy
from gateway.registry_client import RegistryClient
from gateway.request_log import RequestLog
from gateway.session import BrokerSession
from gateway.settings import GatewaySettings
from gateway.table import RoutingTable
from gateway.tally import Tallies
from gateway.uplink import HttpUplink, Uplink
from gateway.upstream import Pool
from gateway.user_connection import UserConnection

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

CAPABILITIES = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/embeddings": "embeddings"}
CLOSE_PATIENCE_S = 1.0
RESTART_DELAY_S = 1.0
WAITING_CONNECTIONS = 1024
ENGINE_KEEPALIVE_S = 3.0
"""Below the 5 s after which vLLM's server closes an idle connection: a request must not meet its end."""


class GatewayDied(TidegateError):
    """A part of the running gateway ended that should run for ever."""


class Gateway:
    """One run; to be made inside an event loop. ``start`` returns when it listens (``port`` says where), ``stop``
    lets open requests finish first."""

    def __init__(self, settings: GatewaySettings, clock: Clock | None = None) -> None:
        self._settings = settings
        clock = clock or SystemClock()
        keys = EngineKeys(settings.site_secret)
        self._users = UserKeys(settings.keys_file)
        self._request_log = (
            None if settings.request_log is None else RequestLog(settings.request_log, settings.site_secret)
        )
        self._client = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        self._pool = Pool(settings.limits.connect_s, ENGINE_KEEPALIVE_S)
        self._changed = Changed()
        self._idle = Changed()
        self._open_requests = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._failing: set[str] = set()
        self.port = settings.port
        self.table = RoutingTable(settings.models)
        self.tallies = Tallies()
        for model_id in settings.models:
            self.tallies.of(model_id)
        self.session = BrokerSession(
            _uplink(settings, self._client),
            settings.name,
            uuid.uuid4().hex,
            self.table,
            self.tallies,
            clock,
            interval_s=settings.report_every_s,
        )
        self.registry = RegistryClient(
            self._client,
            settings.broker_url,
            settings.token,
            self.table,
            self._on_applied,
            cluster=settings.cluster,
            patience_s=settings.broker_patience_s,
        )
        self.prober = Prober(
            self._client, self.table, self.registry, keys, self._changed, interval_s=settings.probe_every_s
        )
        self.proxy = Proxy(
            self._pool,
            self.table,
            self.tallies,
            keys,
            self.prober,
            self._changed,
            clock,
            settings.limits,
            self.session.report_soon,
            self._request_log,
        )
        self._runner = web.AppRunner(self._application(), handler_cancellation=True, shutdown_timeout=CLOSE_PATIENCE_S)

    @property
    def parts(self) -> tuple[asyncio.Task[None], ...]:
        """What runs beside the requests once started, and ends only with the gateway."""
        return tuple(self._tasks)

    async def start(self) -> None:
        """Raises ``ConfigError`` if the port cannot be had."""
        host, port = self._settings.host, self._settings.port
        await self._runner.setup()
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._user_connection, host, port, backlog=WAITING_CONNECTIONS
            )
        except OSError as error:
            await self._close_connections()
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; choose another port") from None
        self.port = self._listener.sockets[0].getsockname()[1]
        self._spawn("registry", self.registry.run)
        self._spawn("session", self.session.run)
        for name, run in self.session.uplink.background.items():
            self._spawn(name, run)
        self._spawn("prober", self.prober.run)
        self._spawn("user_keys", lambda: self._users.watch(self._settings.keys_every_s))
        if self._request_log is not None:
            self._spawn("request_log", self._request_log.run)
        log.info("gateway_listens", host=host, port=self.port, broker=self._settings.broker_url)
        if self._users.open_to_all:
            log.warning("gateway_open", effect="everybody on this machine may use the models", mend="give a keys file")

    async def stop(self) -> None:
        """Accept nothing more, let open requests finish for ``shutdown_s``, cut the rest, end the session."""
        self._stopping = True
        self._listener.close()
        log.info("gateway_stops", open_requests=self._open_requests, limit_s=self._settings.shutdown_s)
        try:
            async with asyncio.timeout(self._settings.shutdown_s):
                while self._open_requests:
                    await self._idle.wait()
        except TimeoutError:
            log.warning("gateway_cuts", open_requests=self._open_requests)
        self.proxy.closing = True
        await self._runner.cleanup()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.session.close()
        await self._close_connections()

    async def _close_connections(self) -> None:
        await self._runner.cleanup()
        if self._request_log is not None:
            await self._request_log.close()
        self._pool.close()
        await self._client.close()

    def _user_connection(self) -> UserConnection:
        if self._runner.server is None:
            raise RuntimeError("connections are accepted while the gateway runs")
        return UserConnection(self._runner.server, self._settings.limits.head_s)

    def _on_applied(self) -> None:
        models = self.table.models()
        self.tallies.keep(models)
        for model_id in models:
            self.tallies.of(model_id)
        self._changed.notify()
        self.session.report_soon()

    def _spawn(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.create_task(self._go_on(name, run), name=name))

    async def _go_on(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """A defect in a background part must not cut users' streams: it is told, and the part begins again."""
        while True:
            try:
                await run()
                return
            except Exception:
                self._failing.add(name)
                log.exception("gateway_part_failed", part=name)
                await asyncio.sleep(RESTART_DELAY_S)
                self._failing.discard(name)

    def _application(self) -> web.Application:
        application = web.Application(
            client_max_size=self._settings.limits.body_bytes, middlewares=[self._answer_errors]
        )
        for path, capability in CAPABILITIES.items():
            application.router.add_post(path, self._serving(capability))
        application.router.add_get("/v1/models", self._models)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/metrics", self._metrics)
        return application

    def _serving(self, capability: str) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            user = self._authenticate(request)
            if self._stopping:
                raise ApiError(503, "This gateway is shutting down.", kind="service_unavailable", retry_after_s=1.0)
            self._open_requests += 1
            try:
                return await self.proxy.handle(request, capability, None if self._users.open_to_all else user)
            finally:
                self._open_requests -= 1
                if not self._open_requests:
                    self._idle.notify()

        return serve

    async def _models(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        data = [
            {"id": model_id, "object": "model", "created": 0, "owned_by": "tidegate"}
            for model_id in self.table.models()
        ]
        return web.json_response({"object": "list", "data": data})

    async def _healthz(self, request: web.Request) -> web.Response:
        failing = sorted(self._failing | {task.get_name() for task in self._tasks if task.done()})
        status = "stopping" if self._stopping else "failing" if failing else "ok"
        state = {
            "status": status,
            "failing": failing,
            "broker": "away" if self.registry.away else "alive",
            "revision": self.table.applied_revision,
            "endpoints": len(self.table.records()),
        }
        return web.json_response(state, status=200 if status == "ok" else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        self._authenticate(request)
        text = metrics.render(self.table, self.tallies, self.registry, self.session, self.proxy)
        return web.Response(text=text, headers={"Content-Type": prometheus_text.MEDIA_TYPE})

    def _authenticate(self, request: web.Request) -> str:
        user = self._users.user_of(request.headers.get("Authorization"))
        if user is None:
            raise openai.unauthorized()
        return user

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = request.protocol
        if isinstance(connection, UserConnection):
            connection.head_is_whole()
            connection.busy = True
        try:
            return await self._answer(request, handler)
        finally:
            if isinstance(connection, UserConnection):
                connection.busy = False

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ApiError as error:
            return error.response()
        except web.HTTPRequestEntityTooLarge:
            limit = self._settings.limits.body_bytes
            return ApiError(413, f"The body is larger than {limit} bytes.", kind="invalid_request_error").response()
        except web.HTTPException as error:
            return ApiError(error.status, f"{request.path}: {error.reason}", kind="invalid_request_error").response()
        except Exception:
            log.exception("request_handling_failed", path=request.path)
            return openai.gateway_failed().response()


def _uplink(settings: GatewaySettings, client: aiohttp.ClientSession) -> Uplink:
    if settings.log is None:
        return HttpUplink(client, settings.broker_url, settings.token, settings.name)
    from gateway.topic_uplink import TopicUplink  # an extra

    return TopicUplink(*settings.log, settings.name)


async def run_gateway(settings: GatewaySettings, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then stop in order.

    ``ready`` is told the address once it listens. Raises ``ConfigError`` at the start, ``GatewayDied`` when a part
    ended that should run for ever: it would go on routing by a table that nobody keeps.
    """
    gateway = Gateway(settings)
    await gateway.start()
    if ready is not None:
        ready(f"http://{settings.host}:{gateway.port}")
    asked = asyncio.Event()
    set_on_stop_signals(asked)
    asking = asyncio.create_task(asked.wait())
    await asyncio.wait((asking, *gateway.parts), return_when=asyncio.FIRST_COMPLETED)
    asking.cancel()
    await gateway.stop()
    if not asked.is_set():
        raise GatewayDied("a part of the gateway ended by a mistake in it (see above); start it again")
