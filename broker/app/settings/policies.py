"""``policies.yaml``: the models, how each is started, and the policies that scale them."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator, model_validator

from broker.app.settings.fields import DURATION_SCHEMA, Called, Date, Duration, Name, Section, TimeOfDay, TimeZone
from broker.app.settings.words import Misplaced, choices
from broker.model.signals import Signal
from broker.model.spec import (
    PLACEHOLDERS,
    EngineSpec,
    JsonValue,
    LongerPrompts,
    ModelSpec,
    PolicySpec,
    ServiceObjective,
    StabilisationSpec,
)
from broker.model.units import parse_duration_s

_MODEL = ModelSpec("", EngineSpec(()), PolicySpec(""))
_STABILISATION = StabilisationSpec()
_SLO = ServiceObjective()
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
SHARES = frozenset({Signal.KV_CACHE_USE})
PROJECTABLE = frozenset({Signal.REQUESTS_PER_REPLICA, Signal.KV_CACHE_USE})
"""Signals that rise as N/(N-1) when one of N replicas leaves."""

Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
LONGEST_WINDOW_S = 86400.0
"""The broker keeps 224 bytes for each second of a model's longest window: 19 MB for a day."""

Bound = Annotated[float, WithJsonSchema(DURATION_SCHEMA), Called("number or duration", "{:g}".format)]
PositiveDuration = Annotated[Duration, Field(gt=0)]


def is_time(signal: Signal) -> bool:
    """Whether a signal is in seconds, so that its bound may be written as a duration."""
    return signal.endswith("_s") and not signal.endswith("_per_s")


def _refuse_twins(field: str, titles: list[str]) -> None:
    for index, title in enumerate(titles):
        if title in titles[:index]:
            raise Misplaced(f"{title!r} names two of these; give each a name of its own", field, index, "name")


def _refuse_crossing(floor: int | None, ceiling: int | None) -> None:
    if floor is not None and ceiling is not None and floor > ceiling:
        raise Misplaced(f"{floor} is more than ceiling, which is {ceiling}", "floor")


class Rule(Section):
    """One rule: a signal beyond a bound for some time adds or removes replicas."""

    name: str | None = Field(
        default=None, min_length=1, description="By which decisions tell of it; by default made of signal and bound."
    )
    signal: Annotated[Signal, Field(strict=False)] = Field(description="What is looked at.")
    above: Bound | None = Field(default=None, ge=0, description="The rule holds above this.")
    below: Bound | None = Field(default=None, gt=0, description="The rule holds below this.")
    for_s: Duration = Field(
        default=0.0, le=LONGEST_WINDOW_S, description="How long without a break it must hold, one day at most."
    )
    change: int = Field(description="Replicas to add (`+1`, with `above`) or remove (`-1`, with `below`).")
    projected: bool = Field(
        default=False, description="Remove only if the load stays below the bound on the replicas that would remain."
    )

    @field_validator("above", "below", mode="before")
    @classmethod
    def _bound(cls, value: Any, info: ValidationInfo) -> Any:
        signal = info.data.get("signal")
        if not isinstance(value, str):
            return value
        if signal is not None and not is_time(signal):
            raise ValueError(f"{value!r} is not a number, and {signal.value} is no time")
        return parse_duration_s(value)

    @field_validator("above", "below")
    @classmethod
    def _share(cls, bound: float | None, info: ValidationInfo) -> float | None:
        signal = info.data.get("signal")
        if signal in SHARES and bound is not None and bound > 1:
            raise ValueError(f"{signal.value} lies between 0 and 1; write 0.8 for 80 %")
        return bound

    @field_validator("change")
    @classmethod
    def _sense(cls, change: int, info: ValidationInfo) -> int:
        # A bound that was refused is none of the data, and was given all the same.
        given = [side for side in ("above", "below") if info.data.get(side, "refused") is not None]
        if len(given) == 1 and (change == 0 or (change > 0) != (given == ["above"])):
            raise ValueError(
                f"{change:+d} does not go with {given[0]}: signals rise with load, so above adds (+1) and below "
                "removes (-1)"
            )
        return change

    @field_validator("projected")
    @classmethod
    def _can_be_projected(cls, projected: bool, info: ValidationInfo) -> bool:
        signal, change = info.data.get("signal"), info.data.get("change")
        if projected and (signal not in {*PROJECTABLE, None} or (change or 0) > 0):
            known = " and ".join(sorted(signal.value for signal in PROJECTABLE))
            raise ValueError(f"only for rules that remove replicas and look at {known}")
        return projected

    @model_validator(mode="after")
    def _one_bound(self) -> Rule:
        if (self.above is None) == (self.below is None):
            raise Misplaced("give exactly one of above and below", "above")
        return self

    @property
    def bound(self) -> float:
        return self.above if self.above is not None else self.below or 0.0

    @property
    def title(self) -> str:
        side = "above" if self.above is not None else "below"
        return self.name or f"{self.signal.value} {side} {self.bound:g}"


