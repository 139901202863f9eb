"""What the worker node is: name, CPU, memory, disk, GPUs; from /proc and /sys when first asked for, no commands."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Union

_UNIT_LIMIT = 128
"""Bytes of cpuConsumptionUnit; the server does not cut, a longer one loses the update (server-api.md 6.4)."""

_NAME_LIMIT = 128
_SECTOR = 512

_V2 = frozenset(["cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"])
_V3 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"])
_V4 = frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])

# Architecture by model name, first match (control-and-monitoring.md 10).
_GPU_ARCHITECTURES = (
    ("GH200", "Grace Hopper"),
    ("H100", "Hopper"),
    ("L40", "Ada Lovelace"),
    ("RTX 6000", "Ada Lovelace"),
    ("A100", "Ampere"),
    ("T4", "Turing"),
    ("V100", "Volta"),
    ("P100", "Pascal"),
    ("K80", "Kepler"),
)

NodeValue = Union[str, int, float]


class CpuInfo(NamedTuple):
    """The CPUs of the node; ``mhz`` and the counts are 0 when unknown, ``model`` and ``cache`` empty."""

    model: str
    cache: str
    mhz: float
    flags: frozenset[str]
    logical: int
    sockets: int
    cores_per_socket: int
    threads_per_core: int

    @property
    def cores(self) -> int:
        """Physical cores of all sockets."""
        return self.cores_per_socket * self.sockets


def host_name(environ: Mapping[str, str]) -> str:
    """Return ``<slot>@<host>`` under HTCondor, else the host's name (server-api.md 5.3); at most 128 characters."""
    host = environ.get("PANDA_HOSTNAME") or os.uname().nodename
    slot = environ.get("_CONDOR_SLOT", "")
    return f"{slot}@{host}"[:_NAME_LIMIT] if slot else host[:_NAME_LIMIT]


