"""A floor and a ceiling by hour of week and by date, alone or around another policy.

Alone, the floor is the target. Around another policy (``within``), that policy's wish is kept between floor and
ceiling; they are the operator's word and need no signal, so they stand also while the inner policy holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from zoneinfo import ZoneInfo

from broker.model.errors import ConfigError
from broker.model.plan import Recommendation
from broker.model.snapshot import FleetSnapshot, WindowNeed
from broker.model.spec import PolicySpec
from broker.model.state import Memory
from policies.base import Policy, PolicyFactory
from policies.parameters import read_parameters
from policies.timetable import MINUTES_PER_DAY, Bounds, Entry, Range, Timetable, stretch_at

KIND = "schedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleParameters:
    time_zone: str
    default: Range
    entries: tuple[Entry, ...] = ()
    within: PolicySpec | None = None


@dataclass(frozen=True, slots=True)
class SchedulePolicy:
    """See the module's text. The inner policy's memory is kept under ``within``."""

    timetable: Timetable
    within: Policy | None = None

    @property
    def kind(self) -> str:
        return KIND

    def needs(self) -> tuple[WindowNeed, ...]:
        return self.within.needs() if self.within is not None else ()

    def recommend(self, snapshot: FleetSnapshot, memory: Memory) -> tuple[Recommendation, Memory]:
        bounds, until = stretch_at(self.timetable, snapshot.now)
        if self.within is None:
            words = f"{_source(bounds)} asks for {bounds.floor}"
            if not self.timetable.entries and bounds.floor == bounds.ceiling:
                # What a model without a policy gets: its operator wrote no schedule and would look for one.
                words = f"at least {bounds.floor}, at most {bounds.floor}: there is nothing to decide"
            # Nothing to smooth: the operator said 18:00, and a stabilisation window would make it 18:01.
            alone = Recommendation(bounds.floor, bounds.floor, "schedule_floor", words, shaped=True, valid_until=until)
            return alone, {}
        remembered = memory.get("within")
        inner, inner_memory = self.within.recommend(snapshot, remembered if isinstance(remembered, dict) else {})
        ends = [end for end in (until, inner.valid_until) if end is not None]
        bounded = replace(
            _clamp(inner, snapshot.supply.target, bounds), baseline=bounds.floor, valid_until=min(ends, default=None)
        )
        return bounded, {"within": dict(inner_memory)}


def _clamp(inner: Recommendation, present: int, bounds: Bounds) -> Recommendation:
    wanted = present if inner.hold else inner.target
    target = min(max(wanted, bounds.floor), bounds.ceiling)
    if target == wanted:
        return replace(inner, target=target)
    code, verb = ("schedule_floor", "at least") if target > wanted else ("schedule_ceiling", "at most")
    words = f"{_source(bounds)} asks for {verb} {target} where {wanted} was wanted ({inner.words})"
    return replace(inner, target=target, code=code, words=words, relative=False, hold=False)


def _source(bounds: Bounds) -> str:
    if not bounds.entries:
        return "the schedule's default"
    return f"schedule entr{'y' if len(bounds.entries) == 1 else 'ies'} {', '.join(bounds.entries)}"


def build_schedule(spec: PolicySpec, build: PolicyFactory) -> SchedulePolicy:
    """``build`` makes the inner policy. Raises ``ConfigError`` with the field, as ``entries[0].days``."""
    parameters = read_parameters(ScheduleParameters, spec)
    _check_time_zone(parameters.time_zone)
    _check_range(parameters.default.floor, parameters.default.ceiling, "default")
    for index, entry in enumerate(parameters.entries):
        _check_entry(entry, f"entries[{index}]")
        if entry.name in {earlier.name for earlier in parameters.entries[:index]}:
            raise ConfigError(f"{entry.name!r} names two entries; give each its own", field=f"entries[{index}].name")
    timetable = Timetable(parameters.time_zone, parameters.default, parameters.entries)
    if parameters.within is None:
        return SchedulePolicy(timetable)
    try:
        return SchedulePolicy(timetable, build(parameters.within))
    except ConfigError as error:
        field = f"within.{error.field}" if error.field else "within"
        raise ConfigError(error.problem, field=field) from None


def _check_time_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            f"{name!r} is no time zone; write a name such as Europe/Berlin or UTC", field="time_zone"
        ) from None


def _check_entry(entry: Entry, where: str) -> None:
    if not entry.name:
        raise ConfigError("an entry needs a name, by which decisions tell of it", field=f"{where}.name")
    if any(not 0 <= day <= 6 for day in entry.days):
        raise ConfigError("days count from Monday = 0 to Sunday = 6", field=f"{where}.days")
    if not 0 <= entry.from_minute < MINUTES_PER_DAY:
        raise ConfigError("a beginning lies between 00:00 and 23:59", field=f"{where}.from_minute")
    if not 0 <= entry.to_minute <= MINUTES_PER_DAY:
        raise ConfigError("an end lies between 00:00 and 24:00", field=f"{where}.to_minute")
    for name, text in (("first_date", entry.first_date), ("last_date", entry.last_date)):
        if text is not None and not _is_date(text):
            raise ConfigError(f"{text!r} is not a date of the form 2030-12-24", field=f"{where}.{name}")
    if entry.first_date is not None and entry.last_date is not None and entry.last_date < entry.first_date:
        raise ConfigError(f"{entry.last_date} lies before {entry.first_date}", field=f"{where}.last_date")
    if entry.floor is None and entry.ceiling is None:
        raise ConfigError("an entry that sets neither floor nor ceiling does nothing", field=f"{where}.floor")
    _check_range(entry.floor, entry.ceiling, where)


def _check_range(floor: int | None, ceiling: int | None, where: str) -> None:
    for name, value in (("floor", floor), ("ceiling", ceiling)):
        if value is not None and value < 0:
            raise ConfigError(f"{value} replicas cannot be; write 0 or more", field=f"{where}.{name}")
    if floor is not None and ceiling is not None and floor > ceiling:
        raise ConfigError(f"the floor {floor} lies above the ceiling {ceiling}", field=f"{where}.floor")


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
