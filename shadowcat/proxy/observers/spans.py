"""OpenTelemetry spans, one per request, for `tracing`; the only file that needs the OpenTelemetry SDK.

Names and attributes follow the semantic conventions for HTTP servers and for MCP, but without session ids.
The exporter runs in a thread of its own, which exists in the worker alone: it is made after the fork.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from shadowcat import __version__
from shadowcat.mcp.envelope import Envelope
from shadowcat.proxy.clients.template import RequestTemplate
from shadowcat.proxy.exchanges.exchange import Exchange
from shadowcat.proxy.observers.observe import Observation, bounded, tool_or_prompt
from shadowcat.proxy.observers.trace_context import parse_traceparent

_NAME: Final = "shadowcat"
_UNNAMED: Final = "unknown_service"
"""How the SDK begins the service's name if the environment gives none."""
_PATIENCE: Final = 2.0
"""Seconds that a worker's end waits for the last spans to be taken."""
_LONGEST_STATE: Final = 512
"""Characters of a tracestate that have to be kept (W3C Trace Context section 3.3.1.5)."""
_NAME_KEYS: Final = {"tools/call": "gen_ai.tool.name", "prompts/get": "gen_ai.prompt.name"}


class RequestSpan:
    """The span of one request that is sampled."""

    __slots__ = ("is_root", "span", "trace_id", "traceparent")

    def __init__(self, span: trace.Span, *, is_root: bool) -> None:
        """`is_root` tells that the request came without a trace."""
        context = span.get_span_context()
        self.span = span
        self.is_root = is_root
        self.trace_id = trace.format_trace_id(context.trace_id)
        span_id = trace.format_span_id(context.span_id)
        self.traceparent = f"00-{self.trace_id}-{span_id}-{context.trace_flags:02x}".encode()
        """What the upstream is told, so that its spans are children of this one."""


class Spans:
    """Begins and ends spans; an Observer."""

    __slots__ = ("_provider", "_tracer", "_wall_ns")

    def __init__(self, provider: TracerProvider, wall_ns: Callable[[], int]) -> None:
        """`wall_ns` tells the time of day: the loop's clock has only milliseconds."""
        self._provider = provider
        self._tracer = provider.get_tracer(_NAME, __version__)
        self._wall_ns = wall_ns

    @classmethod
    def from_environment(cls, worker: int) -> Spans:
        """Sampler, limits, batches, endpoint and resource as the OTEL_… variables say.

        Raises:
            ValueError: One of them cannot be used.
        """
        resource = Resource.create({"shadowcat.worker": worker})
        if str(resource.attributes[SERVICE_NAME]).startswith(_UNNAMED):
            resource = resource.merge(Resource({SERVICE_NAME: _NAME}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider, time.time_ns)

    def traced(self, kind: type[Exchange]) -> type[Exchange]:
        """A kind of exchanges with a span, if they are sampled; the upstream is told of it in traceparent."""

        def begin(
            exchange: Any, plane: Any, client: Any, template: RequestTemplate, route: Any,
            values: tuple[bytes, ...], body: bytes, envelope: Envelope | None,
        ) -> None:  # fmt: skip
            span = self.begin(template, values, envelope)
            if span is not None:
                template, values = template.retraced(values, span.traceparent, fresh=span.is_root)
            kind.begin(exchange, plane, client, template, route, values, body, envelope)
            exchange.span = span

        return type(f"Traced{kind.__name__}", (kind,), {"__slots__": ("span",), "begin": begin})

    def begin(
        self, template: RequestTemplate, values: tuple[bytes, ...], envelope: Envelope | None
    ) -> RequestSpan | None:
        """Begin the span of a request; None if it is not sampled."""
        parent = parse_traceparent(template.field(b"traceparent", values))
        context = Context()
        if parent is not None:
            state = template.field(b"tracestate", values) or b""
            known = (
                trace.TraceState.from_header([state.decode("latin-1")[:_LONGEST_STATE]]) if state else None
            )
            caller = trace.SpanContext(
                int(parent.trace_id, 16),
                int(parent.span_id, 16),
                is_remote=True,
                trace_flags=trace.TraceFlags(parent.flags),
                trace_state=known,
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(caller), context)
        method = template.method.decode("latin-1")
        name = f"{method} {template.route.path.decode()}" if template.route is not None else method
        attributes: dict[str, Any] = {
            "http.request.method": method,
            "url.path": template.path.decode("latin-1"),
            "url.scheme": "http",
        }
        if envelope is not None and envelope.method is not None:
            name = attributes["mcp.method.name"] = bounded(envelope.method)
            tool = tool_or_prompt(envelope)
            if tool is not None:
                name = f"{name} {tool}"
                attributes[_NAME_KEYS[envelope.method]] = tool
        span = self._tracer.start_span(
            name, context, trace.SpanKind.SERVER, attributes, start_time=self._wall_ns()
        )
        return RequestSpan(span, is_root=parent is None) if span.is_recording() else None

    def observe(self, observation: Observation) -> None:
        """End the span of a request. One that was refused before its exchange began gets a short one."""
        template = observation.template
        if template is None:
            return  # Nothing of it could be read, not even its trace.
        span = observation.span
        # With an upstream there was an exchange: that had its chance.
        if span is None and observation.upstream is None:
            span = self.begin(template, observation.values, observation.envelope)
        if not isinstance(span, RequestSpan):
            return
        span.span.set_attributes(_outcome(observation, template))
        # A client's mistake is none of the server's (semantic conventions for HTTP spans, "Status").
        if observation.failed and not 400 <= observation.status < 500:
            span.span.set_status(trace.Status(trace.StatusCode.ERROR))
        span.span.end(self._wall_ns())

    def tick(self) -> None:
        """Nothing is due: the exporter has its own clock."""

    def reopen(self) -> None:
        """There is no file."""

    def close(self) -> None:
        """Hand on the last spans, but do not wait for a collector that does not answer."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(_PATIENCE)


def _outcome(observation: Observation, template: RequestTemplate) -> dict[str, Any]:
    """The attributes that are known at the end."""
    attributes: dict[str, Any] = {
        "client.address": bounded(observation.client),
        "network.protocol.version": "1.1" if template.http11 else "1.0",
        "http.request.body.size": observation.received,
        "http.response.size": observation.sent,
        "shadowcat.era": template.era.value,
    }
    host, port = _authority(template.host)
    if host:
        attributes["server.address"] = host
    if port is not None:
        attributes["server.port"] = port
    agent = template.field(b"user-agent", observation.values)
    if agent is not None:
        attributes["user_agent.original"] = bounded(agent.decode("latin-1"))
    if template.route is not None:
        attributes["http.route"] = template.route.path.decode()
    if observation.upstream is not None:
        attributes["shadowcat.upstream"] = observation.upstream
    if observation.status:
        attributes["http.response.status_code"] = observation.status
    if observation.refusal is not None:
        attributes["error.type"] = observation.refusal.name.lower()
    elif observation.status >= 500:
        attributes["error.type"] = str(observation.status)
    elif observation.failed and observation.status < 400:
        attributes["error.type"] = "incomplete" if observation.status else "client_left"
    return attributes


def _authority(host: bytes) -> tuple[str, int | None]:
    """The host and the port of a Host value, an IPv6 address without its brackets."""
    name, colon, port = host.decode("latin-1").rpartition(":")
    if not colon or not port.isdigit():
        return host.decode("latin-1").strip("[]"), None
    return name.strip("[]"), int(port)
