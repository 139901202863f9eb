"""Asks NVIDIA's management library (NVML) about the GPUs; run as a script, it prints one JSON object.

A process of its own: the library takes memory, may crash with a driver that does not fit it, and hangs in the kernel
with a card that has fallen off the bus. Only the standard library, so that any Python can run it; the package pynvml
does the same calls and is not needed.
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from typing import Any, Dict, List

_PLACES = ("libnvidia-ml.so.1", "/usr/lib64/libnvidia-ml.so.1", "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
           "/usr/local/nvidia/lib64/libnvidia-ml.so.1", "/.singularity.d/libs/libnvidia-ml.so.1")
_TEXT = 96
# nvmlDeviceArchitecture_t of nvml.h
_ARCHITECTURES = {2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada Lovelace",
                  9: "Hopper", 10: "Blackwell"}


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def look() -> Dict[str, Any]:
    """Return ``driver``, ``cuda`` and ``gpus`` (name, vram in MB, architecture); raises OSError without NVML."""
    library = _load()
    _call(library, "nvmlInit_v2")
    try:
        number = ctypes.c_uint()
        _call(library, "nvmlDeviceGetCount_v2", ctypes.byref(number))
        gpus = [_gpu(library, index) for index in range(number.value)]
        return {"driver": _text(library, "nvmlSystemGetDriverVersion"), "cuda": _cuda(library), "gpus": gpus}
    finally:
        library.nvmlShutdown()


def _load() -> Any:
    trouble: List[str] = []
    for name in _PLACES:
        try:
            return ctypes.CDLL(name)
        except OSError as exc:
            trouble.append(str(exc))
    raise OSError(trouble[0])


def _call(library: Any, name: str, *arguments: Any) -> None:
    try:
        code = getattr(library, name)(*arguments)
    except AttributeError:
        raise OSError(f"{name} is not in this NVML") from None
    if code:
        raise OSError(f"{name} ends with {code}")


def _text(library: Any, name: str, *arguments: Any) -> str:
    buffer = ctypes.create_string_buffer(_TEXT)
    try:
        _call(library, name, *arguments, buffer, ctypes.c_uint(_TEXT))
    except OSError:
        return ""
    return buffer.value.decode("utf-8", "replace").strip()


def _cuda(library: Any) -> str:
    """Return the CUDA version that the driver can do: 12040 is 12.4."""
    version = ctypes.c_int()
    try:
        _call(library, "nvmlSystemGetCudaDriverVersion_v2", ctypes.byref(version))
    except OSError:
        return ""
    return f"{version.value // 1000}.{version.value % 1000 // 10}" if version.value > 0 else ""


def _gpu(library: Any, index: int) -> Dict[str, Any]:
    device = ctypes.c_void_p()
    _call(library, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
    memory, kind = _Memory(), ctypes.c_uint()
    try:
        _call(library, "nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
    except OSError:  # GPUs that share the node's memory do not tell
        memory.total = 0
    try:
        _call(library, "nvmlDeviceGetArchitecture", device, ctypes.byref(kind))
    except OSError:  # a driver before 450
        kind.value = 0
    return {"name": _text(library, "nvmlDeviceGetName", device), "vram": memory.total // 2**20,
            "architecture": _ARCHITECTURES.get(kind.value, "")}


if __name__ == "__main__":
    signal.alarm(30)  # also when the pilot is gone
    try:
        json.dump(look(), sys.stdout)
    except (OSError, ValueError) as exc:
        sys.exit(str(exc))
