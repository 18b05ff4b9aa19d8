"""OpenTelemetry spans, as a collector receives them, and the trace context that the upstream receives."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from shadowcat.testing.raw_client import RawClient
from tests.e2e.harness import SLACK, Shadowcat, eventually, post
from tests.e2e.sessions import initialize
from tests.e2e.traffic import modern

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}'
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"


class Peer:
    """An HTTP server that keeps the requests it gets, and answers each with `answer`."""

    def __init__(self, answer: bytes, content_type: str) -> None:
        self.requests: list[tuple[str, dict[str, list[str]], bytes]] = []
        self.status = 200
        self.session: str | None = None
        """The session id of its answers."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:  # noqa: N805
                body = handler.rfile.read(int(handler.headers["Content-Length"]))
                fields: dict[str, list[str]] = {}
                for name, value in handler.headers.items():
                    fields.setdefault(name.lower(), []).append(value)
                self.requests.append((handler.path, fields, body))
                handler.send_response(self.status)
                handler.send_header("Content-Type", content_type)
                if self.session is not None:
                    handler.send_header("Mcp-Session-Id", self.session)
                handler.send_header("Content-Length", str(len(answer)))
                handler.end_headers()
                handler.wfile.write(answer)

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def upstream():
    with Peer(b'{"jsonrpc":"2.0","id":1,"result":{}}', "application/json") as peer:
        yield peer


@pytest.fixture
def collector():
    with Peer(ExportTraceServiceResponse().SerializeToString(), "application/x-protobuf") as peer:
        yield peer


def run(upstream: Peer, environ: dict[str, str], **config: Any) -> Shadowcat:
    routes = [{"path": "/mcp", "upstreams": [{"name": "a", "url": f"{upstream.url}/mcp"}]}]
    return Shadowcat({"workers": 1, "routes": routes} | config, environ=environ)


def traced(collector: Peer, **environ: str) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"} | environ


def exports(collector: Peer) -> list[ExportTraceServiceRequest]:
    return [ExportTraceServiceRequest.FromString(body) for _, _, body in list(collector.requests)]


def spans(collector: Peer) -> list[Span]:
    return [
        span
        for export in exports(collector)
        for resource in export.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def plain(attributes: Any) -> dict[str, Any]:
    values = {}
    for attribute in attributes:
        values[attribute.key] = getattr(attribute.value, attribute.value.WhichOneof("value"))
    return values


def contexts(upstream: Peer) -> list[tuple[list[str], list[str]]]:
    """The traceparent and tracestate fields of each request that the upstream got."""
    return [
        (fields.get("traceparent", []), fields.get("tracestate", [])) for _, fields, _ in upstream.requests
    ]


def test_a_span_stands_between_client_and_upstream(upstream, collector):
    with run(upstream, traced(collector)) as cat:
        upstream.session = "upstream-secret"
        session = initialize(cat.address).header("mcp-session-id")
        assert session is not None
        secrets = {"Mcp-Session-Id": session, "Authorization": "Bearer secret", "User-Agent": "agent/1"}
        trace = {"traceparent": SAMPLED, "tracestate": "v=1"}
        assert post(cat.address, "/mcp/x?key=secret", CALL, **trace, **secrets)[0] == 200
        (span,) = (span for span in _wait(collector, 2) if span.name != "initialize")
        port = cat.address[1]
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, CALLER, "v=1")
    _, (traceparents, states) = contexts(upstream)
    assert states == ["v=1"]
    (traceparent,) = traceparents
    assert traceparent.startswith(f"00-{TRACE}-{span.span_id.hex()}-")
    assert int(traceparent[-2:], 16) & 1
    assert (span.name, span.kind) == ("tools/call echo", Span.SPAN_KIND_SERVER)
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert 0 < span.end_time_unix_nano - span.start_time_unix_nano < SLACK * 1e9
    attributes = plain(span.attributes)
    assert attributes.pop("http.response.size") > 100
    assert attributes == {
        "client.address": "127.0.0.1",
        "gen_ai.tool.name": "echo",
        "http.request.body.size": len(CALL),
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/mcp",
        "mcp.method.name": "tools/call",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": port,
        "shadowcat.era": "legacy",
        "shadowcat.upstream": "a",
        "url.path": "/mcp/x",
        "url.scheme": "http",
        "user_agent.original": "agent/1",
    }
    (export, *_) = exports(collector)
    resource = plain(export.resource_spans[0].resource.attributes)
    assert (resource["service.name"], resource["shadowcat.worker"]) == ("shadowcat", 0)
    told = b"".join(body for _, _, body in collector.requests)
    assert b"secret" not in told
    assert session.encode() not in told
    assert collector.requests[0][0] == "/v1/traces"


def test_each_request_of_a_remembered_head_has_its_own_span(upstream, collector):
    message = modern("tools/call", {"name": "echo", "arguments": {}})
    with run(upstream, traced(collector)) as cat:
        traces = [f"{number:032x}" for number in range(1, 7)]
        for trace in traces:
            traceparent = f"00-{trace}-{CALLER}-01"
            assert (
                post(cat.address, "/mcp", message.body, **message.headers, traceparent=traceparent)[0] == 200
            )
        found = {span.trace_id.hex(): span.span_id.hex() for span in _wait(collector, 6)}
    assert list(found) == traces
    seen = [traceparent for traceparents, _ in contexts(upstream) for traceparent in traceparents]
    assert [value[3:52] for value in seen] == [f"{trace}-{found[trace]}" for trace in traces]


