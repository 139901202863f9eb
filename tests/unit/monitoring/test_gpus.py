"""GPUs: NVML through a library made for the test, and made-up trees of /proc and /sys."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Dict

import pytest

from pilot.monitoring.gpu import GpuGroup, find_gpus
from pilot.monitoring.node import NodeDescription

FAKE_NVML = r"""
#include <string.h>
#include <unistd.h>
typedef struct { unsigned long long total, free, used; } memory_t;
int nvmlInit_v2(void) { BEHAVIOUR return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = (void *)(long)(i + 1); return 0; }
int nvmlDeviceGetName(void *d, char *t, unsigned n) {
  strncpy(t, (long)d == 3 ? "NVIDIA B200" : "NVIDIA A100-SXM4-40GB", n); return 0; }
int nvmlDeviceGetMemoryInfo(void *d, memory_t *m) {
  if ((long)d == 3) return 3;
  m->total = 42949672960ULL; m->free = 1; m->used = 2; return 0; }
int nvmlDeviceGetArchitecture(void *d, unsigned *a) { *a = (long)d == 3 ? 10 : 7; return 0; }
int nvmlSystemGetDriverVersion(char *t, unsigned n) { strncpy(t, "550.54.15", n); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = 12040; return 0; }
"""

NVIDIA_FILES = {
    "proc/driver/nvidia/gpus/0000:3b:00.0/information": "Model: \t\t NVIDIA A100-SXM4-80GB\nIRQ: 12\n",
    "proc/driver/nvidia/gpus/0000:86:00.0/information": "Model: \t\t NVIDIA A100-SXM4-80GB\nIRQ: 13\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  575.51.03  Tue\nGCC version:\n",
}
PCI_IDS = """# a comment
1002  Advanced Micro Devices, Inc. [AMD/ATI]
\t740f  Aldebaran/MI200 [Instinct MI210]
\t\t1002 0c34  a subsystem
8086  Intel Corporation
\t0bd5  Ponte Vecchio XT (2 Tile) [Data Center GPU Max 1550]
10de  NVIDIA Corporation
\t20b0  GA100 [A100 SXM4 40GB]
"""


def make(root: Path, files: Dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def pci(address: str, kind: str, vendor: str, device: str, **more: str) -> Dict[str, str]:
    place = f"sys/bus/pci/devices/{address}"
    return {f"{place}/class": f"{kind}\n", f"{place}/vendor": f"{vendor}\n", f"{place}/device": f"{device}\n",
            **{f"{place}/{name}": text for name, text in more.items()}}


@pytest.fixture
def nvml(tmp_path: Path) -> Builder:
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler here")
    return Builder(tmp_path)


class Builder:
    """Makes a libnvidia-ml.so.1 that behaves as wanted; returns the environment that has it found."""

    def __init__(self, directory: Path) -> None:
        self.place = directory / "lib"
        self.place.mkdir()

    def __call__(self, behaviour: str = "", source: str = FAKE_NVML) -> Dict[str, str]:
        (self.place / "nvml.c").write_text(source.replace("BEHAVIOUR", behaviour))
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(self.place / "libnvidia-ml.so.1"),
                        str(self.place / "nvml.c")], check=True)
        return {**os.environ, "LD_LIBRARY_PATH": str(self.place)}


def test_nvml_is_asked_where_the_driver_is_loaded(tmp_path: Path, nvml: Builder) -> None:
    root, environ = make(tmp_path / "root", NVIDIA_FILES), nvml()
    assert find_gpus(root, environ) == (
        GpuGroup("NVIDIA", "NVIDIA A100-SXM4-40GB", 2, "Ampere", 40960, "CUDA", "12.4", "550.54.15"),
        GpuGroup("NVIDIA", "NVIDIA B200", 1, "Blackwell", 0, "CUDA", "12.4", "550.54.15"))
    node = NodeDescription({**environ, "PANDA_HOSTNAME": "wn1"}, root)
    first, second = node.gpu_maps("SITE")
    assert first == {
        "site": "SITE", "host_name": "wn1", "vendor": "NVIDIA", "model": "NVIDIA A100-SXM4-40GB", "count": 2,
        "architecture": "Ampere", "vram": 40960, "framework": "CUDA", "framework_version": "12.4",
        "driver_version": "550.54.15"}
    assert second["model"] == "NVIDIA B200" and "vram" not in second
    assert node.gpu_map("SITE") == first


@pytest.mark.parametrize("behaviour", ["return 999;", "*(volatile int *)0 = 1;", "_exit(0);"])
def test_a_library_that_fails_or_crashes_costs_nothing_but_its_facts(
        tmp_path: Path, nvml: Builder, behaviour: str) -> None:
    groups = find_gpus(make(tmp_path / "root", NVIDIA_FILES), nvml(behaviour))
    assert groups == (GpuGroup("NVIDIA", "NVIDIA A100-SXM4-80GB", 2, "Ampere", framework="CUDA",
                               driver_version="575.51.03"),)


def test_a_library_that_hangs_is_left_in_time(
        tmp_path: Path, nvml: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilot.monitoring.gpu._NVML_TIME", 0.5)
    groups = find_gpus(make(tmp_path / "root", NVIDIA_FILES), nvml("sleep(600);"))
    assert [(group.model, group.number) for group in groups] == [("NVIDIA A100-SXM4-80GB", 2)]


def test_an_old_library_without_some_functions_tells_what_it_can(tmp_path: Path, nvml: Builder) -> None:
    lines = [line for line in FAKE_NVML.splitlines() if "GetArchitecture" not in line and "Cuda" not in line]
    groups = find_gpus(make(tmp_path / "root", NVIDIA_FILES), nvml("", "\n".join(lines)))
    assert groups[0] == GpuGroup("NVIDIA", "NVIDIA A100-SXM4-40GB", 2, "Ampere", 40960, "CUDA", "", "550.54.15")


def test_without_a_driver_the_bus_tells(tmp_path: Path) -> None:
    root = make(tmp_path, {**pci("0000:3b:00.0", "0x030200", "0x10de", "0x20b0"), "usr/share/misc/pci.ids": PCI_IDS})
    assert find_gpus(root, {}) == (GpuGroup("NVIDIA", "GA100 [A100 SXM4 40GB]", 1, "Ampere", framework="CUDA"),)


def test_amd_and_intel_are_seen_on_the_bus(tmp_path: Path) -> None:
    root = make(tmp_path, {
        **pci("0000:63:00.0", "0x038000", "0x1002", "0x740f", mem_info_vram_total="68702699520\n",
              product_name="AMD Instinct MI210\n"),
        **pci("0000:64:00.0", "0x038000", "0x1002", "0x740f", mem_info_vram_total="68702699520\n",
              product_name="AMD Instinct MI210\n"),
        **pci("0000:03:00.0", "0x038000", "0x8086", "0x0bd5"),
        "sys/module/amdgpu/version": "6.7.0\n", "opt/rocm/.info/version": "6.1.2-90\n",
        "sys/module/i915/version": "1\n",
        "usr/share/hwdata/pci.ids": PCI_IDS})
    assert find_gpus(root, {}) == (
        GpuGroup("AMD", "AMD Instinct MI210", 2, "CDNA 2", 65520, "ROCm", "6.1.2-90", "6.7.0"),
        GpuGroup("Intel", "Ponte Vecchio XT (2 Tile) [Data Center GPU Max 1550]", 1, framework="oneAPI",
                 driver_version="1"))


def test_consoles_and_graphics_of_processors_are_no_gpus(tmp_path: Path) -> None:
    root = make(tmp_path, {
        **pci("0000:02:00.0", "0x030000", "0x1a03", "0x2000"),  # ASPEED, the console of a server
        **pci("0000:00:02.0", "0x030000", "0x8086", "0x3e92"),  # graphics of an Intel processor
        **pci("0000:05:00.0", "0x030000", "0x1002", "0x1638", mem_info_vram_total="536870912"),  # of an AMD one
        **pci("0000:06:00.0", "0x020000", "0x10de", "0xffff"),  # a network card
        "sys/bus/pci/devices/0000:07:00.0/class": "\xff\n"})
    assert find_gpus(root, {}) == () == find_gpus(tmp_path / "nothing", {})


def test_an_unknown_card_has_its_number(tmp_path: Path) -> None:
    root = make(tmp_path, pci("0000:63:00.0", "0x030000", "0x1002", "0x9999"))
    assert [group.model for group in find_gpus(root, {})] == ["AMD 0x9999"]
