"""What stands in the folders that are compared, and how the comparison is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from broker.model.errors import ConfigError, WireError
from broker.model.units import format_number
from cli.output import table, tell
from cli.sweep_tables import more_blocks, n_words, same_run_words
from simulator.report import document as reports
from simulator.report.document import RunReport
from simulator.sweep import document as sweeps
from simulator.sweep.cells import Cell
from simulator.sweep.comparing import Change, SideBySide, Subject, Value
from simulator.sweep.document import SweepDocument
from simulator.sweep.sound import require_sound_report, require_sound_sweep
from simulator.sweep.store import CELLS, SUMMARY
from simulator.sweep.subjects import of_cells, of_reports, of_sweep

REPORT = "report.json"

Document = TypeVar("Document", RunReport, SweepDocument)


def read_subjects(inputs: Sequence[Path]) -> list[Subject]:
    """The sides of a comparison, in the order given, cells of one sweep together. Raises ``ConfigError`` for what is neither report nor sweep, or
    for both at once."""
    folders = [_folder_of(path) for path in inputs]
    for path, folder in zip(inputs, folders, strict=True):
        if not (folder / REPORT).exists() and not (folder / SUMMARY).exists():
            raise ConfigError(
                f"holds neither {REPORT} (of `simulate --out`) nor {SUMMARY} (of a `sweep` that ended)", path=str(path)
            )
    if all((path / REPORT).exists() for path in folders):
        names = _names(folders)
        return of_reports([(name, _read_report(path / REPORT)) for name, path in zip(names, folders, strict=True)])
    subjects: list[Subject] = []
    taken: set[Path] = set()
    for name, path, folder in zip(_names(folders), inputs, folders, strict=True):
        if (folder / REPORT).exists():
            raise ConfigError("is a report, and others are sweeps; compare like with like", path=str(path))
        if path.is_dir():
            subjects += of_sweep(name, _read_sweep(folder / SUMMARY))
        elif folder not in taken:
            taken.add(folder)
            found = _read_sweep(folder / SUMMARY)
            files = [one for one, at in zip(inputs, folders, strict=True) if at == folder and one.is_file()]
            subjects += of_cells(name, found, [_cell(one, found, folder) for one in files])
    if not subjects:
        raise ConfigError("no run of this sweep succeeded; there is nothing to compare", path=str(inputs[0]))
    return subjects


def _cell(path: Path, found: SweepDocument, folder: Path) -> Cell:
    for result in found.cells:
        if result.cell.key == path.stem:
            return result.cell
    raise ConfigError(f"is no cell of {folder / SUMMARY}; run the sweep again", path=str(path))


def _folder_of(path: Path) -> Path:
    """A cell lies two folders below its sweep."""
    if not path.exists():
        raise ConfigError("there is no such file or folder", path=str(path))
    return path.parent.parent if path.is_file() and path.parent.name == CELLS else path


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' last names where those tell them apart."""
    short = [folder.resolve().name for folder in folders]
    return short if len(set(short)) == len(set(map(str, folders))) else [str(folder) for folder in folders]


def _read_report(path: Path) -> RunReport:
    return _read(path, reports.loads, require_sound_report)


def _read_sweep(path: Path) -> SweepDocument:
    return _read(path, sweeps.loads, require_sound_sweep)


def _read(path: Path, loads: Callable[[bytes], Document], require_sound: Callable[[Document], None]) -> Document:
    try:
        found = loads(path.read_bytes())
        require_sound(found)
        return found
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", path=str(path)) from None
    except (ValueError, WireError) as error:
        raise ConfigError(f"is not what this version of Tidegate writes: {error}", path=str(path)) from None


# -- words


