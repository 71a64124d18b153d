"""Traces: what a collector on this box is told, over HTTP and through the broker."""

import http.server
import json
import queue
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from broker_parts import free_port
from doors_kit import written
from gguf_files import tiny_llama
from support import PATIENCE, Kernel, no_leak


class Collector(http.server.ThreadingHTTPServer):
    """Takes OTLP over HTTP, as a collector does."""

    daemon_threads = True

    def __init__(self) -> None:
        self.spans: queue.Queue[Span] = queue.Queue()
        super().__init__(("127.0.0.1", 4318), Taking)


class Taking(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        fine = self.path == "/v1/traces"
        fine = fine and self.headers["content-type"] == "application/x-protobuf"
        told = ExportTraceServiceRequest.FromString(body) if fine else ExportTraceServiceRequest()
        self.send_response(200 if fine else 400)
        self.send_header("content-length", "0")
        self.end_headers()
        for resource in told.resource_spans:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            assert about["service.name"] == "clawai"
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.server.spans.put(span)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    until = time.monotonic() + PATIENCE
    while True:  # its port is the one of the manifest, so that there is one at a time
        try:
            found = Collector()
            break
        except OSError:
            if time.monotonic() > until:
                raise
            threading.Event().wait(0.1)
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield found
    finally:
        found.shutdown()
        thread.join()
        found.server_close()


def said(span: Span) -> dict[str, Any]:
    """The attributes of a span."""
    found = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        value = getattr(each.value, kind)
        if kind == "array_value":
            value = [inner.string_value for inner in value.values]
        found[each.key] = value
    return found


def test_a_request_is_a_span_with_where_its_time_went(collector: Collector, tmp_path: Path) -> None:
    port = free_port()
    kernel = Kernel(f'[plugins]\nports = ["gateway:8080={port}"]\n')
    kernel.model("tiny", written(tmp_path / "tiny.gguf", tiny_llama(context=512)))
    try:
        with no_leak():
            client = kernel.start().client()
            task = client.submit("gateway.serve", {"traces": True})
            assert any(event.note.startswith("http://") for event in task)
            body = {"model": "tiny", "prompt": "abc", "max_tokens": 3, "temperature": 0.5}
            parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/v1/completions?key=secret",
                json.dumps(body | {"stream": True}).encode(),
                {"traceparent": parent},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert b"[DONE]" in answer.read()
            spans: dict[str, Span] = {}
            while "text_completion tiny" not in spans:
                span = collector.spans.get(timeout=PATIENCE)
                spans[span.name] = span
            assert kernel.stop() == 0, kernel.stderr()
            kernel.check_gone()
    finally:
        kernel.remove()
    whole = spans["text_completion tiny"]
    assert whole.kind == Span.SPAN_KIND_SERVER
    assert whole.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert whole.parent_span_id.hex() == "b7ad6b7169203331"
    told = said(whole)
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "clawai",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 3,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ["length"],
        "claw.priority": "interactive",
    }
    assert {key: told[key] for key in expected} == expected
    assert told["gen_ai.usage.input_tokens"] > 0 and "secret" not in str(told)
    parts = [span for name, span in spans.items() if name.startswith("claw.")]
    assert {"claw.load", "claw.compute"} <= {span.name for span in parts}
    for span in parts:
        assert span.parent_span_id == whole.span_id and span.trace_id == whole.trace_id
        assert span.start_time_unix_nano < span.end_time_unix_nano <= whole.end_time_unix_nano
