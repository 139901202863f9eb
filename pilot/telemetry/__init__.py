"""Export of traces and metrics to an OpenTelemetry collector; off unless ``telemetry.otlp_endpoint`` is set.

::

    PilotDB ──► spans.py: a job's rows as a tree of spans (pure) ──┐
       └──────► what runs now, as metrics ─────────────────────────┴► exporter.py: one thread ──► otlp.py: the SDK
"""
