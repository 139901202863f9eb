"""What the worker node is: name, CPU, memory, disk, GPUs; from /proc and /sys when first asked for, no commands."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Union

if TYPE_CHECKING:
    from pilot.monitoring.gpu import GpuGroup

_UNIT_LIMIT = 128
"""Bytes of cpuConsumptionUnit; the server does not cut, a longer one loses the update (server-api.md 6.4)."""

_NAME_LIMIT = 128
_SECTOR = 512

_V2 = frozenset(["cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"])
_V3 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"])
_V4 = frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])

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
    told: bool = True
    """False: /proc/cpuinfo does not tell sockets and cores (ARM and others), the counts are guesses."""
    arm: str = ""
    """Name of an ARM processor by its numbers (``Neoverse-N1``); /proc/cpuinfo has no ``model name`` for it."""

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
    implementer = first.get("CPU implementer", "")
    arm = ""
    if implementer:
        from pilot.monitoring.arm import arm_model

        arm = arm_model(implementer, first.get("CPU part", ""))
    cores = _number(first.get("cpu cores", "")) or max(logical // sockets, 1)
    threads = max(_number(first.get("siblings", "")) // cores, 1)
    try:
        mhz = float(first.get("cpu MHz", "0"))
    except ValueError:
        mhz = 0.0
    flags = frozenset((first.get("flags") or first.get("Features") or "").split())
    return CpuInfo(
        first.get("model name", ""), first.get("cache size", ""), mhz, flags, logical, sockets, cores, threads,
        bool(packages and first.get("cpu cores")), arm,
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
        cpu = parse_cpuinfo(self._read("proc/cpuinfo"))
        return cpu if cpu.told else self._with_topology(cpu)

    def _with_topology(self, cpu: CpuInfo) -> CpuInfo:
        """Return the counts as /sys has them, where /proc/cpuinfo is silent; the clock, too."""
        place = self._root / "sys/devices/system/cpu"
        try:
            numbers = [name for name in os.listdir(place) if re.fullmatch(r"cpu\d+", name)]
        except OSError:
            return cpu
        packages, cores, logical = set(), set(), 0
        for name in numbers:
            topology = f"sys/devices/system/cpu/{name}/topology"
            package = self._read(f"{topology}/physical_package_id").strip()
            core = self._read(f"{topology}/core_id").strip()
            if package and core:  # CPUs that are switched off have none
                logical += 1
                packages.add(package)
                cores.add((package, core, self._read(f"{topology}/cluster_id").strip()))
        if not logical:
            return cpu
        khz = _number(self._read("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"))
        return cpu._replace(
            logical=cpu.logical or logical, sockets=len(packages), cores_per_socket=max(len(cores) // len(packages), 1),
            threads_per_core=max(logical // len(cores), 1), mhz=cpu.mhz or khz / 1000)

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
            # hidden: one path of several to the same disk (NVMe multipath)
            if not name.startswith(("loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd")) and (
                    self._read(f"sys/block/{name}/hidden").strip() != "1"):
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
            "cpu_model": cpu.model or cpu.arm or ("ARM" if self.machine.startswith(("aarch64", "arm")) else "UNKNOWN"),
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

    @cached_property
    def gpus(self) -> tuple[GpuGroup, ...]:
        """The GPUs; with NVIDIA's driver the first question takes a moment (20 s at most)."""
        from pilot.monitoring.gpu import find_gpus

        return find_gpus(self._root, self._environ)

    def gpu_maps(self, site: str) -> list[dict[str, NodeValue]]:
        """Return the arguments of update_worker_node_gpu (server-api.md 8.4) for each kind of GPU, most of a kind
        first; what is unknown is left out."""
        maps: list[dict[str, NodeValue]] = []
        for group in self.gpus:
            values: dict[str, NodeValue] = {
                "site": site, "host_name": self.host_name, "vendor": group.vendor, "model": group.model,
                "count": group.number, "architecture": group.architecture}
            optional: dict[str, NodeValue] = {
                "vram": group.vram, "framework": group.framework, "framework_version": group.framework_version,
                "driver_version": group.driver_version}
            maps.append({**values, **{key: value for key, value in optional.items() if value}})
        return maps

    def gpu_map(self, site: str) -> dict[str, NodeValue]:
        """Return the first of ``gpu_maps``, empty without any: files and metadata have room for one."""
        return next(iter(self.gpu_maps(site)), {})

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
