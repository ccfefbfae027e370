"""What ``tidegate calibrate`` does, apart from its declaration: reading, fitting under a progress line, telling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from broker.model.errors import ConfigError
from cli.output import errors, print_json, table, tell
from simulator.calibration.fit import FittedProfile, fit_profile
from simulator.calibration.measurements import Measurements, assumed_cache, base_engine, profile_of, read_measurements
from simulator.engine.profile import EngineProfile
from simulator.profiles.document import dump_profile, load_profile
from simulator.profiles.profile import COEFFICIENTS, Profile


@dataclass(frozen=True, slots=True)
class Wishes:
    """The command's options."""

    files: tuple[Path, ...]
    name: str
    out: Path | None
    like: str | None
    hold: tuple[str, ...]
    rows: tuple[str, ...]
    until_s: float | None
    cached_share: float
    limits: Mapping[str, int]


def run_calibration(wishes: Wishes, *, as_json: bool) -> None:
    """Raises ``ConfigError`` for files or options that cannot be used."""
    if unknown := sorted(set(wishes.hold) - set(COEFFICIENTS)):
        raise ConfigError(f"no coefficient {', '.join(unknown)}; there are {', '.join(COEFFICIENTS)}", field="--hold")
    like = load_profile(wishes.like) if wishes.like is not None else None
    found = read_measurements(wishes.files, rows=wishes.rows, cached_share=wishes.cached_share, until_s=wishes.until_s)
    try:
        base = base_engine(found, like.engine if like is not None else None, wishes.limits)
        fitted = _fit(wishes, found, base)
        profile = profile_of(wishes.name, found, fitted, like=like, limits=wishes.limits)
    except ValueError as error:
        assumed = assumed_cache(found, like, wishes.limits)
        raise ConfigError(f"{error} ({assumed})" if assumed else str(error)) from None
    if wishes.out is not None:
        wishes.out.write_text(dump_profile(profile), encoding="utf-8")
    if as_json:
        print_json(_document(found, fitted, profile))
    else:
        _show(found, fitted, profile)
        tell(f"written to {wishes.out}" if wishes.out is not None else "not written: name a file with --out")


def _fit(wishes: Wishes, found: Measurements, base: EngineProfile) -> FittedProfile:
    requests = sum(len(load.requests) for load in found.loads)
    with errors.status(f"fitting {requests} requests of {len(found.loads)} loads") as status:

        def tell_progress(evaluations: int, rms: float) -> None:
            status.update(f"fitting: {evaluations} simulations, residual {rms:.1%}")

        free = [name for name in COEFFICIENTS if name not in wishes.hold]
        return fit_profile(found.loads, base, free=free, floors=found.floors, tell=tell_progress)


def _show(found: Measurements, fitted: FittedProfile, profile: Profile) -> None:
    rows = []
    for name, value in profile.coefficients.items():
        error = "" if value.relative_error is None else f"± {value.relative_error:.1%}"
        rows.append((name, f"{value.value:.4g} s", error, value.method.value))
    table(f"profile {profile.name}", ("coefficient", "value", "standard error", "how"), rows)
    table(
        "residuals",
        ("load", "figure", "measured", "simulated", "error"),
        [
            (each.load, each.figure, f"{each.measured:.4g}", f"{each.simulated:.4g}", f"{each.relative_error:+.1%}")
            for each in fitted.residuals
        ],
    )
    single = " over single requests, each with its own chance" if any(load.measured for load in found.loads) else ""
    tell(
        f"{fitted.numbers} numbers, {len(fitted.relative_errors)} free parameters, residual {fitted.rms:.1%} (root mean "
        f"square{single}), condition {fitted.condition:.3g}, {fitted.evaluations} simulations. A residual is no prediction: "
        "judge the profile on a load that was not fitted."
    )
    for remark in (*fitted.remarks, *found.remarks):
        tell(f"- {remark}")


def _document(found: Measurements, fitted: FittedProfile, profile: Profile) -> dict[str, object]:
    return {
        "profile": asdict(profile),
        "residuals": [asdict(each) | {"relative_error": each.relative_error} for each in fitted.residuals],
        "held": [asdict(each) for each in fitted.held],
        "remarks": [*fitted.remarks, *found.remarks],
        "numbers": fitted.numbers,
        "free_parameters": sorted(fitted.relative_errors),
        "rms": fitted.rms,
        "condition": fitted.condition,
    }
