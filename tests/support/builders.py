"""Small whole values of the vocabulary, for tests that need some and do not care which."""

from __future__ import annotations

from broker.model.observation import GatewayReport, Observation, Outcome, PoolSnapshot, Receipt, SpecChanged
from broker.model.plan import Decision, DecisionStep, Input, Launch
from broker.model.ports import StepRecord
from broker.model.reading import Freshness, fresh
from broker.model.replica import EndpointRecord, ObservedReplica, Replica, ReplicaPhase, Tier
from broker.model.signals import RequestSummary, Signal
from broker.model.sketch import Sketch
from broker.model.snapshot import ModelSnapshot, WindowReading
from broker.model.spec import EngineSpec, Mode, ModelSpec, PolicySpec, PoolSpec, SiteSpec
from broker.model.state import Changes, ControlState, ModelState

START = 1_700_000_000.0


def model_spec(model_id: str = "chat") -> ModelSpec:
    return ModelSpec(
        model_id=model_id,
        engine=EngineSpec(command=("serve", "{model}", "--port", "{port}"), environment={"HOME": "/nowhere"}),
        policy=PolicySpec("threshold", {"rules": [{"signal": "queue_age_s", "above": 2.5, "for": "30s"}]}),
        maximum=8,
    )


def site_spec(cluster: str = "demo") -> SiteSpec:
    return SiteSpec(cluster=cluster, pools=(PoolSpec("local", "local", gpus=8),))


def spec_changed(at: float = START, *model_ids: str) -> SpecChanged:
    return SpecChanged(site_spec(), tuple(map(model_spec, model_ids or ("chat",))), received_at=at, digest="d1")


def model_snapshot(model_id: str = "chat", sequence: int = 1, at: float = START) -> ModelSnapshot:
    return ModelSnapshot(
        model_id=model_id,
        sequence=sequence,
        observed_at=at,
        received_at=at + 0.01,
        readings={Signal.QUEUE_AGE: fresh(0.1 + sequence / 3, at), Signal.REQUESTS_WAITING: fresh(3.0, at)},
        windows=(WindowReading(Signal.QUEUE_AGE, 30.0, Freshness.FRESH, True, 0.1, 2.0, 0.7, at),),
    )


def pool_snapshot(at: float = START, pool_id: str = "local") -> PoolSnapshot:
    replicas = (ObservedReplica("chat-0-g1", "chat", 1, ReplicaPhase.STARTING, "http://127.0.0.1:9000", None, at - 5),)
    return PoolSnapshot(pool_id, at, at, known=True, replicas=replicas, gpus_total=8)


def receipt(at: float = START, action_id: str = "launch-0") -> Receipt:
    return Receipt(action_id, "chat-0-g1", "chat", Outcome.ACCEPTED, at, at, url="http://127.0.0.1:9000")


def gateway_report(at: float = START, sequence: int = 1) -> GatewayReport:
    return GatewayReport("gw-1", "boot-1", sequence, 3, at, at, {"chat-0-g1": 2})


def replica(replica_id: str = "chat-0-g1", model_id: str = "chat", at: float = START) -> Replica:
    return Replica(
        replica_id=replica_id,
        model_id=model_id,
        pool_id="local",
        ordinal=0,
        generation=1,
        tier=Tier.ELASTIC,
        gpus=1,
        phase=ReplicaPhase.READY,
        phase_since=at,
        requested_at=at - 60,
    )


def endpoint(
    endpoint_id: str = "chat-0-g1", revision: int = 1, phase: ReplicaPhase = ReplicaPhase.READY
) -> EndpointRecord:
    return EndpointRecord(endpoint_id, "chat", "http://127.0.0.1:9000", phase, 1, Tier.ELASTIC, revision)


def decision(model_id: str = "chat", at: float = START, target: int = 2) -> Decision:
    return Decision(
        model_id=model_id,
        now=at,
        mode=Mode.ACT,
        before=target - 1,
        target=target,
        baseline=1,
        code="queue_age_above",
        words="the oldest request has waited 3.1 s, more than 2.5 s",
        policy="threshold",
        trail=(DecisionStep("policy", target, "queue_age_above", "wants one more"),),
        inputs=(Input("queue_age_s", 3.1, Freshness.FRESH, 2.5),),
        actions=("launch-0",),
    )


def launch(model_id: str = "chat") -> Launch:
    return Launch("launch-0", "demo", f"{model_id}-0-g1", model_spec(model_id), "local", 0, 1, Tier.ELASTIC)


def step_record(
    number: int = 1,
    *,
    epoch: int = 1,
    model_id: str = "chat",
    now: float | None = None,
    changes: Changes | None = None,
) -> StepRecord:
    """Step ``number``, a second after the one before, with a few observations and one decision.

    Without ``changes`` it changes the control state (``revision`` = ``number``) and the model (``target`` too).
    """
    at = START + number if now is None else now
    observations: tuple[Observation, ...] = (
        model_snapshot(model_id, number, at),
        pool_snapshot(at),
        receipt(at),
        gateway_report(at, number),
    )
    if changes is None:
        changes = {
            ("control", ""): ControlState(last_now=at, revision=number, site=site_spec()),
            ("model", model_id): ModelState(model_id, model_spec(model_id), target=number, memory={"seen": [number]}),
        }
    return StepRecord(
        number=number,
        epoch=epoch,
        now=at,
        observations=observations,
        changes=changes,
        decisions=(decision(model_id, at, number),),
        effects=(launch(model_id),),
        registry=(endpoint(f"{model_id}-0-g1", number),),
    )


def request_summary(model_id: str = "chat", sequence: int = 1, at: float = START) -> RequestSummary:
    """One second of a busy model at one gateway: about 480 bytes as JSON."""
    return RequestSummary(
        model_id=model_id,
        gateway_id="gw-1",
        boot_id="boot-1",
        sequence=sequence,
        observed_at=at,
        received_at=at + 0.002,
        interval_s=1.0,
        arrived=12,
        finished=10,
        in_flight=40,
        waiting=2,
        oldest_waiting_since=at - 1.25,
        queue_age=Sketch.of((0.4, 1.25)),
        time_to_first_token=Sketch.of((0.21, 0.22, 0.35, 0.8)),
        inter_token=Sketch.of((0.02, 0.021, 0.025, 0.03)),
        prompt_tokens=Sketch.of((120.0, 800.0, 2000.0)),
        output_tokens=Sketch.of((64.0, 256.0, 300.0)),
    )