def tell_comparison(found: SideBySide) -> None:
    """Two tables: all figures of all sides, and how much more the others have than the first; a third at equal
    attainment."""
    for number, name in enumerate(found.subjects):
        tell(f"{_letter(number)}  {name}")
    others = [_letter(number) for number in range(1, len(found.subjects))]
    rows: list[list[object]] = []
    for row in found.figures:
        rows.append([_title(row.figure, row.unit), *(_value_words(value, row.unit) for value in row.values)])
    rows.append(["worst hour", *("" if worst is None else f"{worst:.2%}" for worst in found.worst_hours)])
    table("Side by side", ("figure", "A", *others), rows, whole=("figure",))
    changes = [
        [_title(row.figure, row.unit), *(_change_words(change, row.unit) for change in row.changes)]
        for row in found.figures
    ]
    table("More than A", ("figure", *others), changes, whole=("figure",))
    if found.equal:
        _tell_equal(found, others)
    elif len(found.subjects) > 1:
        tell("Costs at equal attainment need sweeps with a knob on all sides.")
    if words := not_asked_words(found):
        tell(words)
    tell(_how(found))


def not_asked_words(found: SideBySide) -> str:
    """Empty where every model of every side was asked."""
    if not any(found.not_asked):
        return ""
    sides = [f"{_letter(number)} has {', '.join(names) or 'none'}" for number, names in enumerate(found.not_asked)]
    words = f"Models that nobody asked: {'; '.join(sides)}. Their GPU-hours are counted on no side."
    if len(set(found.not_asked)) > 1:
        words += " The sides differ in them: where pools are full, such a model takes room from those that are asked."
    return words


def _tell_equal(found: SideBySide, others: Sequence[str]) -> None:
    rows = []
    for row in found.equal:
        costs = []
        for value, at_most in zip(row.values, row.at_most, strict=True):
            words = "not reached" if value is None else _value_words(value, "")
            costs.append(f"at most {words}" if at_most and value is not None else words)
        rows.append([f"{row.attainment:.1%}", *costs, *(_change_words(change, "") for change in row.changes)])
    columns = ("in time", "A", *others, *(f"{letter} more than A" for letter in others))
    table("GPU-hours a day at equal attainment", columns, rows)


def _how(found: SideBySide) -> str:
    interval = found.figures[0].values[0].interval
    words = (
        f"{n_words(found.seeds, interval.blocks, found.days)}, paired; {found.level:.0%} intervals of "
        f"{found.resamples:,} resamples, seed {found.resampling_seed}."
    )
    if len(found.subjects) > 2:
        words += f" p is Holm's, over the {len(found.subjects) - 1} sides that are compared with A in each figure."
    run = len(found.seeds) + len(found.same_run)
    words += same_run_words(run, len(found.seeds))
    if interval.blocks == 1:
        more = more_blocks(run, len(found.seeds))
        words += f" With one block nothing is known of the spread, and no difference is certain: give {more}."
    return words


def _value_words(value: Value, unit: str) -> str:
    if value.value is None:
        return ""
    return f"{_figure(value.value, unit)} {_ends(value.interval.low, value.interval.high, unit)}".strip()


def _change_words(change: Change | None, unit: str) -> str:
    if change is None:
        return "unknown"
    ends = _ends(change.interval.low, change.interval.high, unit, signed=True)
    return f"{_figure(change.value, unit, signed=True)} {ends}".strip() + f", p = {change.p_holm:.2g}"


def _ends(low: float | None, high: float | None, unit: str, *, signed: bool = False) -> str:
    if low is None and high is None:
        return ""
    ends = ["unknown" if end is None else _figure(end, unit, signed=signed) for end in (low, high)]
    return f"[{', '.join(ends)}]"


def _figure(value: float, unit: str, *, signed: bool = False) -> str:
    """A share in percent; a difference with its sign."""
    sign = "+" if signed and value > 0 else ""
    return f"{sign}{value:.2%}" if unit == "share" else f"{sign}{format_number(value)}"


def _title(figure: str, unit: str) -> str:
    name = figure.replace("_", " ")
    return name if unit in ("", "share") or unit.lower() in name.lower() else f"{name} ({unit})"


def _letter(number: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)
