"""`/metrics`: one scrape tells of the kernel, its models and plugins, and of what came over HTTP.

The kernel is asked at each scrape, so that nothing is told that is not so now; what the gateway has
seen itself is counted as it happens. Names follow Prometheus' conventions: base units, ``_total``.
"""

from collections import Counter as Counts
from collections.abc import Iterator
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from clawai.plugins.gateway.answers import Answer
from clawai.plugins.gateway.boxes import Boxes
from clawai.sdk.front import Front

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which nobody reads
TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """What was seen since the gateway began."""

    def __init__(self, kernel: Front) -> None:
        self._kernel = kernel
        self._boxes = Boxes(kernel)
        self._registry = CollectorRegistry()
        self._found: dict[Any, Any] = {}
        self._requests = Counter(
            "claw_http_requests",
            "Requests over HTTP, by the path's pattern and the status of the answer.",
            ("path", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "claw_http_request_seconds",
            "From a request to the end of its answer.",
            ("path",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._first = Histogram(
            "claw_first_piece_seconds",
            "From a question over HTTP to the first piece of its answer.",
            ("model",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "claw_tokens",
            "Tokens of questions over HTTP that were answered to the end: prompt (cached: not "
            "computed again), completion.",
            ("model", "kind"),
            registry=self._registry,
        )

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request is over."""
        self._of(self._requests, path, str(status)).inc()
        self._of(self._seconds, path).observe(seconds)

    def began(self, model: str, seconds: float) -> None:
        """The first piece of an answer is there."""
        self._of(self._first, model).observe(seconds)

    def ended(self, model: str, answer: Answer) -> None:
        """An answer is complete."""
        for kind in ("prompt", "cached", "completion"):
            self._of(self._tokens, model, kind).inc(answer.usage[f"{kind}_tokens"])

    def _of(self, metric: Any, *labels: str) -> Any:
        """The one with these labels: to look for it in the library takes ten times as long."""
        key = metric, labels
        if (found := self._found.get(key)) is None:
            found = self._found[key] = metric.labels(*labels)
        return found

    async def text(self) -> bytes:
        """All of it, as Prometheus reads it.

        Raises:
            ClawError: the kernel does not answer.
        """
        names = ("status", "workers", "tasks", "plugins")
        told = {name: await self._kernel.query(name) for name in names}
        now = CollectorRegistry()
        now.register(_Told(told, await self._boxes.known()))
        seen: bytes = generate_latest(self._registry)
        return bytes(generate_latest(now)) + seen


class _Told:
    """What the kernel says of itself, as metrics."""

    def __init__(self, told: dict[str, Any], boxes: list[dict[str, Any]]) -> None:
        self._status = told["status"]
        self._workers = told["workers"]["workers"]
        self._tasks = told["tasks"]["tasks"]
        self._plugins = told["plugins"]["plugins"]
        self._boxes = boxes

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        status = self._status
        for name, text, value in (
            ("claw_uptime_seconds", "Since the kernel began.", status["uptime_s"]),
            ("claw_memory_budget_bytes", "What all may hold.", status["budget_bytes"]),
            ("claw_memory_used_bytes", "What the ledger has charged.", status["used_bytes"]),
            ("claw_clients", "Connections to the kernel.", status["clients"]),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        level = GaugeMetricFamily(
            "claw_sandbox_info", "The level at which workers run.", labels=["level"]
        )
        level.add_metric([(status["sandbox"] or {}).get("level", "")], 1)
        yield level
        ended = CounterMetricFamily("claw_tasks_ended", "Tasks that ended so.", labels=["how"])
        for how, count in status["ended"].items():
            ended.add_metric([how], count)
        yield ended
        yield from self._running()
        yield from self._of_plugins()
        yield from self._of_boxes()

    def _running(self) -> Iterator[Metric]:
        tasks = GaugeMetricFamily(
            "claw_tasks", "Tasks that have not ended.", labels=["class", "state"]
        )
        counted = Counts((row["priority"], row["state"]) for row in self._tasks)
        for kind, count in sorted(counted.items()):
            tasks.add_metric(kind, count)
        yield tasks
        labels = ["plugin", "model", "state"]
        held: Counts[tuple[str, ...]] = Counts()
        for row in self._workers:
            held[tuple(row[label] for label in labels)] += row["bytes"]
        memory = GaugeMetricFamily("claw_worker_bytes", "What workers hold.", labels=labels)
        for where, size in sorted(held.items()):
            memory.add_metric(where, size)
        yield memory

    def _of_plugins(self) -> Iterator[Metric]:
        started = CounterMetricFamily(
            "claw_worker_starts", "Workers that were started.", labels=["plugin"]
        )
        aside = GaugeMetricFamily(
            "claw_plugin_quarantined", "1 for a plugin that kept dying.", labels=["plugin"]
        )
        for row in self._plugins:
            started.add_metric([row["name"]], row["started"])
            aside.add_metric([row["name"]], float(row["quarantined"]))
        yield started
        yield aside

    def _of_boxes(self) -> Iterator[Metric]:
        """Of boxes that ship here; their figures only while they are heard of."""
        up = GaugeMetricFamily("claw_box_up", "1 for a box that is heard of.", labels=["box"])
        silent = GaugeMetricFamily(
            "claw_box_silent_seconds", "Since a box was last heard of.", labels=["box"]
        )
        lost = CounterMetricFamily(
            "claw_box_lines_lost", "Lines of its log that were lost on the way.", labels=["box"]
        )
        for row in self._boxes:
            up.add_metric([row["name"]], float(row["heard"]))
            lost.add_metric([row["name"]], row["lost"])
            if row["silent_s"] is not None:
                silent.add_metric([row["name"]], row["silent_s"])
        yield from (up, silent, lost)
        heard = [row for row in self._boxes if row["heard"] and row["kernel"]]
        for name, text, field in _OF_BOX:
            family = GaugeMetricFamily(name, text, labels=["box"])
            for row in heard:
                if row[field] is not None:
                    family.add_metric([row["name"]], row[field])
            yield family


_OF_BOX = (
    ("claw_box_busy_ratio", "Part of the processors of a box that is busy.", "busy"),
    ("claw_box_memory_bytes", "What a box has.", "memory_bytes"),
    ("claw_box_available_bytes", "What of that its system could give.", "available_bytes"),
    ("claw_box_budget_bytes", "What all may hold there.", "budget_bytes"),
    ("claw_box_used_bytes", "What its ledger has charged.", "used_bytes"),
    ("claw_box_tasks_running", "Tasks that run there.", "running"),
    ("claw_box_tasks_waiting", "Tasks that wait there.", "waiting"),
    ("claw_box_workers", "Workers there.", "workers"),
    ("claw_box_celsius", "Of its hottest sensor.", "celsius"),
)
