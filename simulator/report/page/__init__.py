"""``index.html``: the report as one page that needs nothing else. Style, script and the document itself are in it."""

from __future__ import annotations

import html
from importlib import resources

from simulator.report.document import RunReport, dumps

_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
"""Inside JSON text these mean the same, and nothing that a model's name or a reason says can end the element."""


def page_of(report: RunReport) -> str:
    """The page's text, in UTF-8 when written."""
    parts = {
        "title": html.escape(_title(report)),
        "style": _file("page.css"),
        "script": "\n".join(_file(name) for name in ("values.js", "plots.js", "tables.js", "page.js")),
        "report": dumps(report).strip().translate(_ESCAPES),
    }
    text, rest = "", _file("page.html")
    while (begin := rest.find("{{")) >= 0:
        end = rest.index("}}", begin)
        text += rest[:begin] + parts[rest[begin + 2 : end]]
        rest = rest[end + 2 :]
    return text + rest


def _title(report: RunReport) -> str:
    run = report.run
    load = run.trace.file if run.trace is not None else run.scenario
    return f"Tidegate: {load.name if load is not None else run.cluster}"


def _file(name: str) -> str:
    return (resources.files(__name__) / name).read_text(encoding="utf-8")
