"""Reading a vLLM server's ``/metrics``: a scan for the dozen names that matter, over whatever version answers.

Our own scan instead of ``prometheus_client``'s parser: a page has some 630 lines, of which fewer than 90 matter, and
at ten thousand replicas a full parse (about 8 ms a page) would need 80 cores each second. The tests compare the scan
with that parser on real pages, value for value.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from broker.model.errors import WireError
from broker.model.signals import Histogram, MetricSample

T = TypeVar("T")
Lines = tuple[tuple[bytes, ...], list[float]]
"""Name and labels of some lines, and their values."""
Buckets = tuple[tuple[float, ...], tuple[tuple[int, ...], ...]]

MAX_PAGE_BYTES = 4 * 1024 * 1024
"""Eighty times a usual page. More is a broken or hostile server, and is refused unread."""


class MetricName(NamedTuple):
    """One name and the vLLM versions that show it."""

    name: str
    versions: str


METRIC_NAMES: dict[str, tuple[MetricName, ...]] = {
    "requests_running": (MetricName("vllm:num_requests_running", "all"),),
    "requests_waiting": (MetricName("vllm:num_requests_waiting", "all"),),
    "kv_cache_use": (
        MetricName("vllm:kv_cache_usage_perc", "0.9.2 on"),
        MetricName("vllm:gpu_cache_usage_perc", "to 0.11, beside the new name from 0.9.2"),
    ),
    "prompt_tokens_total": (MetricName("vllm:prompt_tokens_total", "all"),),
    "generation_tokens_total": (MetricName("vllm:generation_tokens_total", "all"),),
    "preemptions_total": (MetricName("vllm:num_preemptions_total", "all"),),
    "requests_finished_total": (MetricName("vllm:request_success_total", "all"),),
    "queue_time": (
        MetricName("vllm:request_queue_time_seconds", "0.6.4 on"),
        MetricName("vllm:time_in_queue_requests", "to 0.8, hidden in 0.9"),
    ),
    "time_to_first_token": (MetricName("vllm:time_to_first_token_seconds", "all"),),
    "inter_token_latency": (
        MetricName("vllm:inter_token_latency_seconds", "0.10.2 on"),
        MetricName("vllm:time_per_output_token_seconds", "to 0.16, hidden from 0.12"),
    ),
}
"""Names of each ``MetricSample`` field, newest first. Versions overlap, so the first name that a page has counts
alone: adding both would double the value."""


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """What one page said. ``bad_values`` counts values of needed metrics that were no use (NaN, infinite, negative,
    not a number, a histogram that does not rise); each made its whole metric absent."""

    sample: MetricSample
    bad_values: int


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The KV cache of one server: tokens per block, and blocks over all its engines."""

    block_size: int
    num_gpu_blocks: int


class _BadValue(Exception):
    """A needed metric has a value that is no use."""


def parse_metrics(
    text: bytes | str, model_id: str, replica_id: str, observed_at: float, received_at: float
) -> MetricSample:
    """The sample in one page. Raises ``WireError`` if it is no metrics page; see ``parse_page``."""
    return parse_page(text, model_id, replica_id, observed_at, received_at).sample


def parse_page(
    text: bytes | str, model_id: str, replica_id: str, observed_at: float, received_at: float
) -> MetricsPage:
    """The sample in one page, and how many values had to be passed over.

    Several engines of one server (data parallel) add up, except KV use, where the fullest counts: the front end
    gives an engine requests by their number, not by their length, so one full engine preempts and delays while
    others have room, and a mean would hide it. A metric with one bad value is absent as a whole: a sum that lacks
    an engine would look like a low load. Where a page tells several models apart and knows ``model_id``, only that
    one counts; where it does not know it (the engine's name differs from the one users see), all count.

    Raises ``WireError`` for what is not a metrics page, or is larger than ``MAX_PAGE_BYTES``.
    """
    page = _Page(_framed(text), model_id)
    sample = MetricSample(
        model_id=model_id,
        replica_id=replica_id,
        observed_at=observed_at,
        received_at=received_at,
        requests_running=page.number("requests_running", sum),
        requests_waiting=page.number("requests_waiting", sum),
        kv_cache_use=page.number("kv_cache_use", max),
        prompt_tokens_total=page.number("prompt_tokens_total", sum),
        generation_tokens_total=page.number("generation_tokens_total", sum),
        preemptions_total=page.number("preemptions_total", sum),
        requests_finished_total=page.number("requests_finished_total", sum),
        queue_time=page.histogram("queue_time"),
        time_to_first_token=page.histogram("time_to_first_token"),
        inter_token_latency=page.histogram("inter_token_latency"),
    )
    return MetricsPage(sample, page.bad_values)


def parse_cache_config(text: bytes | str) -> CacheConfig | None:
    """The KV cache's size from ``vllm:cache_config_info``, whose values are its labels; None if it is not there."""
    block_size, blocks = 0, 0
    heads, _ = _lines_of(_framed(text), b"\nvllm:cache_config_info{")
    for head in heads:
        labels = dict(_LABEL.findall(head))
        try:
            block_size = int(labels[b"block_size"])
            blocks += int(labels[b"num_gpu_blocks"])
        except (KeyError, ValueError):
            return None
    return CacheConfig(block_size, blocks) if block_size > 0 and blocks > 0 else None


def _framed(text: bytes | str) -> bytes:
    """The page with a newline before its first and after its last line."""
    if len(text) > MAX_PAGE_BYTES:
        raise WireError(f"a metrics page of {len(text)} bytes; more than {MAX_PAGE_BYTES} is refused")
    body = text.encode("utf-8", "replace") if isinstance(text, str) else text
    body = b"\n" + body + b"\n"
    if b"\nvllm:" not in body and b"\n# TYPE " not in body:
        start = body[1:61].decode("utf-8", "replace")
        raise WireError(f"not a Prometheus metrics page: it begins with {start!r}; is this the URL of a vLLM server?")
    return body


