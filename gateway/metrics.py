"""The gateway's own metrics in Prometheus' text format, written from its tables at the moment of a scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from broker.log_lines import LogStream
from broker.model.sketch import bucket_of, bucket_value
from gateway.proxy import Proxy
from gateway.registry_client import RegistryClient
from gateway.session import BrokerSession
from gateway.table import RoutingTable
from gateway.tally import ModelTally, Outcome, Tallies

FIRST_TOKEN_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0)

Labels = dict[str, str]
Sample = tuple[str, Labels, float]


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    kind: str
    help: str
    samples: list[Sample]

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} {self.kind}"
        for suffix, labels, value in self.samples:
            inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
            yield f"{self.name}{suffix}{{{inside}}} {value:.17g}" if inside else f"{self.name}{suffix} {value:.17g}"


def render(
    table: RoutingTable, tallies: Tallies, registry: RegistryClient, session: BrokerSession, proxy: Proxy
) -> str:
    families = [
        *_of_models(tallies),
        Family(
            "tidegate_gateway_endpoint_in_flight",
            "gauge",
            "Open requests by endpoint.",
            [("", {"endpoint": endpoint}, count) for endpoint, count in sorted(table.in_flight().items())],
        ),
        _single("tidegate_gateway_endpoints", "gauge", "Published endpoints.", len(table.records())),
        _single("tidegate_gateway_endpoints_unhealthy", "gauge", "Of these, not answering.", len(table.unhealthy())),
        _single("tidegate_gateway_retries_total", "counter", "Attempts after the first.", proxy.retries),
        _single("tidegate_gateway_broker_up", "gauge", "1 while the broker's lease moves.", float(not registry.away)),
        _single("tidegate_gateway_registry_revision", "gauge", "Applied revision.", table.applied_revision),
        _single(
            "tidegate_gateway_summaries_unacknowledged",
            "gauge",
            "Summaries that the broker has not taken yet.",
            session.summaries_waiting,
        ),
        _single(
            "tidegate_gateway_summaries_dropped_total",
            "counter",
            "Summaries given up because an outage lasted too long.",
            session.summaries_dropped,
        ),
        _single(
            "tidegate_gateway_log_lines_lost_total", "counter", "Log lines that could not be written.", LogStream.lost
        ),
    ]
    if proxy.request_log is not None:
        families.append(
            _single(
                "tidegate_gateway_request_log_lost_total",
                "counter",
                "Lines of the request log that could not be written.",
                proxy.request_log.lost,
            )
        )
    return "".join(f"{line}\n" for family in families for line in family.lines())


def _of_models(tallies: Tallies) -> Iterator[Family]:
    models = tallies.items()

    def gauge(name: str, text: str, values: Iterable[float], kind: str = "gauge") -> Family:
        samples = [("", {"model": model_id}, value) for (model_id, _), value in zip(models, values, strict=True)]
        return Family(name, kind, text, samples)

    yield gauge(
        "tidegate_gateway_requests_arrived_total",
        "Requests for a known model.",
        (tally.arrived for _, tally in models),
        "counter",
    )
    yield Family(
        "tidegate_gateway_requests_total",
        "counter",
        "Requests by how they ended.",
        [
            ("", {"model": model_id, "outcome": outcome}, tally.ended[outcome])
            for model_id, tally in models
            for outcome in Outcome
        ],
    )
    yield gauge("tidegate_gateway_requests_in_flight", "Open requests.", (tally.in_flight for _, tally in models))
    yield gauge("tidegate_gateway_requests_held", "Requests without an endpoint.", (tally.held for _, tally in models))
    yield gauge("tidegate_gateway_requests_waiting", "Requests without a first token.", (t.waiting for _, t in models))
    yield Family(
        "tidegate_gateway_time_to_first_token_seconds",
        "histogram",
        "From arrival to the first bytes of a stream, within the error of the sketch (4.4 %).",
        [sample for model_id, tally in models for sample in _first_token(model_id, tally)],
    )


def _first_token(model_id: str, tally: ModelTally) -> Iterator[Sample]:
    counts = tally.time_to_first_token
    for bound in FIRST_TOKEN_BOUNDS_S:
        below = sum(count for bucket, count in counts.items() if bucket <= bucket_of(bound))
        yield "_bucket", {"model": model_id, "le": f"{bound:g}"}, below
    yield "_bucket", {"model": model_id, "le": "+Inf"}, counts.total()
    yield "_sum", {"model": model_id}, sum(bucket_value(bucket) * count for bucket, count in counts.items())
    yield "_count", {"model": model_id}, counts.total()


def _single(name: str, kind: str, text: str, value: float) -> Family:
    return Family(name, kind, text, [("", {}, value)])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