def parse_cpuinfo(text: str) -> CpuInfo:
    """Return what /proc/cpuinfo says; model, cache, clock and flags are those of the first CPU."""
    first: dict[str, str] = {}
    packages: set[str] = set()
    logical = 0
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        key, value = key.strip(), value.strip()
        if not separator:
            continue
        if key == "processor":
            logical += 1
        elif key == "physical id":
            packages.add(value)
        first.setdefault(key, value)
    sockets = max(len(packages), 1)
    cores = _number(first.get("cpu cores", "")) or max(logical // sockets, 1)
    threads = max(_number(first.get("siblings", "")) // cores, 1)
    try:
        mhz = float(first.get("cpu MHz", "0"))
    except ValueError:
        mhz = 0.0
    flags = frozenset((first.get("flags") or first.get("Features") or "").split())
    return CpuInfo(
        first.get("model name", ""), first.get("cache size", ""), mhz, flags, logical, sockets, cores, threads
    )


def consumption_unit(cpu: CpuInfo, machine: str) -> str:
    """Return cpuConsumptionUnit, e.g. ``s+AMD EPYC 1024 KB 2-Core Processor 1-Socket+AVX2`` (recorded from Pilot 3).

    ``s+<model> <cache>`` with the node's number of cores in ``<N>-Core Processor`` (in place of the model's own number,
    of the word ``Processor``, or appended), `` HT`` with two threads per core, the sockets, and ``+AVX2`` when the CPU
    has it.
    """
    model = " ".join(f"{cpu.model} {cpu.cache}".split()) if cpu.model else ""
    if not model:
        model = "ARM" if machine.startswith(("aarch64", "arm")) else "UNKNOWN"
    else:
        name = f"{cpu.cores}-Core Processor"
        model, found = re.subn(r"\b\d+-Core Processor\b|\bProcessor\b", name, model, count=1)
        if not found:
            model += " " + name
        if cpu.threads_per_core == 2:
            model += " HT"
        model += f" {cpu.sockets}-Socket{'s' if cpu.sockets > 1 else ''}"
    tail = "+AVX2" if "avx2" in cpu.flags else ""
    room = _UNIT_LIMIT - len(tail) - 2
    return f"s+{model.encode('ascii', 'replace').decode('ascii')[:room]}{tail}"


def architecture_level(cpu: CpuInfo, machine: str) -> str:
    """Return the micro-architecture level, ``x86_64-v1`` to ``x86_64-v4``; empty for other machines."""
    if machine != "x86_64":
        return ""
    level = 1
    for needed in (_V2, _V3, _V4):
        if not needed <= cpu.flags:
            break
        level += 1
    return f"x86_64-v{level}"


class NodeDescription:
    """The worker node. Each part is read once, when it is first asked for."""

    def __init__(self, environ: Mapping[str, str], root: Path = Path("/")) -> None:
        """``root`` stands for the root directory, so that tests can show the files of other machines."""
        self._environ = environ
        self._root = root

    @cached_property
    def host_name(self) -> str:
        """Name as the server knows it: field ``node`` and ``host_name``."""
        return host_name(self._environ)

    @cached_property
    def machine(self) -> str:
        """Hardware name: ``x86_64``, ``aarch64``."""
        return os.uname().machine

    @cached_property
    def cpu(self) -> CpuInfo:
        """The CPUs."""
        return parse_cpuinfo(self._read("proc/cpuinfo"))

    @property
    def mhz(self) -> float:
        """Clock (MHz) of the first CPU; getJob's ``cpu``; 0.0 when unknown."""
        return self.cpu.mhz

    @cached_property
    def memory_mb(self) -> int:
        """Physical memory in MB (MemTotal / 1024); getJob's ``mem``; 0 when unknown."""
        found = re.search(r"^MemTotal:\s*(\d+) kB", self._read("proc/meminfo"), re.MULTILINE)
        return int(found.group(1)) // 1024 if found else 0

    @cached_property
    def disk_gb(self) -> int:
        """Size of the local disks in GB (10^9), as ``lsblk -d`` shows them, without memory and loop devices."""
        total = 0
        try:
            names = os.listdir(self._root / "sys/block")
        except OSError:
            return 0
        for name in names:
            if not name.startswith(("loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd")):
                total += _number(self._read(f"sys/block/{name}/size")) * _SECTOR
        return total // 10**9

    @cached_property
    def cpu_consumption_unit(self) -> str:
        """Server field cpuConsumptionUnit."""
        return consumption_unit(self.cpu, self.machine)

    @property
    def architecture_level(self) -> str:
        """``x86_64-v3`` and the like (field cpu_architecture_level)."""
        return architecture_level(self.cpu, self.machine)

    def worker_node_map(self, site: str, queue: str) -> dict[str, NodeValue]:
        """Return the arguments of update_worker_node (server-api.md 8.3); what is unknown is left out.

        Types are exact: the server refuses an integer clock_speed.
        """
        cpu = self.cpu
        values: dict[str, NodeValue] = {
            "site": site,
            "panda_queue": queue,
            "host_name": self.host_name,
            "cpu_model": cpu.model or ("ARM" if self.machine.startswith(("aarch64", "arm")) else "UNKNOWN"),
            "n_logical_cpus": cpu.logical or os.cpu_count() or 1,
            "n_sockets": cpu.sockets,
            "cores_per_socket": cpu.cores_per_socket,
            "threads_per_core": cpu.threads_per_core,
            "cpu_architecture": self.machine,
        }
        optional: dict[str, NodeValue] = {
            "cpu_architecture_level": self.architecture_level,
            "clock_speed": float(cpu.mhz),
            "total_memory": self.memory_mb,
            "total_local_disk": self.disk_gb,
        }
        return {**values, **{key: value for key, value in optional.items() if value}}

    def gpu_map(self, site: str) -> dict[str, NodeValue]:
        """Return the arguments of update_worker_node_gpu (server-api.md 8.4), empty when no NVIDIA driver is loaded.

        Only what the driver shows in /proc: vram and framework_version are optional and need a command.
        """
        try:
            cards = sorted(os.listdir(self._root / "proc/driver/nvidia/gpus"))
        except OSError:
            return {}
        if not cards:
            return {}
        information = self._read(f"proc/driver/nvidia/gpus/{cards[0]}/information")
        found = re.search(r"^Model:\s*(.+)$", information, re.MULTILINE)
        model = found.group(1).strip() if found else "Unknown"
        values: dict[str, NodeValue] = {
            "site": site,
            "host_name": self.host_name,
            "vendor": "NVIDIA",
            "model": model,
            "count": len(cards),
            "architecture": next((name for part, name in _GPU_ARCHITECTURES if part in model), "Unknown"),
            "framework": "CUDA",
        }
        version = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]*)", self._read("proc/driver/nvidia/version"))
        if version:
            values["driver_version"] = version.group(1)
        return values

    def _read(self, name: str) -> str:
        """Return the text of a file below the root, empty when it cannot be read."""
        try:
            return (self._root / name).read_text("utf-8", "replace")
        except OSError:
            return ""


def _number(text: str) -> int:
    """Return the integer at the start of ``text``, 0 when there is none."""
    found = re.match(r"\s*(\d+)", text)
    return int(found.group(1)) if found else 0
