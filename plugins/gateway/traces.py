"""Traces for OpenTelemetry: a span for each request, and in it where the kernel says its time went.

Names follow the conventions for generative AI (``gen_ai.*``) and HTTP. What a client says of its
own trace (``traceparent``) is taken over. Spans go to a collector on this box, through the broker
as all that a plugin sends; nothing of a question or an answer is in them.
"""

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from clawai.sdk.plugin import Context

COLLECTOR = "http://localhost:4318/v1/traces"
"""Where OpenTelemetry's collector takes OTLP over HTTP; the manifest names it."""
SOON_MS = 1000
"""Until a span that has ended is sent."""
WAIT = 5.0
"""Seconds for the collector to answer."""
PARTS = ("queue", "load", "compute", "plugin", "wire")
"""Of a task's time, in their order."""


class _Collector(SpanExporter):
    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._lost = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send some; what the collector does not take is lost, and the log says so once."""
        import httpx

        body = encode_spans(spans).SerializeToString()
        headers = {"content-type": "application/x-protobuf"}
        try:
            post = self._ctx.http.post
            post(COLLECTOR, content=body, headers=headers, timeout=WAIT).raise_for_status()
        except httpx.HTTPError as error:
            if not self._lost:
                self._ctx.log("warning", f"traces are lost, {COLLECTOR} takes none: {error}")
            self._lost = True
            return SpanExportResult.FAILURE
        self._lost = False
        return SpanExportResult.SUCCESS


class Trace:
    """The span of one request."""

    def __init__(self, tracer: Any, span: Span) -> None:
        self._tracer = tracer
        self._span = span

    def asks(self, op: str, model: str, priority: str, params: Any) -> None:
        """The kernel is asked for an operation."""
        if not self._span.is_recording():
            return  # of the request that began a session, long over
        given = params if isinstance(params, Mapping) else {}
        kind = "chat" if "messages" in given else "text_completion"
        kind = kind if op == "llm.generate" else "execute_tool"
        found = {
            "gen_ai.operation.name": kind,
            "gen_ai.provider.name": "clawai",
            "gen_ai.request.model": model,
            "gen_ai.tool.name": op if kind == "execute_tool" else "",
            "gen_ai.request.max_tokens": given.get("max_tokens"),
            "gen_ai.request.temperature": given.get("temperature"),
            "gen_ai.request.top_p": given.get("top_p"),
            "gen_ai.request.seed": given.get("seed"),
            "claw.operation": op,
            "claw.priority": priority,
        }
        kinds = (str, int, float)
        self._span.set_attributes(
            {k: v for k, v in found.items() if isinstance(v, kinds) and v != ""}
        )
        self._span.update_name(f"{kind} {model or op}")

    def answered(self, ended: Any, timings: Mapping[str, int], now_ns: int) -> None:
        """The kernel has answered: what, and how long each part of it took, in microseconds."""
        if not self._span.is_recording():
            return
        if isinstance(ended, Mapping) and isinstance(usage := ended.get("usage"), Mapping):
            self._span.set_attributes(
                {
                    "gen_ai.usage.input_tokens": usage["prompt_tokens"],
                    "gen_ai.usage.output_tokens": usage["completion_tokens"],
                    "gen_ai.usage.cache_read.input_tokens": usage["cached_tokens"],
                    "gen_ai.response.finish_reasons": [ended["finish_reason"]],
                }
            )
        parts = [(part, 1000 * timings.get(f"{part}_us", 0)) for part in PARTS]
        at = now_ns - sum(took for _, took in parts)
        around = set_span_in_context(self._span)
        for part, took in parts:
            if took:
                inner = self._tracer.start_span(f"claw.{part}", around, start_time=at)
                inner.end(at + took)
                at += took

    def end(self, status: int, key: str) -> None:
        """The request is over."""
        self._span.set_attribute("http.response.status_code", status)
        if key:
            self._span.set_attribute("enduser.id", key)
        if status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end()


class Traces:
    """Of one gateway."""

    def __init__(self, ctx: Context) -> None:
        about = {"service.name": "clawai", "service.version": metadata.version("clawai")}
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(_Collector(ctx), schedule_delay_millis=SOON_MS)
        )
        self._tracer = self._provider.get_tracer("clawai.gateway")
        self._before = TraceContextTextMapPropagator()

    def begin(self, method: str, route: str, headers: Mapping[str, str], scheme: str) -> Trace:
        """A request has come."""
        names = ("traceparent", "tracestate")
        before = self._before.extract({name: headers[name] for name in names if name in headers})
        host = urlsplit(f"//{headers.get('host', '')[:200]}")
        about = {
            "http.request.method": method,
            "http.route": route,
            "url.scheme": scheme,
            "server.address": host.netloc.rpartition(":")[0] or host.netloc,
        }
        span = self._tracer.start_span(f"{method} {route}", before, SpanKind.SERVER, about)
        return Trace(self._tracer, span)

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