class ThresholdPolicy(Section):
    """Rules of the form: this signal beyond this bound for this long, so many replicas more or less."""

    kind: Literal["threshold"] = Field(description="`threshold`: rules on signals.")
    rules: list[Rule] = Field(min_length=1, description="The rules.")

    @model_validator(mode="after")
    def _together(self) -> ThresholdPolicy:
        _refuse_twins("rules", [rule.title for rule in self.rules])
        for index, rule in enumerate(self.rules):
            bounds = [other.above for other in self.rules if other.signal is rule.signal and other.above is not None]
            if rule.below is not None and bounds and rule.below > min(bounds):
                raise Misplaced(
                    f"{rule.signal.value} between {min(bounds):g} and {rule.below:g} would add and remove at once; "
                    f"write {min(bounds):g} or less",
                    *("rules", index, "below"),
                )
        return self

    def to_spec(self, model: ModelSettings) -> PolicySpec:
        rules: list[JsonValue] = [
            {
                "name": rule.title,
                "signal": rule.signal.value,
                "above": rule.above,
                "below": rule.below,
                "for_s": rule.for_s,
                "change": rule.change,
                "projected": rule.projected,
            }
            for rule in self.rules
        ]
        return PolicySpec(self.kind, {"rules": rules})


class Bounds(Section):
    """How many replicas are allowed."""

    floor: Count | None = Field(default=None, description="At least so many; by default the model's `min`.")
    ceiling: Count | None = Field(default=None, description="At most so many; by default the model's `max`.")

    @model_validator(mode="after")
    def _order(self) -> Bounds:
        _refuse_crossing(self.floor, self.ceiling)
        return self

    def around(self, minimum: int, maximum: int) -> tuple[int, int]:
        """Floor and ceiling; one that is not given is the model's, moved if the other lies beyond it."""
        floor = min(minimum, maximum if self.ceiling is None else self.ceiling) if self.floor is None else self.floor
        return floor, max(maximum, floor) if self.ceiling is None else self.ceiling


class DateRange(Section):
    """From one day to another, both included."""

    from_: Date | None = Field(default=None, description="The first day, as `2030-12-24`.")
    to: Date | None = Field(default=None, description="The last day.")

    @model_validator(mode="after")
    def _order(self) -> DateRange:
        if self.from_ is not None and self.to is not None and self.to < self.from_:
            raise Misplaced(f"{self.to} lies before {self.from_}", "to")
        return self


class ScheduleEntry(Section):
    """One line of a schedule. Where several hold, the later one wins."""

    name: str | None = Field(default=None, min_length=1, description="By which decisions tell of it.")
    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = Field(
        default=[], description="Days on which it begins; none: every day."
    )
    from_: TimeOfDay = Field(
        default=0,
        validate_default=False,
        json_schema_extra={"default": "00:00"},
        description="When it begins.",
    )
    to: TimeOfDay = Field(
        default=24 * 60,
        validate_default=False,
        json_schema_extra={"default": "24:00"},
        description="When it ends; at or before `from` means: on the next day.",
    )
    dates: DateRange = Field(default=DateRange(), description="Only on these days of the calendar.")
    floor: Count | None = Field(default=None, description="At least so many replicas.")
    ceiling: Count | None = Field(default=None, description="At most so many replicas.")

    @model_validator(mode="after")
    def _sense(self) -> ScheduleEntry:
        if self.from_ == 24 * 60:
            raise Misplaced("24:00 is only an end; write 00:00 and the next day", "from")
        if self.floor is None and self.ceiling is None:
            raise ValueError("changes nothing; give floor, ceiling or both")
        _refuse_crossing(self.floor, self.ceiling)
        return self

    @property
    def title(self) -> str:
        begin, end = (f"{minute // 60:02}:{minute % 60:02}" for minute in (self.from_, self.to))
        dates = f"{self.dates.from_ or ''}..{self.dates.to or ''}" if self.dates != DateRange() else ""
        parts = (",".join(self.days) or "daily", f"{begin}-{end}", dates)
        return self.name or " ".join(part for part in parts if part)


