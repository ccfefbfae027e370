"""What one release wrote, the next one reads, and what is written today, the last release reads but for new words.

What may change under one version of a schema is told in docs/kafka.md.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import Any

import pytest

from broker.model.json_schema import Schema, schema_of
from broker.model.wire import UPGRADES
from tests.support.command_line import ROOT
from tests.support.schema_changes import (
    Schemas,
    breaks,
    last_tag,
    schemas_of_baseline,
    schemas_of_tag,
    schemas_of_today,
    version_of,
)

HOW_TO_MEND = (
    "give the field a default, or raise the schema's version by an entry in broker.model.wire.UPGRADES, which makes "
    "today's data of the old version's (docs/kafka.md)"
)


def broken(released: Schemas, today: Schemas) -> list[str]:
    """What readers of either release cannot read of the other's, where it should."""
    found = []
    for name, old in released.items():
        if name not in today:
            found.append(f"{name}: it is gone, and messages of it cannot be read any more")
        elif version_of(today[name]) == version_of(old):
            found += [f"{one} (written by the last release)" for one in breaks(old, today[name])]
            found += [f"{one} (read by the last release)" for one in breaks(today[name], old) if not one.added]
        else:
            versions = range(version_of(old), version_of(today[name]))
            found += [f"{name}: no upgrade from version {v}" for v in versions if (name, v) not in UPGRADES]
    return found


def test_today_and_the_release_that_was_kept_read_each_other() -> None:
    assert broken(schemas_of_baseline(), schemas_of_today()) == [], HOW_TO_MEND


def test_today_and_the_last_tag_read_each_other() -> None:
    if (tag := last_tag()) is None:
        pytest.skip("no release is tagged here")
    assert broken(schemas_of_tag(tag), schemas_of_today()) == [], HOW_TO_MEND


def test_what_a_commit_published_is_taken_from_it() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    published = schemas_of_tag("HEAD")
    assert {"decision", "metric_sample"} <= published.keys()
    assert breaks(published["decision"], published["decision"]) == []


class Word(enum.StrEnum):
    ONE = "one"


class Newer:
    """Of the same name in its schema."""

    class Word(enum.StrEnum):
        ONE = "one"
        TWO = "two"


@dataclass(frozen=True)
class Left:
    x: int


@dataclass(frozen=True)
class Right:
    x: int


@dataclass(frozen=True)
class Third:
    x: int


def report(hint: Any, default: Any = None) -> Schema:
    """The schema of a message with this field, with a default unless that is left out."""
    given = () if default is None else (field(default=default),)
    return schema_of(make_dataclass("Report", [("name", str), ("value", hint, *given)]))


NOTHING = schema_of(make_dataclass("Report", [("name", str)]))

BROKEN: dict[str, tuple[Schema, Schema, str]] = {
    "a new field that is required": (NOTHING, report(int), "it is required, and need not be written"),
    "a field that is required by now": (report(int, 1), report(int), "it is required, and need not be written"),
    "another default": (report(int, 1), report(int, 2), "left out, it means 2 instead of 1"),
    "a number that must be whole": (report(float), report(int), "number where integer is read"),
    "text for a number": (report(float), report(str), "number where string is read"),
    "nothing, where there must be something": (report(int | None), report(int), "null where integer is read"),
    "a member that is gone": (report(Newer.Word), report(Word), "the member 'two' is not known"),
    "any text, where one of some is expected": (report(str), report(Word), "string where enum is read"),
    "bytes that were text": (report(str), report(bytes), "string where base64 is read"),
    "an alternative that is gone": (report(Left | Right | Third), report(Left | Right), "the alternative third is not"),
    "a record instead of a choice": (report(Left | Right), report(Left), "tagged where record is read"),
    "one of what were many": (report(tuple[int, ...]), report(int), "list where integer is read"),
    "a longer tuple": (report(tuple[int, int]), report(tuple[int, int, int]), "2 items where 3 are read"),
    "another item of a tuple": (report(tuple[int, str]), report(tuple[int, int]), "string where integer is read"),
    "another item of a list": (report(tuple[str, ...]), report(tuple[int, ...]), "string where integer is read"),
    "another value of a mapping": (
        report(Mapping[str, str]), report(Mapping[str, int]), "string where integer is read",
    ),
    "fewer keys of a mapping": (report(Mapping[Newer.Word, int]), report(Mapping[Word, int]), "the member 'two'"),
    "a record for a mapping": (report(Mapping[str, int]), report(Left), "map where record is read"),
}  # fmt: skip

READ: dict[str, tuple[Schema, Schema]] = {
    "nothing changed": (report(int), report(int)),
    "a new field with a default": (NOTHING, report(int, 1)),
    "a field that is gone": (report(int), NOTHING),
    "a field that may be left out by now": (report(int), report(int, 1)),
    "a whole number for any": (report(int), report(float)),
    "what may be nothing by now": (report(int), report(int | None)),
    "another member": (report(Word), report(Newer.Word)),
    "any text for one of some": (report(Word), report(str)),
    "another alternative": (report(Left | Right), report(Left | Right | Third)),
}


@pytest.mark.parametrize(("written", "read", "problem"), BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_read_any_more_is_told(written: Schema, read: Schema, problem: str) -> None:
    (found,) = breaks(written, read)
    assert problem in str(found)


@pytest.mark.parametrize(("written", "read"), READ.values(), ids=READ.keys())
def test_what_can_be_read_still_is_no_break(written: Schema, read: Schema) -> None:
    assert breaks(written, read) == []


def test_a_new_word_is_what_old_readers_need_not_know() -> None:
    for old, new in ((report(Word), report(Newer.Word)), (report(Left | Right), report(Left | Right | Third))):
        assert broken({"report": old}, {"report": new}) == []
        assert [one.added for one in breaks(new, old)] == [True]


def test_a_break_is_told_for_the_side_that_cannot_read() -> None:
    assert broken({"report": NOTHING}, {"report": report(int)}) == [
        "report.value: it is required, and need not be written (written by the last release)"
    ]
    assert broken({"report": report(int)}, {"report": NOTHING}) == [
        "report.value: it is required, and need not be written (read by the last release)"
    ]


def test_another_version_needs_an_upgrade_from_the_last_and_a_schema_never_goes() -> None:
    newer = report(str) | {"$id": "urn:tidegate:report:2"}
    assert broken({"report": report(int)}, {"report": newer}) == ["report: no upgrade from version 1"]
    assert broken({"report": report(int)}, {}) == ["report: it is gone, and messages of it cannot be read any more"]
