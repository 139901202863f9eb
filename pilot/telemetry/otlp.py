"""The OpenTelemetry SDK, as far as the pilot uses it: imported by the exporter's thread only, when it is asked for.

Neither of the SDK's own threads nor its work at exit is used: what is sent, when, and how long it may take is decided
in one place (exporter.py).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Callable, NamedTuple

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Status, StatusCode, set_span_in_context

from pilot.telemetry.spans import Span
from pilot.util.redact import redact
from pilot.version import PILOT_VERSION

_LONGEST = 1024
"""Characters of an attribute or a text."""
_SCOPE = "panda-pilot"


class Measure(NamedTuple):
    """A metric: name, unit, meaning, whether it only grows, and what reads its values (attributes, value)."""

    name: str
    unit: str
    doc: str
    grows: bool
    read: Callable[[], Iterable[tuple[Mapping[str, str], float]]]


class _TraceIds(RandomIdGenerator):  # type: ignore[misc]
    """The trace of a job has an id that anybody can work out from the job's id and attempt."""

    trace_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id or super().generate_trace_id()


class _Collected(SpanProcessor):  # type: ignore[misc]
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class _FirstWords(logging.Handler):
    """Keeps what the library has said first about an export: its cause, where later lines tell of time-outs only."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING and not self.text:
            self.text = str(_short(" ".join(record.getMessage().split())))[:300]


def trace_id_of(job_id: str, attempt: int) -> int:
    """Return the trace id of a job: the first 16 bytes of SHA-256 of ``<PandaID>.<attemptNr>``."""
    return int.from_bytes(hashlib.sha256(f"{job_id}.{attempt}".encode()).digest()[:16], "big")


class Otlp:
    """Sends to one collector by OTLP over HTTP with protobuf bodies, gzip-compressed.

    Args:
        endpoint: base URL; ``/v1/traces`` and ``/v1/metrics`` are added.
        ca: file or directory of CAs, empty for those of ``requests``.
        resource: attributes of this pilot.
        measures: the metrics.
        timeout: s for one request with its repetitions.
    """

    def __init__(
        self, endpoint: str, ca: str, resource: Mapping[str, str], measures: Iterable[Measure], timeout: float
    ) -> None:
        self.words = _FirstWords()
        library = logging.getLogger("opentelemetry")
        library.propagate = False  # it repeats itself with each attempt; exporter.py tells what matters, once
        library.addHandler(self.words)
        base = endpoint.rstrip("/")
        how: dict[str, Any] = {"certificate_file": ca or None, "timeout": timeout, "compression": Compression.Gzip}
        self._spans = OTLPSpanExporter(f"{base}/v1/traces", **how)
        self._metrics = OTLPMetricExporter(f"{base}/v1/metrics", **how)
        described = Resource.create(dict(resource))
        self._ids, self._collected = _TraceIds(), _Collected()
        tracers = TracerProvider(ALWAYS_ON, described, shutdown_on_exit=False, id_generator=self._ids)
        tracers.add_span_processor(self._collected)
        self._tracer = tracers.get_tracer(_SCOPE, PILOT_VERSION)
        self._reader = InMemoryMetricReader()
        meter = MeterProvider([self._reader], described, shutdown_on_exit=False).get_meter(_SCOPE, PILOT_VERSION)
        for measure in measures:
            make = meter.create_observable_counter if measure.grows else meter.create_observable_gauge
            make(measure.name, [_callback(measure)], measure.unit, measure.doc)

    def send_span(self, span: Span, trace_id: int) -> bool:
        """Send a span with all below it as one trace; False when the collector has not taken it."""
        self._ids.trace_id = trace_id
        self._make(span, None)
        spans, self._collected.spans = self._collected.spans, []
        self.words.text = ""
        return self._spans.export(spans) is SpanExportResult.SUCCESS

    def send_metrics(self) -> bool:
        """Send what the metrics are now; False when the collector has not taken it."""
        data = self._reader.get_metrics_data()
        self.words.text = ""
        return data is None or self._metrics.export(data) is MetricExportResult.SUCCESS

    def stop(self) -> None:
        """Break off what is being repeated; called by another thread."""
        self._spans.shutdown()
        self._metrics.shutdown()

    def _make(self, span: Span, parent: Any) -> None:
        made = self._tracer.start_span(
            span.name, set_span_in_context(parent) if parent is not None else None,
            attributes={key: _short(value) for key, value in span.attributes.items()}, start_time=_ns(span.start))
        for event in span.events:
            made.add_event(event.name, {"text": _short(event.text)}, _ns(event.at))
        for child in span.children:
            self._make(child, made)
        made.set_status(Status(StatusCode.ERROR, str(_short(span.error))) if span.error else Status(StatusCode.OK))
        made.end(_ns(span.end))


def _callback(measure: Measure) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _options: [Observation(value, attributes) for attributes, value in measure.read()]


def _short(value: Any) -> Any:
    return redact(value)[:_LONGEST].encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
