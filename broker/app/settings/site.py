"""``site.yaml``: the cluster, its pools and limits, and how the broker itself runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from broker.app.settings.fields import Duration, LocalPath, Name, Section, Size
from broker.app.settings.kafka import KafkaLog
from broker.app.settings.pool import Count, Pool, Port
from broker.app.settings.slurm import SlurmPool
from broker.app.settings.words import Misplaced
from broker.model.spec import BreakerSpec, Limits, Mode, PoolSpec, RenewalSpec, SiteSpec
from broker.model.units import format_duration

_LIMITS = Limits()
_BREAKER = BreakerSpec()
_RENEWAL = RenewalSpec()

PositiveDuration = Annotated[Duration, Field(gt=0)]


class LocalPool(Pool):
    """Replicas as processes of this machine."""

    kind: Literal["local"] = Field(description="What starts the replicas: `local` runs them as processes here.")
    state_dir: LocalPath = Field(
        default=Path("var/replicas"), description="Where the identity of each process is kept, for the next broker."
    )
    log_dir: LocalPath = Field(default=Path("var/log"), description="Where each replica's output is kept.")
    log_limit_bytes: Size = Field(default=16 * 2**20, description="The most that is kept of one replica's output.")
    host: str = Field(default="127.0.0.1", description="The address that engines listen on.")
    gpu_ids: list[Annotated[int, Field(ge=0)] | str] = Field(
        default=[],
        description="Devices handed out as `CUDA_VISIBLE_DEVICES`, as many as `gpus`; none: engines see all devices.",
    )
    ports: list[Port] | None = Field(
        default=None, description="`[first, last]` of the ports to use; by default the kernel chooses."
    )

    @model_validator(mode="after")
    def _devices_and_ports(self) -> LocalPool:
        if self.gpu_ids and len(self.gpu_ids) != self.gpus:
            raise Misplaced(f"{len(self.gpu_ids)} devices for {self.gpus} gpus; name each one", "gpu_ids")
        if self.ports is not None and (len(self.ports) != 2 or self.ports[0] > self.ports[1]):
            raise Misplaced(f"{self.ports} is not [first, last]", "ports")
        return self

    def to_spec(self, pool_id: str) -> PoolSpec:
        """What the core and the actuator share; where files lie stays here, so that no decision depends on it."""
        options = self.shared_options()
        if self.gpu_ids:
            options["gpu_ids"] = list(self.gpu_ids)
        if self.ports is not None:
            options["ports"] = list(self.ports)
        return PoolSpec(pool_id, self.kind, self.gpus, tuple(self.tiers), options)


PoolSettings = Annotated[LocalPool | SlurmPool, Field(discriminator="kind")]
"""Every kind of pool. ``broker.app.pools`` says what starts its replicas, the simulator how it simulates them."""


class BreakerSettings(Section):
    """When to stop starting what does not start."""

    failures: Annotated[int, Field(ge=1)] = Field(
        default=_BREAKER.failures, description="Failed starts in a row that open the breaker."
    )
    open_s: PositiveDuration = Field(
        default=_BREAKER.open_s,
        description="How long it stays open, doubled each time. Then one start is tried, before there are more.",
    )
    max_open_s: PositiveDuration = Field(default=_BREAKER.max_open_s, description="The longest that it stays open.")

    @model_validator(mode="after")
    def _order(self) -> BreakerSettings:
        if self.max_open_s < self.open_s:
            raise Misplaced(f"is shorter than open, which is {format_duration(self.open_s)}", "max_open")
        return self

    def to_spec(self) -> BreakerSpec:
        return BreakerSpec(**self.model_dump())


class RenewalSettings(Section):
    """When to ask for the successor of a replica that its pool will end, as a job at its wall time."""

    margin_s: Duration = Field(
        default=_RENEWAL.margin_s,
        description="Time kept free before the end, besides the drain limit: the pool may end it a little early.",
    )
    queue_prior_s: Duration = Field(
        default=_RENEWAL.queue_prior_s, description="How long a start may queue, until five starts were seen."
    )
    load_prior_s: Duration = Field(
        default=_RENEWAL.load_prior_s, description="How long a replica may load, until five starts were seen."
    )

    def to_spec(self) -> RenewalSpec:
        return RenewalSpec(**self.model_dump())


class LimitSettings(Section):
    """What holds after every policy, for the whole cluster."""

    starts_per_minute: Count = Field(default=_LIMITS.starts_per_minute, description="Replicas started in any minute.")
    starts_per_hour: Count = Field(default=_LIMITS.starts_per_hour, description="Replicas started in any hour.")
    stops_per_minute: Count = Field(default=_LIMITS.stops_per_minute, description="Replicas stopped in any minute.")
    stops_per_hour: Count = Field(default=_LIMITS.stops_per_hour, description="Replicas stopped in any hour.")
    concurrent_loads: Annotated[int, Field(ge=1)] = Field(
        default=_LIMITS.concurrent_loads, description="Replicas on their way to ready at once, of all models."
    )
    pool_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=_LIMITS.pool_share, description="The share of each pool's GPUs that may be used."
    )
    snapshot_interval_s: PositiveDuration = Field(
        default=_LIMITS.snapshot_interval_s,
        description="How often each model is decided on while nothing presses; more often than its replicas are read "
        "and gateways report, it costs and shows little.",
    )
    signal_patience_s: PositiveDuration = Field(
        default=_LIMITS.signal_patience_s, description="A signal older than this is stale: nothing is scaled in on it."
    )
    pool_patience_s: PositiveDuration = Field(
        default=_LIMITS.pool_patience_s, description="A pool not listed for this long is unknown: nothing is started."
    )
    gateway_session_s: PositiveDuration = Field(
        default=_LIMITS.gateway_session_s, description="A gateway silent for this long has ended its session."
    )
    unhealthy_after_s: PositiveDuration = Field(
        default=_LIMITS.unhealthy_after_s, description="A replica unreachable for this long is withdrawn."
    )
    effect_patience_s: PositiveDuration = Field(
        default=_LIMITS.effect_patience_s, description="A start or stop that nobody answered is repeated after this."
    )
    full_pool_s: PositiveDuration = Field(
        default=_LIMITS.full_pool_s, description="A pool that said it is full is not asked again for this long."
    )
    ended_kept_s: PositiveDuration = Field(
        default=_LIMITS.ended_kept_s, description="How long the record of an ended replica is kept."
    )
    breaker: BreakerSettings = Field(default=BreakerSettings(), description="When starts fail again and again.")
    renewal: RenewalSettings = Field(
        default=RenewalSettings(), description="When replicas that their pool will end are succeeded."
    )

    @model_validator(mode="after")
    def _patience(self) -> LimitSettings:
        if self.snapshot_interval_s >= self.signal_patience_s:
            patience = format_duration(self.signal_patience_s)
            raise Misplaced(
                f"is not shorter than signal_patience, which is {patience}: signals would be stale in between",
                "snapshot_interval",
            )
        return self

    def to_spec(self) -> Limits:
        plain = self.model_dump(exclude={"breaker", "renewal"})
        return Limits(**plain, breaker=self.breaker.to_spec(), renewal=self.renewal.to_spec())


class SqliteLog(Section):
    """The broker's memory in one file, safe against crashes."""

    kind: Literal["sqlite"] = Field(description="`sqlite`: one durable file.")
    path: LocalPath = Field(default=Path("var/tidegate.sqlite"), description="The file.")
    retention_s: PositiveDuration = Field(default=30 * 86400.0, description="How long decisions and records are kept.")


