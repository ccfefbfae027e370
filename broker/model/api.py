"""Bodies of the HTTP API between the broker and gateways (``docs/http-api.md``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.model.replica import EndpointRecord
from broker.model.signals import RequestSummary


@dataclass(frozen=True, slots=True)
class GatewaySession:
    """What a gateway sends each second with ``PUT /v1/gateways/{id}``.

    ``boot_id`` is new for each run of the gateway, ``sequence`` rises with each body of a run. ``applied_revision``
    is the registry revision that its table holds, which acknowledges all up to it. ``in_flight`` counts open
    requests by endpoint id. ``closed`` ends the session: the gateway shuts down in order.
    """

    boot_id: str
    sequence: int
    applied_revision: int
    observed_at: float
    in_flight: Mapping[str, int] = field(default_factory=dict)
    closed: bool = False
    summaries: tuple[RequestSummary, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointsSnapshot:
    """The registry as ``GET /v1/endpoints`` shows it, tombstones left out. ``at`` is the broker's clock.

    ``models`` are those that the policies declare, with or without an endpoint; None before they are known.
    """

    revision: int
    cluster: str
    at: float
    endpoints: tuple[EndpointRecord, ...] = ()
    models: tuple[str, ...] | None = None
