"""The worker node and GPU descriptions in the exact types that v1 wants (server-api.md 8.3, 8.4)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Callable

logger = logging.getLogger(__name__)

Convert = Callable[[object], object]


def _integer(value: object) -> int:
    return round(float(str(value)))


def _decimal(value: object) -> float:
    return float(str(value))


_NODE_TYPES: Mapping[str, Convert] = {
    **dict.fromkeys(
        ("site", "panda_queue", "host_name", "cpu_model", "cpu_architecture", "cpu_architecture_level"), str
    ),
    **dict.fromkeys(("n_logical_cpus", "n_sockets", "cores_per_socket", "threads_per_core"), _integer),
    "clock_speed": _decimal,  # MHz; an int is refused
    "total_memory": _integer,  # MB
    "total_local_disk": _integer,  # GB
}
_GPU_TYPES: Mapping[str, Convert] = {
    **dict.fromkeys(("site", "host_name", "vendor", "model", "architecture"), str),
    **dict.fromkeys(("framework", "framework_version", "driver_version"), str),
    "count": _integer,
    "vram": _integer,  # MB
}


def node_arguments(description: Mapping[str, object]) -> dict[str, object]:
    """Return what update_worker_node knows of ``description``, converted; what has no meaning is left out."""
    return _typed(description, _NODE_TYPES)


def gpu_arguments(description: Mapping[str, object]) -> dict[str, object]:
    """Return what update_worker_node_gpu knows of ``description``, converted; what has no meaning is left out."""
    return _typed(description, _GPU_TYPES)


def _typed(description: Mapping[str, object], types: Mapping[str, Convert]) -> dict[str, object]:
    result: dict[str, object] = {}
    for name, convert in types.items():
        value = description.get(name)
        if value is None:
            continue
        try:
            result[name] = convert(value)
        except (ValueError, OverflowError):
            logger.debug("worker node: %s=%r has no meaning, not sent", name, value)
    return result
