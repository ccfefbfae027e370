"""Profile files: YAML in, checked, and out again. pydantic ends here."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from broker.model.errors import ConfigError, ConfigErrors
from simulator.profiles.profile import LoadTime, Method, Profile, Range, Value, WorkloadRange

CATALOGUE = Path(__file__).parent
LARGEST_BYTES = 256 * 1024
NOT_IN_OLDER_FILES = {"wakeup_latency_s": Value(0.0, Method.FLOOR, "not told by this file")}
Location = tuple[str | int, ...]


def names() -> list[str]:
    """The project's own profiles."""
    return sorted(path.stem for path in CATALOGUE.glob("*.yaml"))


def profile_path(name: str) -> Path | None:
    """The file that ``name`` is the path of; None for one of the catalogue's."""
    return Path(name) if "/" in name or name.endswith((".yaml", ".yml")) else None


@functools.lru_cache(maxsize=64)
def load_profile(name: str) -> Profile:
    """One of ``names()``, or a file's path (with a slash, or ending in ``.yaml`` or ``.yml``), read once.

    Raises ``ConfigError`` that lists the names there are, or ``ConfigErrors`` with all of a file's problems.
    """
    path = profile_path(name)
    if path is not None:
        return read_profile(path)
    if name not in names():
        raise ConfigError(
            f"no engine profile {name!r}; there are {', '.join(names())}, or give a file's path (./mine.yaml)"
        )
    return read_profile(CATALOGUE / f"{name}.yaml")


def read_profile(path: Path) -> Profile:
    """The profile in a file. Raises ``ConfigErrors`` with file, line and field of every problem."""
    text = _text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        words = getattr(error, "problem", None) or "a character that YAML does not allow"
        raise _refusal(path, f"is not YAML: {words}", mark.line + 1 if mark else None) from None
    lines = _lines(node, ())
    try:
        return _ProfileIn.model_validate(data).profile()
    except ValidationError as error:
        raise ConfigErrors(
            [_problem(path, lines, problem["loc"], problem["msg"]) for problem in error.errors()]
        ) from None
    except ValueError as error:
        raise _refusal(path, str(error)) from None


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise _refusal(path, f"cannot be read: {error.strerror or error}") from None
    if len(raw) > LARGEST_BYTES:
        raise _refusal(path, f"is larger than {LARGEST_BYTES // 1024} KiB; that is hardly a profile")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refusal(path, "is not UTF-8 text", 1 + raw[: error.start].count(b"\n")) from None


def _refusal(path: Path, words: str, line: int | None = None) -> ConfigErrors:
    return ConfigErrors([ConfigError(words, path=str(path), line=line)])


def _problem(path: Path, lines: Mapping[Location, int], location: Location, words: str) -> ConfigError:
    """pydantic's problem at the nearest place that the file has."""
    known = location
    while known and known not in lines:
        known = known[:-1]
    field = ".".join(str(part) for part in location) or None
    return ConfigError(words.removeprefix("Value error, "), path=str(path), line=lines.get(known), field=field)


def _lines(node: yaml.Node | None, location: Location) -> dict[Location, int]:
    found: dict[Location, int] = {}
    if node is not None:
        found[location] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            found |= _lines(value, (*location, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found |= _lines(value, (*location, index))
    return found


def dump_profile(profile: Profile) -> str:
    """A file's text, which ``read_profile`` turns into the same profile."""
    data: dict[str, Any] = {
        "name": profile.name,
        "hardware": profile.hardware,
        "model": profile.model,
        "tensor_parallel": profile.tensor_parallel,
        "precision": profile.precision,
        "summary": profile.summary,
        "coefficients": {name: _value_out(value) for name, value in profile.coefficients.items()},
        "limits": {name: _value_out(value, whole=True) for name, value in profile.limits.items()},
        "load_time": {
            "median_s": profile.load_time.median_s,
            "sigma": profile.load_time.sigma,
            "method": profile.load_time.method.value,
            "source": profile.load_time.source,
        },
    }
    if profile.valid is not None:
        data["valid"] = _range_out(profile.valid)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)


def _value_out(value: Value, *, whole: bool = False) -> dict[str, Any]:
    number = int(value.value) if whole else float(value.value)
    out: dict[str, Any] = {"value": number, "method": value.method.value, "source": value.source}
    if value.relative_error is not None:
        out["relative_error"] = float(value.relative_error)
    if value.valid is not None:
        out["valid"] = _range_out(value.valid)
    return out


def _range_out(valid: WorkloadRange) -> dict[str, list[float]]:
    ranges = {field.name: getattr(valid, field.name) for field in fields(WorkloadRange)}
    return {name: [float(both.low), float(both.high)] for name, both in ranges.items() if both is not None}


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    Range(*bounds)
    return bounds


Bounds = Annotated[tuple[float, float], AfterValidator(_ascending)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _RangeIn(_In):
    prompt_tokens: Bounds | None = None
    output_tokens: Bounds | None = None
    cached_share: Bounds | None = None
    concurrency: Bounds | None = None

    def range(self) -> WorkloadRange:
        return WorkloadRange(
            **{name: Range(*bounds) for name, bounds in self.model_dump().items() if bounds is not None}
        )


class _ValueIn(_In):
    value: float
    method: Method
    source: str
    relative_error: float | None = None
    valid: _RangeIn | None = None

    def checked(self) -> Value:
        valid = self.valid.range() if self.valid is not None else None
        return Value(self.value, self.method, self.source, valid, self.relative_error)


class _LoadTimeIn(_In):
    median_s: float
    sigma: float = 0.0
    method: Method
    source: str


class _ProfileIn(_In):
    name: str
    hardware: str
    model: str
    tensor_parallel: int
    precision: str
    summary: str
    coefficients: dict[str, _ValueIn]
    limits: dict[str, _ValueIn]
    load_time: _LoadTimeIn
    valid: _RangeIn | None = None

    def _coefficients(self) -> dict[str, Value]:
        told = {name: value.checked() for name, value in self.coefficients.items()}
        return told | {name: value for name, value in NOT_IN_OLDER_FILES.items() if name not in told}

    def profile(self) -> Profile:
        return Profile(
            self.name, self.hardware, self.model, self.tensor_parallel, self.precision, self.summary,
            self._coefficients(),
            {name: value.checked() for name, value in self.limits.items()},
            LoadTime(self.load_time.median_s, self.load_time.sigma, self.load_time.method, self.load_time.source),
            self.valid.range() if self.valid is not None else None,
        )  # fmt: skip
