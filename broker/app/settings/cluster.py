"""``cluster.yaml``: the Slurm cluster that a simulation puts a site's ``slurm`` pools on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from broker.app.settings.document import read_document
from broker.app.settings.fields import Duration, LocalPath, Name, Section, Size, TimeOfDay, TimeZone
from broker.app.settings.loading import read_section
from broker.app.settings.words import Misplaced, choices
from broker.model.errors import ConfigError
from traces.batch.generate import BatchProfile
from traces.batch.profiles import load_batch_profile, read_batch_profile

PositiveDuration = Annotated[Duration, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
TimeLimit = Annotated[Duration, Field(ge=1)]
MOST_NODES = 10_000
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class NodeSettings(Section):
    """Equal nodes."""

    count: Annotated[int, Field(ge=1, le=MOST_NODES)] = Field(description="How many.")
    gpus: Annotated[int, Field(ge=1, le=256)] = Field(
        description="GPUs of each; on a cluster without any, its processors."
    )


class PartitionSettings(Section):
    """A partition as Slurm knows it; partitions may share nodes."""

    nodes: list[str] = Field(default=[], description="Its groups of nodes; left out: all.")
    max_time_s: TimeLimit | None = Field(default=None, description="The longest time limit; none: any.")
    tier: int = Field(default=0, description="Jobs of a higher tier go first (`PriorityTier`).")
    preempt: Literal["off", "cancel", "requeue"] = Field(
        default="off", description="What happens to its jobs when a partition of a higher tier needs their nodes."
    )
    grace_s: Duration = Field(default=0.0, description="Time from the warning to the end (`GraceTime`).")


class WindowSettings(Section):
    """A part of the week, from one time to another; the end may lie in the next week."""

    from_day: Day = Field(description="The day on which it opens.")
    from_: TimeOfDay = Field(default=0, description="The time at which it opens.")
    to_day: Day = Field(description="The day on which it closes.")
    to: TimeOfDay = Field(default=24 * 60, description="The time at which it closes.")

    @model_validator(mode="after")
    def _is_open(self) -> WindowSettings:
        if (self.from_day, self.from_) == (self.to_day, self.to):
            raise Misplaced(
                "opens and closes at the same time; for a whole week write `from_day: mon, to_day: sun`", "to"
            )
        return self

    @property
    def hours(self) -> tuple[float, float]:
        """Since Monday 00:00; over the week's end the second is above 168."""
        opens = (DAYS.index(self.from_day) * 24 + self.from_ / 60) % 168.0
        closes = DAYS.index(self.to_day) * 24 + self.to / 60
        return opens, closes if closes > opens else closes + 168.0


class StartRuleSettings(Section):
    """Jobs with a long limit start at certain hours only."""

    over_s: Duration = Field(description="The rule holds for jobs with a limit above this.")
    windows: list[WindowSettings] = Field(min_length=1, description="When they may start.")
    time_zone: TimeZone = Field(default="UTC", description="By this clock.")
    ends_inside: bool = Field(default=False, description="Their limit must be over when the window closes, too.")


class MaintenanceSettings(Section):
    """A reservation that is known from the start: no job runs into it."""

    begins_s: Duration = Field(description="When, from the start of the run.")
    lasts_s: PositiveDuration = Field(description="For how long.")
    nodes: list[str] = Field(default=[], description="Groups of nodes; left out: all.")


class FailureSettings(Section):
    """Nodes that go down, with what runs there."""

    mean_between_s: Annotated[Duration, Field(ge=600)] = Field(description="Of one node, on average.")
    mean_repair_s: PositiveDuration = Field(default=4 * 3600.0, description="Until it is back, on average.")


class _Jobs(Section):
    partition: str = Field(description="The partition that its jobs are submitted to.")
    processors_per_gpu: Count = Field(default=1, description="So many of the source's processors make one GPU.")
    requeue: bool = Field(default=False, description="Its jobs wait again after preemption or a node's failure.")


class LoggedBackground(_Jobs):
    """The jobs of a recorded log."""

    kind: Literal["swf"] = Field(description="`swf`: a log in the Standard Workload Format, plain or gzip.")
    path: LocalPath = Field(description="The log.")
    begin_s: Duration = Field(default=0.0, description="The second of the log at which the cluster begins.")
    default_limit_s: TimeLimit = Field(default=86_400.0, description="The limit of jobs that have none.")
    skip_bad: bool = Field(default=False, description="Leave malformed rows out instead of stopping.")


