"""An OpenTelemetry collector for tests: OTLP over HTTP with protobuf bodies, as the specification has it."""

from __future__ import annotations

import gzip
import http.server
import ssl
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, TypeVar

T = TypeVar("T")


class Collector:
    """Keeps what arrives; ``answers`` are the status codes of the first requests, then 200."""

    def __init__(self, answers: Tuple[int, ...] = (), certificate: Optional[Path] = None) -> None:
        from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

        self.traces: List[Any] = []
        self.metrics: List[Any] = []
        self.headers: List[Dict[str, str]] = []
        self.refused = 0
        self.news = threading.Condition()
        left = list(answers)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                code = left.pop(0) if left else 200
                outer.headers.append({key.lower(): value for key, value in self.headers.items()})
                if code == 200:
                    kind, place = {"/v1/traces": (traces.ExportTraceServiceRequest, outer.traces),
                                   "/v1/metrics": (metrics.ExportMetricsServiceRequest, outer.metrics)}[self.path]
                    message = kind()
                    message.ParseFromString(gzip.decompress(body))
                    with outer.news:
                        place.append(message)
                        outer.news.notify_all()
                else:
                    outer.refused += 1
                self.send_response(code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_args: None  # type: ignore[method-assign] - a client that hangs up
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def wait(self, condition: Callable[[], T], timeout: float = 60) -> T:
        """Block until ``condition`` holds, which is asked after each request."""
        with self.news:
            assert self.news.wait_for(condition, timeout), self.values()
            return condition()

    def close(self) -> None:
        """No more."""
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> List[Any]:
        """All spans of all requests."""
        return [span for message in self.traces for resource in message.resource_spans
                for scope in resource.scope_spans for span in scope.spans]

    def resource(self) -> Dict[str, Any]:
        """Attributes of the sender of the first trace."""
        return attributes(self.traces[0].resource_spans[0].resource)

    def values(self) -> Dict[str, List[Tuple[Dict[str, Any], float]]]:
        """The last values of each metric."""
        found: Dict[str, List[Tuple[Dict[str, Any], float]]] = {}
        for message in self.metrics:
            for resource in message.resource_metrics:
                for metric in [metric for scope in resource.scope_metrics for metric in scope.metrics]:
                    points = getattr(metric, metric.WhichOneof("data")).data_points
                    found[metric.name] = [(attributes(point), point.as_double or point.as_int) for point in points]
        return found


def attributes(thing: Any) -> Dict[str, Any]:
    """The attributes of a span, an event, a resource or a point."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in thing.attributes}
