"""What is said of the CPU of several machines, from texts of /proc/cpuinfo and trees of /sys like theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, NamedTuple, Tuple

import pytest

from pilot.monitoring.node import CpuInfo, NodeDescription, architecture_level, consumption_unit, parse_cpuinfo

V2 = "fpu sse sse2 cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


class Machine(NamedTuple):
    """A kind of node and what is to be said of it."""

    model: str
    cache: str
    sockets: int
    cores: int
    threads: int
    flags: str
    unit: str
    level: str
    mhz: float = 2400.0


MACHINES = {
    "Intel, 2 sockets, HT": Machine(
        "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", "49152 KB", 2, 32, 2, V4,
        "s+Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz 49152 KB 64-Core Processor HT 2-Sockets+AVX2", "x86_64-v4"),
    "Intel, old, 2 sockets": Machine(
        "Intel(R) Xeon(R) CPU           E5620  @ 2.40GHz", "12288 KB", 2, 4, 2, V2,
        "s+Intel(R) Xeon(R) CPU E5620 @ 2.40GHz 12288 KB 8-Core Processor HT 2-Sockets", "x86_64-v2"),
    "AMD EPYC, 2 sockets, SMT": Machine(
        "AMD EPYC 7742 64-Core Processor", "512 KB", 2, 64, 2, V3,
        "s+AMD EPYC 7742 128-Core Processor 512 KB HT 2-Sockets+AVX2", "x86_64-v3"),
    "AMD EPYC, 1 socket": Machine(
        "AMD EPYC 9654 96-Core Processor", "1024 KB", 1, 96, 1, V4,
        "s+AMD EPYC 9654 96-Core Processor 1024 KB 1-Socket+AVX2", "x86_64-v4"),
    "VM, each CPU a socket": Machine(
        "QEMU Virtual CPU version 2.5+", "16384 KB", 8, 1, 1, "fpu sse sse2",
        "s+QEMU Virtual CPU version 2.5+ 16384 KB 8-Core Processor 8-Sockets", "x86_64-v1"),
    "VM with the host's CPU": Machine(
        "Intel Xeon Processor (Cascadelake)", "16384 KB", 1, 4, 1, V4,
        "s+Intel Xeon 4-Core Processor (Cascadelake) 16384 KB 1-Socket+AVX2", "x86_64-v4"),
}


def cpuinfo(machine: Machine) -> str:
    text = ""
    for number in range(machine.sockets * machine.cores * machine.threads):
        text += (
            f"processor\t: {number}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 106\n"
            f"model name\t: {machine.model}\nstepping\t: 6\nmicrocode\t: 0xd0003e7\ncpu MHz\t\t: {machine.mhz:.3f}\n"
            f"cache size\t: {machine.cache}\nphysical id\t: {number % machine.sockets}\n"
            f"siblings\t: {machine.cores * machine.threads}\ncore id\t\t: 0\ncpu cores\t: {machine.cores}\n"
            f"fpu\t\t: yes\nflags\t\t: {machine.flags}\nbugs\t\t: spectre_v1\nbogomips\t: 4000.00\n\n")
    return text


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_is_described(name: str, tmp_path: Path) -> None:
    machine = MACHINES[name]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo(machine))
    cpu = NodeDescription({}, tmp_path).cpu
    assert (cpu.sockets, cpu.cores_per_socket, cpu.threads_per_core) == machine[2:5]
    assert cpu.logical == machine.sockets * machine.cores * machine.threads
    assert consumption_unit(cpu, "x86_64") == machine.unit
    assert architecture_level(cpu, "x86_64") == machine.level
    assert cpu.mhz == machine.mhz


def test_each_flag_of_a_level_counts() -> None:
    for flags, level in ((V2, "x86_64-v2"), (V3, "x86_64-v3"), (V4, "x86_64-v4")):
        assert architecture_level(CpuInfo("", "", 0, frozenset(flags.split()), 1, 1, 1, 1), "x86_64") == level
        last = int(level[-1])
        added = set(flags.split()) - set({2: "fpu sse sse2", 3: V2, 4: V3}[last].split())
        for flag in added:
            fewer = frozenset(flags.split()) - {flag}
            lower = architecture_level(CpuInfo("", "", 0, fewer, 1, 1, 1, 1), "x86_64")
            assert lower == f"x86_64-v{last - 1}", flag


# --- ARM: the numbers stand in /sys -----------------------------------------------------------------------------------

ARM = ("processor\t: {0}\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd evtstrm aes\nCPU implementer\t: {1}\n"
       "CPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: {2}\nCPU revision\t: 1\n\n")


def arm_tree(root: Path, *, sockets: int, cores: int, threads: int, part: Tuple[str, str]) -> Path:
    files: Dict[str, str] = {"sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3000000\n"}
    number = 0
    for socket in range(sockets):
        for core in range(cores):
            for _ in range(threads):
                place = f"sys/devices/system/cpu/cpu{number}/topology"
                files.update({f"{place}/physical_package_id": f"{socket}\n", f"{place}/core_id": f"{core}\n"})
                number += 1
    files["proc/cpuinfo"] = "".join(ARM.format(index, *part) for index in range(number))
    files[f"sys/devices/system/cpu/cpu{number}/online"] = "0\n"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(("part", "model"), [
    (("0x41", "0xd0c"), "Neoverse-N1"), (("0x48", "0xd01"), "Kunpeng-920"), (("0x41", "0xD4F"), "Neoverse-V2"),
    (("0x99", "0x001"), "ARM"),
])
def test_arm_machines_are_counted_by_what_sys_says(
        tmp_path: Path, part: Tuple[str, str], model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NodeDescription, "machine", "aarch64")
    node = NodeDescription({}, arm_tree(tmp_path, sockets=2, cores=3, threads=2, part=part))
    values = node.worker_node_map("S", "Q")
    assert (values["n_logical_cpus"], values["n_sockets"]) == (12, 2)
    assert (values["cores_per_socket"], values["threads_per_core"], values["clock_speed"]) == (3, 2, 3000.0)
    assert values["cpu_model"] == model and values["cpu_architecture"] == "aarch64"
    assert "cpu_architecture_level" not in values
    assert node.cpu_consumption_unit == "s+ARM"


def test_garbage_in_proc_and_sys_is_no_traceback(tmp_path: Path) -> None:
    for text in ("", "processor", "::::\n", "processor : x\ncpu cores : -3\nsiblings : many\nphysical id : \n\0\xff"):
        cpu = parse_cpuinfo(text)
        assert cpu.sockets >= 1 and cpu.cores_per_socket >= 1 and cpu.threads_per_core >= 1
    tree = arm_tree(tmp_path, sockets=1, cores=1, threads=1, part=("0x41", "0xd0c"))
    for path in (tree / "sys/devices/system/cpu/cpu0/topology").iterdir():
        path.write_bytes(b"\xff\n")
    values = NodeDescription({}, tree).worker_node_map("S", "Q")
    assert values["n_sockets"] == 1


def test_a_disk_with_two_paths_counts_once(tmp_path: Path) -> None:
    for name, sectors, hidden in (("nvme0n1", 2_000_000_000, "0"), ("nvme0c0n1", 2_000_000_000, "1"), ("sdb", 0, "0"),
                                  ("dm-0", 5, "0"), ("sr0", 9_999_999_999, "0")):
        place = tmp_path / "sys/block" / name
        place.mkdir(parents=True)
        (place / "size").write_text(f"{sectors}\n")
        (place / "hidden").write_text(f"{hidden}\n")
    assert NodeDescription({}, tmp_path).disk_gb == 1024