class SchedulePolicy(Section):
    """A floor and a ceiling by day, time and date, around another policy or alone."""

    kind: Literal["schedule"] = Field(description="`schedule`: bounds by the clock.")
    time_zone: TimeZone = Field(description="In which days and times are meant, as `Europe/Berlin`.")
    default: Bounds = Field(default=Bounds(), description="What holds when no entry does.")
    entries: list[ScheduleEntry] = Field(default=[], description="What holds when.")
    within: PolicySettings | None = Field(default=None, description="The policy that decides between the bounds.")

    @model_validator(mode="after")
    def _together(self) -> SchedulePolicy:
        _refuse_twins("entries", [entry.title for entry in self.entries])
        return self

    def to_spec(self, model: ModelSettings) -> PolicySpec:
        floor, ceiling = self.default.around(model.minimum, model.maximum)
        within = self.within.to_spec(model) if self.within is not None else None
        entries: list[JsonValue] = [
            {
                "name": entry.title,
                "days": [DAYS.index(day) for day in entry.days],
                "from_minute": entry.from_,
                "to_minute": entry.to,
                "first_date": entry.dates.from_,
                "last_date": entry.dates.to,
                "floor": entry.floor,
                "ceiling": entry.ceiling,
            }
            for entry in self.entries
        ]
        return PolicySpec(
            self.kind,
            {
                "time_zone": self.time_zone,
                "default": {"floor": floor, "ceiling": ceiling},
                "entries": entries,
                "within": {"kind": within.kind, "parameters": dict(within.parameters)} if within is not None else None,
            },
        )


PolicySettings: TypeAlias = Annotated[ThresholdPolicy | SchedulePolicy, Field(discriminator="kind")]


class EngineSettings(Section):
    """How one replica is started."""

    command: list[str] = Field(
        min_length=1,
        description="Program and arguments. `{host}`, `{port}`, `{model}`, `{replica}` and `{python}` (the broker's "
        "own interpreter) are replaced. The API key comes by environment (`VLLM_API_KEY`), never here.",
    )
    environment: dict[str, str] = Field(default={}, description="Variables for the engine.")
    profile: str | None = Field(default=None, description="The performance profile that the simulator takes for it.")

    @field_validator("command")
    @classmethod
    def _placeholders(cls, command: list[str]) -> list[str]:
        for index, argument in enumerate(command):
            for name in _PLACEHOLDER.findall(argument):
                if name not in PLACEHOLDERS:
                    raise Misplaced(f"{{{name}}} stands for nothing; {choices(name, PLACEHOLDERS)}", index)
            if argument.partition("=")[0] == "--api-key":
                raise Misplaced("leave it out: each replica gets a key of its own, and this one would win", index)
        return command

    @field_validator("environment")
    @classmethod
    def _own_names(cls, environment: dict[str, str]) -> dict[str, str]:
        if "VLLM_API_KEY" in environment:
            raise Misplaced("leave it out: each replica gets a key of its own", "VLLM_API_KEY")
        return environment

    def to_spec(self) -> EngineSpec:
        return EngineSpec(tuple(self.command), dict(self.environment), self.profile)


class StabilisationSettings(Section):
    """Hysteresis, for policies that do not shape themselves (`threshold` does, by `for`)."""

    scale_out_s: Duration = Field(
        default=_STABILISATION.scale_out_s, description="A higher target must be wanted for this long."
    )
    scale_in_s: Duration = Field(
        default=_STABILISATION.scale_in_s, description="A lower target must be wanted for this long."
    )
    max_step_out: AtLeastOne = Field(default=_STABILISATION.max_step_out, description="Replicas added within 15 s.")
    max_step_in: AtLeastOne = Field(default=_STABILISATION.max_step_in, description="Replicas removed within 15 s.")

    def to_spec(self) -> StabilisationSpec:
        return StabilisationSpec(**self.model_dump())


class LongerPromptsSettings(Section):
    """Another limit for the first token of long prompts, which take their time to read."""

    over_tokens: AtLeastOne = Field(description="Prompts of more tokens than this.")
    first_token_s: PositiveDuration = Field(description="Their time to the first token, at most.")


