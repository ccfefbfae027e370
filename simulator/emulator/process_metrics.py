"""What the metrics page says beside the engine: the Python process, and the HTTP requests by handler."""

from __future__ import annotations

import gc
import platform
import resource
import sys

import psutil

from broker.prometheus_text import Labels, label_text
from simulator.emulator.metrics import HistogramSamples, Scalar

_FINE_BOUNDS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0,
    7.5, 10.0, 30.0, 60.0,
)  # fmt: skip
_COARSE_BOUNDS = (0.1, 0.5, 1.0)


class ProcessMetrics:
    """The ``python_*`` and ``process_*`` families of this process."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        generations: list[Labels] = [{"generation": str(number)} for number in range(3)]
        self._collections = [
            Scalar(f"python_gc_{name}_total", "counter", generations)
            for name in ("objects_collected", "objects_uncollectable", "collections")
        ]
        major, minor, patch = platform.python_version_tuple()
        version = {"major": major, "minor": minor, "patchlevel": patch, "version": platform.python_version()}
        info = Scalar("python_info", "gauge", [{**version, "implementation": platform.python_implementation()}])
        info.values[0] = 1.0
        self._process_families = {
            name: Scalar(f"process_{name}", kind, [{}])
            for name, kind in (
                ("virtual_memory_bytes", "gauge"),
                ("resident_memory_bytes", "gauge"),
                ("start_time_seconds", "gauge"),
                ("cpu_seconds_total", "counter"),
                ("open_fds", "gauge"),
                ("max_fds", "gauge"),
            )
        }
        self._families = [*self._collections, info, *self._process_families.values()]

    def text(self) -> str:
        for family, key in zip(self._collections, ("collected", "uncollectable", "collections"), strict=True):
            family.values = [float(generation[key]) for generation in gc.get_stats()]
        memory, cpu = self._process.memory_info(), self._process.cpu_times()
        values = {
            "virtual_memory_bytes": memory.vms,
            "resident_memory_bytes": memory.rss,
            "start_time_seconds": self._process.create_time(),
            "cpu_seconds_total": cpu.user + cpu.system,
            "open_fds": self._process.num_fds() if sys.platform != "win32" else 0,
            "max_fds": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        }
        for name, value in values.items():
            self._process_families[name].values[0] = float(value)
        return "".join(family.text() for family in self._families)


class HttpMetrics:
    """The ``http_*`` families that vLLM's FastAPI instrumentation gives, by handler."""

    def __init__(self, created_at: float) -> None:
        self._created_at = created_at
        self._requests: dict[tuple[str, str, str], int] = {}
        self._request_bytes: dict[str, tuple[int, int]] = {}
        self._response_bytes: dict[str, tuple[int, int]] = {}
        self._all_durations = HistogramSamples("http_request_duration_highr_seconds", _FINE_BOUNDS, {})
        self._durations: dict[tuple[str, str], HistogramSamples] = {}

    def observe(
        self, handler: str, method: str, status: int, duration_s: float, request_bytes: int, response_bytes: int
    ) -> None:
        key = (handler, method, f"{status // 100}xx")
        self._requests[key] = self._requests.get(key, 0) + 1
        for sizes, size in ((self._request_bytes, request_bytes), (self._response_bytes, response_bytes)):
            count, total = sizes.get(handler, (0, 0))
            sizes[handler] = (count + 1, total + size)
        self._all_durations.observe(duration_s)
        durations = self._durations.get((handler, method))
        if durations is None:
            labels = {"handler": handler, "method": method}
            durations = HistogramSamples("http_request_duration_seconds", _COARSE_BOUNDS, labels)
            self._durations[(handler, method)] = durations
        durations.observe(duration_s)

    def text(self) -> str:
        requests = {
            label_text({"handler": handler, "method": method, "status": status}): count
            for (handler, method, status), count in self._requests.items()
        }
        durations = "".join(samples.text() for samples in self._durations.values())
        duration_labels = [label_text({"handler": handler, "method": method}) for handler, method in self._durations]
        return "".join(
            (
                "# TYPE http_requests_total counter\n",
                *(f"http_requests_total{labels} {count}.0\n" for labels, count in requests.items()),
                self._created("http_requests", list(requests)),
                self._summary("http_request_size_bytes", self._request_bytes),
                self._summary("http_response_size_bytes", self._response_bytes),
                "# TYPE http_request_duration_highr_seconds histogram\n",
                self._all_durations.text(),
                self._created("http_request_duration_highr_seconds", [""]),
                "# TYPE http_request_duration_seconds histogram\n",
                durations,
                self._created("http_request_duration_seconds", duration_labels),
            )
        )

    def _summary(self, name: str, sizes: dict[str, tuple[int, int]]) -> str:
        series = {label_text({"handler": handler}): size for handler, size in sizes.items()}
        lines = (
            f"{name}_count{labels} {count}.0\n{name}_sum{labels} {total}.0\n"
            for labels, (count, total) in series.items()
        )
        return f"# TYPE {name} summary\n" + "".join(lines) + self._created(name, list(series))

    def _created(self, name: str, labels: list[str]) -> str:
        lines = (f"{name}_created{text} {self._created_at!r}\n" for text in labels)
        return f"# TYPE {name}_created gauge\n" + "".join(lines)
