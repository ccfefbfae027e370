"""Tables of figures for terminals of any width: a number that is cut is worse than none."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_LEAST_WORDS = 12


def fitted(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "",
    words: Collection[str] = (),
) -> Iterator[Table]:  # fmt: skip
    """A table of ``rows``, whose first column names them; where ``console`` is too narrow for it one with rows and
    columns turned, else one for each row. Columns of ``words`` may be folded."""
    if _width(columns, rows, words) <= console.width:
        yield _captioned(_table(title, columns, rows, words), caption)
        return
    names, *figures = zip(columns, *rows, strict=True)
    if _width(names, figures, ()) <= console.width:
        yield _captioned(_table(title, names, figures, ()), caption)
        return
    for number, row in enumerate(rows):
        each = Table(title=title if number == 0 else None, title_justify="left")
        each.add_column(columns[0], no_wrap=True)
        each.add_column(escape(row[0]), justify="right", overflow="fold")
        for name, value in zip(columns[1:], row[1:], strict=True):
            each.add_row(name, escape(value))
        yield _captioned(each, caption if number == len(rows) - 1 else "")


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, name in enumerate(columns):
        folds = name in words
        table.add_column(
            escape(name), justify="right" if number else "left", no_wrap=not folds, overflow="fold",
            min_width=_LEAST_WORDS if folds else None,
        )  # fmt: skip
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _width(columns: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str]) -> int:
    """The least that shows every figure whole; rich would take a figure and its unit for two words."""
    cells = zip(columns, *rows, strict=True)
    return 1 + sum(
        3 + (_LEAST_WORDS if name in words else max(map(cell_len, (name, *column)))) for name, *column in cells
    )


def _captioned(table: Table, caption: str) -> Table:
    table.caption, table.caption_justify = caption or None, "left"
    return table