def test_a_trace_begins_here_if_the_client_has_none(upstream, collector, tmp_path: Path):
    log = tmp_path / "access.log"
    environ = traced(collector, OTEL_SERVICE_NAME="edge")
    with run(upstream, environ, access_log={"path": str(log), "format": "json"}) as cat:
        for _ in range(3):
            assert post(cat.address, "/mcp", CALL, tracestate="of=another")[0] == 200
        assert post(cat.address, "/mcp", CALL, traceparent="00-nonsense", tracestate="of=another")[0] == 200
        found = _wait(collector, 4)
        eventually(lambda: log.read_text().count("\n") == 4)
    assert [span.parent_span_id for span in found] == [b""] * 4
    traces = [span.trace_id.hex() for span in found]
    assert len(set(traces)) == 4
    for (traceparents, states), span in zip(contexts(upstream), found, strict=True):
        assert [value[:52] for value in traceparents] == [f"00-{span.trace_id.hex()}-{span.span_id.hex()}"]
        assert states == []
    assert [json.loads(line)["trace"] for line in log.read_text().splitlines()] == traces
    resource = plain(exports(collector)[0].resource_spans[0].resource.attributes)
    assert resource["service.name"] == "edge"


def test_what_is_not_sampled_passes_unchanged(upstream, collector):
    with run(upstream, traced(collector)) as cat:
        assert post(cat.address, "/mcp", CALL, traceparent=UNSAMPLED, tracestate="v=1")[0] == 200
        assert post(cat.address, "/mcp", CALL, traceparent=SAMPLED)[0] == 200
        _wait(collector, 1)
    assert len(spans(collector)) == 1
    assert contexts(upstream)[0] == ([UNSAMPLED], ["v=1"])


def test_the_environment_has_the_sampler(upstream, collector):
    environ = traced(collector, OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="0")
    with run(upstream, environ) as cat:
        assert post(cat.address, "/mcp", CALL)[0] == 200
        assert post(cat.address, "/nowhere", CALL)[0] == 404
        assert cat.stop() == 0
    assert contexts(upstream) == [([], [])]
    assert spans(collector) == []


def test_failures(upstream, collector):
    upstream.status = 503
    with run(upstream, traced(collector)) as cat:
        assert post(cat.address, "/nowhere", CALL, traceparent=SAMPLED)[0] == 404
        assert post(cat.address, "/mcp", CALL, traceparent=SAMPLED)[0] == 503
        refused, failed = _wait(collector, 2)
    assert refused.trace_id.hex() == failed.trace_id.hex() == TRACE
    attributes = plain(refused.attributes)
    assert (attributes["http.response.status_code"], attributes["error.type"]) == (404, "no_route")
    assert refused.status.code == Status.STATUS_CODE_UNSET
    assert plain(failed.attributes)["error.type"] == "503"
    assert failed.status.code == Status.STATUS_CODE_ERROR


def test_a_refusal_that_does_not_wait_for_the_body_is_of_the_callers_trace(upstream, collector):
    head = f"POST /nowhere HTTP/1.1\r\nHost: localhost\r\ntraceparent: {SAMPLED}\r\nContent-Length: 9\r\n\r\n"
    with run(upstream, traced(collector)) as cat:
        with RawClient(cat.address[1]) as client:
            client.send(head.encode())
            assert client.read_response().status == 404
        (refused,) = _wait(collector, 1)
    assert refused.trace_id.hex() == TRACE


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_switched_off(upstream, collector, off):
    with run(upstream, traced(collector, **off)) as cat:
        assert post(cat.address, "/mcp", CALL, traceparent=SAMPLED)[0] == 200
        assert cat.stop() == 0
    assert contexts(upstream) == [([SAMPLED], [])]
    assert collector.requests == []


def test_the_last_spans_are_handed_on_at_the_end(upstream, collector):
    with run(upstream, traced(collector, OTEL_BSP_SCHEDULE_DELAY="60000")) as cat:
        assert post(cat.address, "/mcp", CALL)[0] == 200
        assert cat.stop() == 0
    assert len(spans(collector)) == 1


def test_a_dead_collector_holds_nothing_up(upstream):
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with run(upstream, environ, drain_timeout="1s") as cat:
        for _ in range(20):
            assert post(cat.address, "/mcp", CALL)[0] == 200
        assert cat.stop() == 0


@pytest.mark.parametrize(
    ("environ", "prelude", "message"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "", "OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' is not supported"),
        ({}, "sys.modules['opentelemetry.sdk'] = None", "pip install 'shadowcat[otel]'"),
    ],
)
def test_what_cannot_work_ends_the_start(upstream, collector, environ, prelude, message):
    routes = [{"path": "/mcp", "upstreams": [{"url": f"{upstream.url}/mcp"}]}]
    cat = Shadowcat({"routes": routes}, environ=traced(collector, **environ), prelude=prelude)
    try:
        cat.launch()
        assert cat.wait() == 1
        assert message in cat.stderr
    finally:
        cat.__exit__(None, None, None)


def _wait(collector: Peer, count: int) -> list[Span]:
    """Wait for so many spans; in the order in which they began."""
    eventually(lambda: len(spans(collector)) >= count)
    return sorted(spans(collector), key=lambda span: span.start_time_unix_nano)