class GeneratedBackground(_Jobs):
    """Jobs in the shape of a fitted log."""

    kind: Literal["generated"] = Field(description="`generated`: drawn from a fitted profile.")
    profile: str | None = Field(
        default=None, description="A batch profile that ships with Tidegate: `kth_sp2` or `cea_curie`."
    )
    profile_file: LocalPath | None = Field(
        default=None, description="Or one of your own, as `trace fit-slurm` writes it."
    )
    rate_scale: Annotated[float, Field(gt=0, le=100)] = Field(default=1.0, description="Times the rate of its log.")

    @model_validator(mode="after")
    def _is_profile(self) -> GeneratedBackground:
        if (self.profile is None) == (self.profile_file is None):
            raise Misplaced("name either `profile` or `profile_file`", "profile")
        try:
            self.to_profile()
        except ConfigError as error:
            raise Misplaced(str(error), "profile" if self.profile_file is None else "profile_file") from None
        return self

    def to_profile(self) -> BatchProfile:
        """Raises ``ConfigError``."""
        if self.profile_file is not None:
            return read_batch_profile(self.profile_file)
        return load_batch_profile(self.profile or "")


class Spread(Section):
    """A lognormal time."""

    median_s: Duration = Field(default=0.0, description="Its median.")
    sigma: Annotated[float, Field(ge=0, le=3)] = Field(default=0.0, description="Of its logarithm; 0: always the same.")


class ColdStartSettings(Section):
    """How a replica starts once its job runs. `fetch` and `compile` happen only where the node lacks the model."""

    weights_bytes: Size = Field(description="What the model takes of a node's cache.")
    boot: Spread = Field(description="Until the engine begins to load.")
    fetch: Spread = Field(default=Spread(), description="The weights come to the node.")
    load: Spread = Field(description="From the node to the GPUs.")
    compile: Spread = Field(default=Spread(), description="Kernels and graphs.")
    warm_up: Spread = Field(default=Spread(), description="Until it serves.")
    boot_again: Spread | None = Field(default=None, description="In place of `boot` where the node has the model.")
    warm_up_again: Spread | None = Field(default=None, description="In place of `warm_up` where the node has it.")


class ColdStartsSettings(Section):
    """Starts by model, and what nodes remember of them; a model not named takes its engine profile's load time."""

    cache_bytes: Size = Field(description="What a node keeps of models; the least recently used goes first.")
    models: dict[Name, ColdStartSettings] = Field(default={}, description="By the names of `policies.yaml`.")


class ClusterSettings(Section):
    """The whole of `cluster.yaml`: a cluster, its other users, its rules and its failures."""

    nodes: dict[str, NodeSettings] = Field(min_length=1, description="Groups of equal nodes.")
    partitions: dict[str, PartitionSettings] = Field(min_length=1, description="Partitions by name.")
    lead_s: Duration = Field(default=86_400.0, description="How long before the run its other users begin.")
    background: dict[Name, Annotated[LoggedBackground | GeneratedBackground, Field(discriminator="kind")]] = Field(
        default={}, description="Batch jobs of other users, by source."
    )
    priority_per_hour: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="What an hour of waiting adds to a job's priority."
    )
    backfill_depth: Count = Field(default=500, description="Waiting jobs that one pass looks at (`bf_max_job_test`).")
    requeue_delay_s: Duration = Field(default=120.0, description="Until a requeued job may start again.")
    start_rules: list[StartRuleSettings] = Field(default=[], description="Hours at which long jobs may start.")
    maintenance: dict[Name, MaintenanceSettings] = Field(default={}, description="Announced reservations.")
    failures: FailureSettings | None = Field(default=None, description="Failing nodes; none: they never fail.")
    exit_s: Duration = Field(default=0.0, description="How long a replica takes to exit when it is told to.")
    cold_starts: ColdStartsSettings | None = Field(
        default=None, description="How replicas start; none: in their engine profiles' load times."
    )

    @model_validator(mode="after")
    def _names(self) -> ClusterSettings:
        """What is named is there, and in reason."""
        if (count := sum(group.count for group in self.nodes.values())) > MOST_NODES:
            raise Misplaced(f"{count:,} nodes in all; a cluster may have up to {MOST_NODES:,}", "nodes")
        for field, sections in (("partitions", self.partitions), ("maintenance", self.maintenance)):
            for name, section in sections.items():
                if not section.nodes and "nodes" in section.model_fields_set:
                    raise Misplaced("names no nodes; leave it out for all of them", field, name, "nodes")
                for index, group in enumerate(section.nodes):
                    if group not in self.nodes:
                        raise Misplaced(
                            f"there are no nodes {group!r}; {choices(group, self.nodes)}", field, name, "nodes", index
                        )
        for name, load in self.background.items():
            if load.partition not in self.partitions:
                raise Misplaced(
                    f"there is no partition {load.partition!r}; {choices(load.partition, self.partitions)}",
                    "background", name, "partition",
                )  # fmt: skip
        return self


def load_cluster(path: str | Path) -> ClusterSettings:
    """``cluster.yaml``. Raises ``ConfigErrors``."""
    return read_section(ClusterSettings, read_document(path))