class MemoryLog(Section):
    """The broker's memory, gone when it ends: for trials."""

    kind: Literal["memory"] = Field(description="`memory`: nothing is written; a restart forgets.")
    retention_s: PositiveDuration = Field(default=86400.0, description="How long decisions and records are kept.")


_DEFAULT_LOG: Any = {"kind": "sqlite"}
"""Read like what stands in a file, so that its path starts from the folder too: a ready section is not read again."""

LogSettings = Annotated[SqliteLog | MemoryLog | KafkaLog, Field(discriminator="kind")]


class ApiSettings(Section):
    """The broker's HTTP API. A token also comes by environment, which wins: `TIDEGATE_READ_TOKEN` and so on."""

    host: str = Field(default="127.0.0.1", description="The address to listen on; by default this machine only.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8600, description="The port; 0: the kernel chooses.")
    read_token_file: LocalPath | None = Field(default=None, description="File with the token that may read.")
    operate_token_file: LocalPath | None = Field(default=None, description="File with the token that may change.")
    gateway_token_file: LocalPath | None = Field(default=None, description="File with the token of gateways.")


class ScrapeSettings(Section):
    """How the replicas' metrics are read, and by whom."""

    by: Literal["broker", "scrapers"] = Field(
        default="broker",
        description="`scrapers`: processes of their own (`tidegate scraper`), which share the replicas; they need "
        "a log in Kafka.",
    )
    interval_s: PositiveDuration = Field(default=1.0, description="Time between two readings of one replica.")
    timeout_s: PositiveDuration = Field(default=1.0, description="How long one reading may take.")


class OutputSettings(Section):
    """What is published beside the API."""

    endpoints_file: LocalPath | None = Field(
        default=None, description="A JSON file with the published endpoints, replaced whole at every change."
    )


class SiteSettings(Section):
    """The whole of `site.yaml`. Relative paths start from the file's folder."""

    cluster: Name = Field(description="The cluster's name, part of the name of everything that is started.")
    mode: Annotated[Mode, Field(strict=False)] = Field(
        default=Mode.ACT, description="`act`, or `observe`: compute, record and explain, but touch nothing."
    )
    pools: dict[Name, PoolSettings] = Field(min_length=1, description="Capacity by name.")
    limits: LimitSettings = Field(default=LimitSettings(), description="What holds after every policy.")
    log: LogSettings = Field(default=_DEFAULT_LOG, description="The broker's durable memory.")
    api: ApiSettings = Field(default=ApiSettings(), description="The HTTP API.")
    scrape: ScrapeSettings = Field(default=ScrapeSettings(), description="Reading of replicas' metrics.")
    outputs: OutputSettings = Field(default=OutputSettings(), description="What is published beside the API.")
    secret_file: LocalPath | None = Field(
        default=None,
        description="File with the site's secret, from which replicas' keys derive; `TIDEGATE_SITE_SECRET` wins.",
    )

    @model_validator(mode="after")
    def _scrapers_write_to_kafka(self) -> SiteSettings:
        if self.scrape.by == "scrapers" and not isinstance(self.log, KafkaLog):
            raise Misplaced(
                f"scrapers write what they read to topics, and the log is kept in {self.log.kind}: set log to one in "
                "kafka (docs/kafka.md), or leave it to the broker",
                "scrape",
                "by",
            )
        return self

    @property
    def spec(self) -> SiteSpec:
        """What the core may know of it."""
        return SiteSpec(
            cluster=self.cluster,
            pools=tuple(pool.to_spec(pool_id) for pool_id, pool in self.pools.items()),
            mode=self.mode,
            limits=self.limits.to_spec(),
        )
