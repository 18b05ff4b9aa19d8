"""Whether requests are traced: OpenTelemetry's standard environment variables decide it, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from shadowcat.errors import StartError
from shadowcat.proxy.exchanges.kinds import Kinds

if TYPE_CHECKING:
    from shadowcat.proxy.plane import DataPlane

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL: Final = "http/protobuf"


def endpoint_variable(environ: Mapping[str, str]) -> str | None:
    """The variable that says where spans go; None if there are to be none.

    An empty value is the same as none (OpenTelemetry specification, "Environment Variable Specification").
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip() or "otlp"
    if "otlp" not in [name.strip() for name in exporters.split(",")]:
        return None
    return next((name for name in _ENDPOINTS if environ.get(name, "").strip()), None)


def trace(plane: DataPlane, environ: Mapping[str, str], worker: int) -> None:
    """Have the requests of a data plane traced, if the environment asks for it.

    Args:
        plane: What is traced; unchanged if tracing is off.
        environ: The process's own environment, which the OpenTelemetry SDK reads, too.
        worker: The slot of this worker.

    Raises:
        StartError: Tracing is asked for and cannot be.
    """
    variable = endpoint_variable(environ)
    if variable is None:
        return
    for name in _PROTOCOLS:
        protocol = environ.get(name, "").strip()
        if protocol == _PROTOCOL:
            break
        if protocol:
            raise StartError(f"{name}: {protocol!r} is not supported: set it to {_PROTOCOL}, or unset it")
    try:
        from shadowcat.proxy.observers.spans import Spans
    except ImportError as error:
        raise StartError(
            f"{variable} is set, but OpenTelemetry is not installed ({error}):"
            " pip install 'shadowcat[otel]', or unset it"
        ) from error
    try:
        spans = Spans.from_environment(worker)
    except ValueError as error:
        raise StartError(f"OpenTelemetry's environment variables (OTEL_…) cannot be used: {error}") from error
    plane.observers = (*plane.observers, spans)
    plane.kinds = Kinds(spans.traced)
