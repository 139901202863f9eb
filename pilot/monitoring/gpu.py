"""The GPUs of the node: NVML where NVIDIA's driver is loaded, else what /proc and /sys show; AMD and Intel from /sys.

::

    NVIDIA   nvml.py (a process of its own)  ──not there──►  /proc/driver/nvidia  ──►  PCI devices
    AMD      PCI devices, /sys/class/drm/card*/device (memory, product), /sys/module/amdgpu/version, /opt/rocm
    Intel    PCI devices that are no integrated graphics, /sys/module/{xe,i915}/version

Chips that only drive a console (ASPEED, Matrox) are of other vendors, and are not seen.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Optional

logger = logging.getLogger(__name__)

_NVML_TIME = 20.0
_GPU_CLASSES = ("0x0300", "0x0302", "0x0380")
"""VGA compatible, 3D, and display controllers."""
_NVIDIA, _AMD, _INTEL = "0x10de", "0x1002", "0x8086"
_VENDORS = {_NVIDIA: ("NVIDIA", "CUDA"), _AMD: ("AMD", "ROCm"), _INTEL: ("Intel", "oneAPI")}
_INTEGRATED = "0000:00:02.0"
"""Where the graphics of Intel's processors are, always."""
_LEAST_AMD_VRAM = 2048
"""MB; what has less is the graphics of a desktop processor."""
_PCI_NAMES = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids")

# Architecture by model name, first match (control-and-monitoring.md 10).
_ARCHITECTURES = (
    ("GH200", "Grace Hopper"), ("H100", "Hopper"), ("L40", "Ada Lovelace"), ("RTX 6000", "Ada Lovelace"),
    ("A100", "Ampere"), ("T4", "Turing"), ("V100", "Volta"), ("P100", "Pascal"), ("K80", "Kepler"))
_AMD_ARCHITECTURES = (("MI3", "CDNA 3"), ("MI2", "CDNA 2"), ("MI1", "CDNA"))


class GpuGroup(NamedTuple):
    """GPUs of one kind; ``vram`` in MB of each, 0 = unknown; texts are empty when unknown."""

    vendor: str
    model: str
    number: int
    architecture: str = "Unknown"
    vram: int = 0
    framework: str = ""
    framework_version: str = ""
    driver_version: str = ""


class _Device(NamedTuple):
    """A PCI device."""

    address: str
    vendor: str
    device: str
    place: Path


def find_gpus(root: Path, environ: Mapping[str, str]) -> tuple[GpuGroup, ...]:
    """Return the node's GPUs, most of a kind first; blocks for 20 s at most, and only with an NVIDIA driver.

    Args:
        root: stands for the root directory, so that tests can show the files of other machines.
        environ: of the helper process (LD_LIBRARY_PATH).
    """
    devices = list(_pci_devices(root))
    groups = list(_nvidia(root, environ, [device for device in devices if device.vendor == _NVIDIA]))
    for vendor, read in ((_AMD, _amd), (_INTEL, _intel)):
        found = [group for device in devices if device.vendor == vendor and (group := read(root, device)) is not None]
        groups += _counted(found)
    return tuple(sorted(groups, key=lambda group: -group.number))


def _counted(single: list[GpuGroup]) -> list[GpuGroup]:
    return [group._replace(number=single.count(group)) for group in dict.fromkeys(single)]


def _architecture(model: str, said: str = "") -> str:
    return next((name for part, name in _ARCHITECTURES if part in model), said or "Unknown")


# --- NVIDIA -----------------------------------------------------------------------------------------------------------


def _nvidia(root: Path, environ: Mapping[str, str], devices: list[_Device]) -> list[GpuGroup]:
    try:
        cards = sorted(os.listdir(root / "proc/driver/nvidia/gpus"))
    except OSError:
        cards = []
    loaded = bool(cards) or (root / "proc/driver/nvidia/version").exists()
    if not (loaded or devices):
        return []
    told = _ask_nvml(environ) if loaded else None
    if told is not None:
        return told
    version = re.search(r"Kernel Module(?: for \S+)?\s+(\d[\d.]*)", _read(root / "proc/driver/nvidia/version"))
    models = []
    for card in cards:
        found = re.search(r"^Model:\s*(.+)$", _read(root / f"proc/driver/nvidia/gpus/{card}/information"), re.MULTILINE)
        models.append(found.group(1).strip() if found else "Unknown")
    models = models or [_pci_name(root, device) for device in devices]
    return _counted([
        GpuGroup("NVIDIA", model, 1, _architecture(model), framework="CUDA",
                 driver_version=version.group(1) if version else "") for model in models])


