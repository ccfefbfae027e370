"""Follows the broker's registry into the routing table, and knows whether the broker is there.

The table is filled from one ordered source at a time: the event stream, whose first event is a snapshot, or, while no
stream can be had, polled snapshots. A gap therefore means a new stream, never a snapshot beside the old one, which
could be older than a change already acknowledged. Whatever is not a well-formed answer of the right cluster to our
token leaves the table as it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import structlog

from broker.model.api import EndpointsSnapshot
from broker.model.errors import TidegateError, WireError
from broker.model.wire import decode
from gateway.sse import EventReader, ServerSentEvent
from gateway.table import RegistryChange, RoutingTable

log = structlog.get_logger(__name__)

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 5.0
POLL_DELAY_S = 1.0


class RegistryUnusable(TidegateError):
    """The broker answered, but not with what can be applied."""


@dataclass(frozen=True, slots=True)
class RegistryLease:
    """The broker's sign of life: its lease time, and the revision that the registry has reached."""

    revision: int
    at: float


class RegistryClient:
    """``run`` until cancelled. ``applied`` is called after every change of the table.

    The broker counts as away when its lease time has not moved for ``patience_s``: a broker that answers but no
    longer steps is as good as gone. The lease is compared with itself only, so clocks need not agree.
    """

    def __init__(
        self,
        client: aiohttp.ClientSession,
        broker_url: str,
        token: str,
        table: RoutingTable,
        applied: Callable[[], None],
        *,
        cluster: str | None = None,
        patience_s: float = 5.0,
    ) -> None:
        self._client = client
        self._url = broker_url.rstrip("/") + "/v1/endpoints"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._table = table
        self._applied = applied
        self._cluster = cluster
        self._patience_s = patience_s
        self._jitter = random.Random()
        self._lease_at: float | None = None
        self._heard_at = float("-inf")
        self._failures = 0
        self._leased_revision = 0

    @property
    def away(self) -> bool:
        return self.lease_age_s > self._patience_s

    @property
    def lease_age_s(self) -> float:
        """Seconds since the broker's lease was last seen to move; infinite before the first."""
        return asyncio.get_running_loop().time() - self._heard_at

    async def run(self) -> None:
        while True:
            try:
                await self._follow()
                problem = "the broker ended the stream"
            except (aiohttp.ClientError, OSError, TidegateError) as error:
                problem = _words(error)
            self._failures += 1
            unpolled = await self._poll()
            polled = not unpolled
            if unpolled and unpolled != problem:
                problem = f"{problem}; asked once more: {unpolled}"
            log.warning("registry_stream_lost", problem=problem, failures=self._failures, polled=polled)
            await asyncio.sleep(self._delay_s(POLL_DELAY_S if polled else LONGEST_DELAY_S))

    def _delay_s(self, longest_s: float) -> float:
        """Exponential with jitter, so that a broker's restart does not meet all its gateways at once."""
        return min(longest_s, FIRST_DELAY_S * 2.0 ** min(self._failures - 1, 16)) * self._jitter.uniform(0.5, 1.0)

    async def _follow(self) -> None:
        """Apply one stream until it ends. Raises what ended it."""
        timeout = aiohttp.ClientTimeout(total=None, connect=self._patience_s, sock_read=self._patience_s)
        headers = self._headers | {"Accept": "text/event-stream"}
        async with self._client.get(f"{self._url}/stream", headers=headers, timeout=timeout) as response:
            _refuse(response)
            reader = EventReader()
            begun = False
            async for chunk in response.content.iter_any():
                for event in reader.feed(chunk):
                    begun = self._take(event, begun)

    def _take(self, event: ServerSentEvent, begun: bool) -> bool:
        """Apply one event; whether the stream's snapshot has been seen."""
        if event.kind == "snapshot":
            self._replace(decode(EndpointsSnapshot, _json(event.data)))
            self._failures = 0
            self._leased_revision = 0
            return True
        if not begun:
            raise RegistryUnusable(f"{self._url}/stream began with {event.kind!r} in place of a snapshot")
        if event.kind == "change":
            self._table.apply(decode(RegistryChange, _json(event.data)))
            self._applied()
            if self._table.has_gap:
                raise RegistryUnusable("a revision is missing from the stream")
        elif event.kind == "lease":
            lease = decode(RegistryLease, _json(event.data))
            self._hear(lease.at)
            # A lease may overtake a change that is being committed; by the next one it must have come.
            if self._leased_revision > self._table.applied_revision:
                raise RegistryUnusable("the lease is ahead of the stream")
            self._leased_revision = lease.revision
        return True

    async def _poll(self) -> str:
        """Apply a snapshot; the problem, empty if there was none."""
        timeout = aiohttp.ClientTimeout(total=self._patience_s)
        try:
            async with self._client.get(self._url, headers=self._headers, timeout=timeout) as response:
                _refuse(response)
                self._replace(decode(EndpointsSnapshot, _json(await response.text())))
        except (aiohttp.ClientError, OSError, UnicodeDecodeError, TidegateError) as error:
            return _words(error)
        return ""

    def _replace(self, snapshot: EndpointsSnapshot) -> None:
        if self._cluster is None:
            self._cluster = snapshot.cluster
        if snapshot.cluster != self._cluster:
            raise RegistryUnusable(
                f"{self._url} is the registry of cluster {snapshot.cluster!r}, this gateway serves {self._cluster!r}; "
                "check the broker's address"
            )
        if snapshot.revision < self._table.applied_revision:
            log.warning("registry_began_anew", revision=snapshot.revision, applied=self._table.applied_revision)
        self._table.replace(snapshot)
        self._hear(snapshot.at)
        self._applied()

    def _hear(self, lease_at: float) -> None:
        if lease_at != self._lease_at:
            if self.away:
                log.info("broker_heard", lease_at=lease_at)
            self._lease_at = lease_at
            self._heard_at = asyncio.get_running_loop().time()


def _refuse(response: aiohttp.ClientResponse) -> None:
    if response.status in (401, 403):
        raise RegistryUnusable(f"{response.url} refused the token; check TIDEGATE_GATEWAY_TOKEN")
    if response.status != 200:
        raise RegistryUnusable(f"{response.url} answered {response.status}")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise WireError(f"not JSON: {error}") from None


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = os.strerror(error.errno) if error.errno else str(error.os_error)
        return f"no broker answers at {error.host}:{error.port} ({reason}); is `tidegate run` up?"
    return str(error) or type(error).__name__