_LABEL = re.compile(rb'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_HEAD = re.compile(rb'([a-zA-Z_:][\w:]*)(\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})?')
_LINE = re.compile(_HEAD.pattern + rb"[ \t]+([^ \t\r]+)(?:[ \t]+[^ \t\r]+)?(?:[ \t]+#.*)?[ \t\r]*")


def _lines_of(body: bytes, *starts: bytes) -> Lines:
    """The lines from the first that begins with one of ``starts`` to the next comment.

    The format demands that the lines of a family stand together; searching the whole page again for strays would
    double the cost. Raises ``_BadValue``.
    """
    at = next((found for found in map(body.find, starts) if found >= 0), -1)
    if at < 0:
        return (), []
    end = body.find(b"\n#", at)
    span = body[at + 1 : end if end >= 0 else -1]
    words = span.split()  # name and labels, value, name and labels, value ...
    heads = tuple(words[::2])
    try:
        if not _clean(heads) or len(words) != 2 * len(heads):
            return _carefully(span, starts)
        return heads, list(map(float, words[1::2]))
    except ValueError:
        return _carefully(span, starts)


def _carefully(span: bytes, starts: tuple[bytes, ...]) -> Lines:
    """The same for lines with time stamps, exemplars, spaces in labels, or garbage, which matters only in ours."""
    names = tuple(start[1:] for start in starts)
    heads, values = [], []
    for line in span.split(b"\n"):
        match = _LINE.fullmatch(line)
        try:
            if match is None:
                raise ValueError
            values.append(float(match[3]))
            heads.append(match[1] + (match[2] or b""))
        except ValueError:
            if line.startswith(names):
                raise _BadValue from None
    return tuple(heads), values


@functools.lru_cache(maxsize=8192)
def _clean(heads: tuple[bytes, ...]) -> bool:
    """Whether each is a name with or without labels and nothing else. Cached, as they repeat from page to page."""
    return all(map(_HEAD.fullmatch, heads))


@functools.lru_cache(maxsize=8192)
def _ours(heads: tuple[bytes, ...], name: bytes, model: bytes | None) -> tuple[int, ...]:
    """Which of the lines are of metric ``name`` and of our model. Cached like ``_clean``."""
    ours = []
    for index, head in enumerate(heads):
        if head.partition(b"{")[0] == name:
            labelled = dict(_LABEL.findall(head)).get(b"model_name")
            if model is None or labelled is None or labelled == model:
                ours.append(index)
    return tuple(ours)


@functools.lru_cache(maxsize=8192)
def _buckets(heads: tuple[bytes, ...], name: bytes, model: bytes | None) -> Buckets:
    """The bounds that a histogram's lines have, and for each bound the lines to add up. Cached like ``_clean``."""
    lines: dict[float, list[int]] = {}
    for index in _ours(heads, name, model):
        try:
            bound = float(dict(_LABEL.findall(heads[index]))[b"le"])
        except (KeyError, ValueError):
            raise _BadValue from None
        lines.setdefault(bound, []).append(index)
    bounds = _shared(tuple(sorted(lines)))
    if bounds and (bounds[-1] != math.inf or len({len(members) for members in lines.values()}) > 1):
        raise _BadValue
    return bounds, tuple(tuple(lines[bound]) for bound in bounds)


@functools.lru_cache(maxsize=256)
def _shared(bounds: tuple[float, ...]) -> tuple[float, ...]:
    """One tuple for equal bounds, so that windows can compare them by identity."""
    return bounds


class _Page:
    """One page while it is read."""

    def __init__(self, body: bytes, model_id: str) -> None:
        escaped = model_id.replace("\\", "\\\\").replace('"', '\\"').encode()
        self._body = body
        self._model = escaped if b'model_name="' + escaped + b'"' in body else None
        self.bad_values = 0

    def number(self, field: str, combine: Callable[[list[float]], float]) -> float | None:
        return self._first_known(field, lambda name: self._number(name, combine))

    def histogram(self, field: str) -> Histogram | None:
        return self._first_known(field, self._histogram)

    def _first_known(self, field: str, read: Callable[[bytes], T | None]) -> T | None:
        for known in METRIC_NAMES[field]:
            try:
                found = read(known.name.encode())
            except _BadValue:
                self.bad_values += 1
                return None
            if found is not None:
                return found
        return None

    def _number(self, name: bytes, combine: Callable[[list[float]], float]) -> float | None:
        heads, values = _lines_of(self._body, b"\n" + name + b"{", b"\n" + name + b" ")
        ours = [values[index] for index in _ours(heads, name, self._model)]
        return combine(_checked(ours)) if ours else None

    def _histogram(self, name: bytes) -> Histogram | None:
        heads, values = _lines_of(self._body, b"\n" + name + b"_bucket{")
        bounds, members = _buckets(heads, name + b"_bucket", self._model)
        if not bounds:
            return None
        if len(members[0]) == 1:
            counts = [values[index] for (index,) in members]
        else:
            counts = [sum([values[index] for index in indices]) for indices in members]
        if _checked(counts) != sorted(counts):
            raise _BadValue
        total = sum(_checked([values[index] for index in _ours(heads, name + b"_sum", self._model)]))
        return Histogram(bounds, tuple(counts), total)


def _checked(values: list[float]) -> list[float]:
    """The values, if none is NaN, infinite or negative; NaN makes the sum NaN, which is not below infinity."""
    if values and not (min(values) >= 0.0 and sum(values) < math.inf):
        raise _BadValue
    return values