def _ask_nvml(environ: Mapping[str, str]) -> Optional[list[GpuGroup]]:
    """Return what NVML says; None when it cannot be asked."""
    from pilot.monitoring import nvml
    from pilot.util.bounded import TookTooLong, bounded
    from pilot.util.cancel import CancelToken
    from pilot.util.command import Finished, run_command

    token = CancelToken()

    def run() -> Finished:
        return run_command([sys.executable, "-I", "-S", nvml.__file__], env=environ, cwd=Path("/"), token=token,
                           timeout=_NVML_TIME)

    try:
        done = bounded(run, _NVML_TIME + 5, token, "nvml")
        if done.code:
            logger.info("GPUs: NVML cannot be asked (%s): /proc and /sys have to do", done.output[-200:] or done.code)
            return None
        return _groups_of(json.loads(done.stdout))
    except (OSError, TookTooLong, ValueError, KeyError, TypeError, AttributeError) as exc:
        logger.info("GPUs: NVML has given no answer (%s): /proc and /sys have to do", exc)
        return None


def _groups_of(said: Mapping[str, object]) -> list[GpuGroup]:
    gpus = said["gpus"]
    assert isinstance(gpus, list)
    return _counted([
        GpuGroup("NVIDIA", str(gpu["name"]) or "Unknown", 1, _architecture(str(gpu["name"]), str(gpu["architecture"])),
                 int(gpu["vram"]), "CUDA", str(said["cuda"]), str(said["driver"])) for gpu in gpus])


# --- AMD and Intel ----------------------------------------------------------------------------------------------------


def _amd(root: Path, device: _Device) -> Optional[GpuGroup]:
    vram = _read(device.place / "mem_info_vram_total").strip()
    megabytes = int(vram) // 2**20 if vram.isdigit() else 0
    if 0 < megabytes < _LEAST_AMD_VRAM:
        return None
    model = _read(device.place / "product_name").strip() or _pci_name(root, device)
    architecture = next((name for part, name in _AMD_ARCHITECTURES if part in model), "Unknown")
    return GpuGroup("AMD", model, 1, architecture, megabytes, "ROCm", _read(root / "opt/rocm/.info/version").strip(),
                    _read(root / "sys/module/amdgpu/version").strip())


def _intel(root: Path, device: _Device) -> Optional[GpuGroup]:
    if device.address == _INTEGRATED:
        return None
    versions = (_read(root / f"sys/module/{module}/version").strip() for module in ("xe", "i915"))
    return GpuGroup("Intel", _pci_name(root, device), 1, framework="oneAPI",
                    driver_version=next((version for version in versions if version), ""))


def _pci_devices(root: Path) -> Iterator[_Device]:
    """Yield the display devices of vendors that make GPUs."""
    place = root / "sys/bus/pci/devices"
    try:
        addresses = sorted(os.listdir(place))
    except OSError:
        return
    for address in addresses:
        if _read(place / address / "class").startswith(_GPU_CLASSES):
            vendor = _read(place / address / "vendor").strip().lower()
            if vendor in _VENDORS:
                yield _Device(address, vendor, _read(place / address / "device").strip().lower(), place / address)


def _pci_name(root: Path, device: _Device) -> str:
    """Return the device's name from the PCI list of the system, else its vendor and number."""
    wanted_vendor, wanted = device.vendor[2:], device.device[2:]
    for name in _PCI_NAMES:
        inside = False
        for line in _read(root / name).splitlines():
            if line.startswith(wanted_vendor + " "):
                inside = True
            elif inside and line.startswith(f"\t{wanted} "):
                return line.strip().partition(" ")[2].strip()
            elif inside and line[:1] not in ("\t", "#", ""):
                break
    return f"{_VENDORS[device.vendor][0]} {device.device}"


def _read(path: Path) -> str:
    """Return the text of a file, empty when it cannot be read."""
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""
