"""``python -m simulator.emulator --model NAME``: the life of one emulated replica, from bind to exit."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time

import structlog
from aiohttp import web

from broker.log_lines import configure_logging
from broker.model.errors import ConfigError
from broker.stop_signals import set_on_stop_signals
from simulator.emulator.live import LiveEngine
from simulator.emulator.options import EmulatorOptions, parse_options
from simulator.emulator.server import EmulatorServer
from simulator.emulator.vllm_metrics import VllmMetrics
from simulator.engine.reference import ReferenceEngine

HANG_AFTER_TIMEOUT_S = 60.0
"""How long the process lives on when the shutdown time-out was too short: seen on the real server, whose clients hang
meanwhile. Whoever stops a replica needs a SIGKILL deadline of its own."""

log = structlog.get_logger()


def main() -> int:
    configure_logging(sys.stdout)
    try:
        options = parse_options(sys.argv[1:], os.environ)
        listener = bind(options.host, options.port) if options.uds is None else bind_path(options.uds)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with listener:
        asyncio.run(serve(options, listener))
    return 0


def bind(host: str, port: int) -> socket.socket:
    """Take the port at once, so that a taken one is known before the model loads; nothing listens yet.

    Until then connections are refused, as by a vLLM that is still loading. Raises ``ConfigError``.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot bind {host}:{port}: {error.strerror}; choose another --port") from None
    return listener


def bind_path(path: str) -> socket.socket:
    """As ``bind``, for a socket in the file system."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot bind {path}: {error.strerror or error}; choose another --uds") from None
    return listener


async def serve(options: EmulatorOptions, listener: socket.socket) -> None:
    host, port = (options.uds, 0) if options.uds is not None else listener.getsockname()[:2]
    log.info("emulator_loading", model=options.model, host=host, port=port, load_time_s=options.profile.load_time_s)
    if options.faults.never_loads:
        await asyncio.Event().wait()
    await asyncio.sleep(options.profile.load_time_s)

    wall_clock = time.time  # noqa: TID251 - a server's answers carry the wall clock
    metrics = VllmMetrics(options.served_model, options.max_model_len, options.profile, wall_clock())
    live = LiveEngine(ReferenceEngine(options.profile), metrics, frozen=options.faults.freeze)
    server = EmulatorServer(options, live, wall_clock)
    stop_wanted = asyncio.Event()
    set_on_stop_signals(stop_wanted)
    if options.faults.crash_after_s is not None:
        asyncio.get_running_loop().call_later(options.faults.crash_after_s, os._exit, 0)

    runner = web.AppRunner(server.application(), handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.SockSite(runner, listener, backlog=2048)
    await site.start()
    log.info("emulator_listening", model=options.served_model, host=host, port=port)
    await stop_wanted.wait()
    await drain(server, live, site, options.shutdown_timeout_s)
    await runner.cleanup()
    log.info("emulator_stopped")


async def drain(server: EmulatorServer, live: LiveEngine, site: web.SockSite, timeout_s: float) -> None:
    """What vLLM does on SIGTERM: finish what is there within ``timeout_s``, or abort it at once if that is 0."""
    log.info("emulator_draining", shutdown_timeout_s=timeout_s)
    server.refuse_new()
    if timeout_s == 0:
        live.abort_all()
        timeout_s = 1.0
    try:
        await asyncio.wait_for(server.idle(), timeout_s)
    except TimeoutError:
        log.warning("emulator_shutdown_timeout_too_short", hanging_s=HANG_AFTER_TIMEOUT_S)
        live.freeze()
        await site.stop()
        try:
            await asyncio.wait_for(server.idle(), HANG_AFTER_TIMEOUT_S)
        except TimeoutError:
            live.abort_all()


if __name__ == "__main__":
    sys.exit(main())
