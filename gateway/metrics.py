"""The gateway's own metrics in Prometheus' text format, written from its tables at the moment of a scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from broker.log_lines import LogStream
from broker.model.sketch import bucket_of, bucket_value
from broker.prometheus_text import Family, Sample, single, text_of
from gateway.proxy import Proxy
from gateway.registry_client import RegistryClient
from gateway.session import BrokerSession
from gateway.table import RoutingTable
from gateway.tally import ModelTally, Outcome, Tallies

FIRST_TOKEN_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)


def render(
    table: RoutingTable, tallies: Tallies, registry: RegistryClient, session: BrokerSession, proxy: Proxy
) -> str:
    families = [
        *_of_models(tallies),
        Family(
            "tidegate_gateway_endpoint_in_flight",
            "Open requests by endpoint.",
            [("", {"endpoint": endpoint}, count) for endpoint, count in sorted(table.in_flight().items())],
        ),
        single("tidegate_gateway_endpoints", "Published endpoints.", len(table.records())),
        single("tidegate_gateway_endpoints_unhealthy", "Of these, not answering.", len(table.unhealthy())),
        single("tidegate_gateway_retries_total", "Attempts after the first.", proxy.retries),
        single("tidegate_gateway_broker_up", "1 while the broker's lease moves.", float(not registry.away)),
        single("tidegate_gateway_registry_revision", "Applied revision.", table.applied_revision),
        single(
            "tidegate_gateway_summaries_unacknowledged",
            "Summaries that the broker, or Kafka, has not taken yet.",
            session.uplink.summaries_waiting,
        ),
        single(
            "tidegate_gateway_summaries_dropped_total",
            "Summaries given up because an outage lasted too long.",
            session.uplink.summaries_dropped,
        ),
        single("tidegate_gateway_log_lines_lost_total", "Log lines that could not be written.", LogStream.lost),
    ]
    if proxy.request_log is not None:
        families.append(
            single(
                "tidegate_gateway_request_log_lost_total",
                "Lines of the request log that could not be written.",
                proxy.request_log.lost,
            )
        )
    return text_of(families)


def _of_models(tallies: Tallies) -> Iterator[Family]:
    models = tallies.items()

    def by_model(name: str, told: str, values: Iterable[float]) -> Family:
        samples = [("", {"model": model_id}, value) for (model_id, _), value in zip(models, values, strict=True)]
        return Family(name, told, samples)

    yield by_model(
        "tidegate_gateway_requests_arrived_total",
        "Requests for a known model.",
        (tally.arrived for _, tally in models),
    )
    yield Family(
        "tidegate_gateway_requests_total",
        "Requests by how they ended.",
        [
            ("", {"model": model_id, "outcome": outcome}, tally.ended[outcome])
            for model_id, tally in models
            for outcome in Outcome
        ],
    )
    yield by_model("tidegate_gateway_requests_in_flight", "Open requests.", (tally.in_flight for _, tally in models))
    yield by_model(
        "tidegate_gateway_requests_held", "Requests without an endpoint.", (tally.held for _, tally in models)
    )
    yield by_model(
        "tidegate_gateway_requests_waiting", "Requests without a first token.", (t.waiting for _, t in models)
    )
    yield Family(
        "tidegate_gateway_time_to_first_token_seconds",
        "From arrival to the first bytes of a stream, within the error of the sketch (4.4 %).",
        [sample for model_id, tally in models for sample in _first_token(model_id, tally)],
        "histogram",
    )


def _first_token(model_id: str, tally: ModelTally) -> Iterator[Sample]:
    counts = tally.time_to_first_token
    for bound in FIRST_TOKEN_BOUNDS_S:
        below = sum(count for bucket, count in counts.items() if bucket <= bucket_of(bound))
        yield "_bucket", {"model": model_id, "le": f"{bound:g}"}, below
    yield "_bucket", {"model": model_id, "le": "+Inf"}, counts.total()
    yield "_sum", {"model": model_id}, sum(bucket_value(bucket) * count for bucket, count in counts.items())
    yield "_count", {"model": model_id}, counts.total()