class SloSettings(Section):
    """What the model's users are promised, measured at the gateway. Simulated runs are judged by it; nothing is decided
    by it."""

    first_token_s: PositiveDuration = Field(default=_SLO.first_token_s, description="Time to the first token, at most.")
    per_token_s: PositiveDuration = Field(
        default=_SLO.per_token_s, description="Mean time per output token after the first, at most."
    )
    longer_prompts: list[LongerPromptsSettings] = Field(
        default=[], description="Other limits for the first token of long prompts, by rising length."
    )

    @model_validator(mode="after")
    def _order(self) -> SloSettings:
        lengths = [longer.over_tokens for longer in self.longer_prompts]
        for index, (length, following) in enumerate(pairwise(lengths)):
            if following <= length:
                raise Misplaced(
                    f"{following} does not rise above {length}; give limits by rising length",
                    *("longer_prompts", index + 1, "over_tokens"),
                )
        return self

    def to_spec(self) -> ServiceObjective:
        longer = (LongerPrompts(one.over_tokens, one.first_token_s) for one in self.longer_prompts)
        return ServiceObjective(self.first_token_s, self.per_token_s, tuple(longer))


class ModelSettings(Section):
    """One model, as users name it in their requests."""

    engine: EngineSettings = Field(description="How one replica is started.")
    gpus: AtLeastOne = Field(default=_MODEL.gpus, description="GPUs of one replica.")
    minimum: Count = Field(alias="min", default=_MODEL.minimum, description="Replicas at least.")
    maximum: Count = Field(alias="max", default=_MODEL.maximum, description="Replicas at most.")
    pools: list[str] = Field(default=[], description="Pools it may run in, the preferred first; none: all of the site.")
    capabilities: list[Literal["chat", "completions", "embeddings"]] = Field(
        default=["chat", "completions"],
        min_length=1,
        description="What its engine serves, of `/v1/chat/completions`, `/v1/completions` and `/v1/embeddings`; the "
        "rest is refused. A change holds for replicas started after it.",
    )
    load_timeout_s: PositiveDuration = Field(
        default=_MODEL.load_timeout_s, description="A replica not ready by then has failed."
    )
    drain_limit_s: Duration = Field(
        default=_MODEL.drain_limit_s, description="How long a withdrawn replica may finish its requests."
    )
    stop_grace_s: Duration = Field(
        default=_MODEL.stop_grace_s, description="From the request to exit until the replica is killed."
    )
    stabilisation: StabilisationSettings = Field(default=StabilisationSettings(), description="Hysteresis.")
    policy: PolicySettings | None = Field(
        default=None, description="What decides between `min` and `max`; may be left out where they are equal."
    )
    shadows: dict[Name, PolicySettings] = Field(
        default={}, description="Policies that are asked and recorded beside it, but not followed."
    )
    slo: SloSettings = Field(default=SloSettings(), description="What users are promised; reports judge by it.")

    @field_validator("maximum")
    @classmethod
    def _order(cls, maximum: int, info: ValidationInfo) -> int:
        minimum = info.data.get("minimum", 0)
        if maximum < minimum:
            raise ValueError(f"{maximum} is less than min, which is {minimum}")
        return maximum

    @field_validator("policy")
    @classmethod
    def _decides(cls, policy: PolicySettings | None, info: ValidationInfo) -> PolicySettings | None:
        minimum, maximum = info.data.get("minimum"), info.data.get("maximum")
        if policy is None and minimum is not None and maximum is not None and minimum < maximum:
            raise Misplaced(f"missing: something must decide between {minimum} and {maximum}")
        return policy

    def to_spec(self, model_id: str) -> ModelSpec:
        policy = self.policy or SchedulePolicy(kind="schedule", time_zone="UTC")
        return ModelSpec(
            model_id=model_id,
            engine=self.engine.to_spec(),
            policy=policy.to_spec(self),
            minimum=self.minimum,
            maximum=self.maximum,
            gpus=self.gpus,
            pools=tuple(self.pools),
            capabilities=tuple(self.capabilities),
            load_timeout_s=self.load_timeout_s,
            drain_limit_s=self.drain_limit_s,
            stop_grace_s=self.stop_grace_s,
            stabilisation=self.stabilisation.to_spec(),
            shadows={name: shadow.to_spec(self) for name, shadow in self.shadows.items()},
            slo=self.slo.to_spec(),
        )


class PoliciesSettings(Section):
    """The whole of `policies.yaml`. It is read again when it changes."""

    models: dict[Name, ModelSettings] = Field(description="The models by the name that users ask for.")


SchedulePolicy.model_rebuild()
