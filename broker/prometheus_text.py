"""Metrics in Prometheus's text form (https://prometheus.io/docs/instrumenting/exposition_formats/), made at each scrape
from what is there anyway: a library's registry would keep every value a second time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]
"""What follows the family's name (``_bucket`` of a histogram, else nothing), labels, and the value."""


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its samples. ``kind``: by default a counter if the name ends in ``_total``, else a gauge."""

    name: str
    told: str
    samples: Iterable[Sample]
    kind: str = ""

    def lines(self) -> Iterator[str]:
        kind = self.kind or ("counter" if self.name.endswith("_total") else "gauge")
        yield f"# HELP {self.name} {self.told}\n# TYPE {self.name} {kind}\n"
        for suffix, labels, value in self.samples:
            yield f"{self.name}{suffix}{label_text(labels)} {value!r}\n"


def single(name: str, told: str, value: float) -> Family:
    """A metric with one sample, without labels."""
    return Family(name, told, [("", {}, value)])


def text_of(families: Iterable[Family]) -> str:
    return "".join(line for family in families for line in family.lines())


def label_text(labels: Labels) -> str:
    """``{a="x",b="y"}`` in alphabetical order, nothing for no labels."""
    if not labels:
        return ""
    escaped = (
        (name, labels[name].replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name in sorted(labels)
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
