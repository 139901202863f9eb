"""What is said of the worker node: CPU, batch system, space."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilot.monitoring.batch import BatchSystem, find_batch_system
from pilot.monitoring.cpu import CpuMeter
from pilot.monitoring.node import NodeDescription, architecture_level, consumption_unit, host_name, parse_cpuinfo
from pilot.util.space import DirectorySize, directory_size, free_space, pod_storage_limit


def cpuinfo(model: str, cache: str, *, sockets: int, cores: int, threads: int, flags: str = "sse2 avx2") -> str:
    lines = []
    for number in range(sockets * cores * threads):
        lines += [
            f"processor\t: {number}", f"model name\t: {model}", "cpu MHz\t\t: 2400.000", f"cache size\t: {cache}",
            f"physical id\t: {number % sockets}", f"siblings\t: {cores * threads}", f"cpu cores\t: {cores}",
            f"flags\t\t: {flags}", "",
        ]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        # Recorded from Pilot 3 (cases/panda-server-transcripts/reference-pilot).
        (
            cpuinfo("AMD EPYC", "1024 KB", sockets=1, cores=2, threads=1),
            "s+AMD EPYC 1024 KB 2-Core Processor 1-Socket+AVX2",
        ),
        (
            cpuinfo("Intel(R) Xeon(R) Gold 5218 CPU @ 2.30GHz", "22528 KB", sockets=2, cores=16, threads=2),
            "s+Intel(R) Xeon(R) Gold 5218 CPU @ 2.30GHz 22528 KB 32-Core Processor HT 2-Sockets+AVX2",
        ),
        (
            cpuinfo("AMD EPYC 7302 16-Core Processor", "512 KB", sockets=2, cores=16, threads=1, flags="sse2"),
            "s+AMD EPYC 7302 32-Core Processor 512 KB 2-Sockets",
        ),
        (
            cpuinfo("Intel(R) Xeon(R) Processor", "491520 KB", sockets=1, cores=2, threads=1),
            "s+Intel(R) Xeon(R) 2-Core Processor 491520 KB 1-Socket+AVX2",
        ),
        ("", "s+UNKNOWN"),
    ],
)
def test_cpu_consumption_unit(text: str, unit: str) -> None:
    assert consumption_unit(parse_cpuinfo(text), "x86_64") == unit


def test_cpu_consumption_unit_of_arm_and_of_endless_names() -> None:
    arm = parse_cpuinfo("processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n\nprocessor\t: 1\n")
    assert consumption_unit(arm, "aarch64") == "s+ARM"
    assert (arm.logical, arm.sockets, arm.cores_per_socket, arm.threads_per_core) == (2, 1, 2, 1)
    endless = parse_cpuinfo(cpuinfo("é" * 300, "1 KB", sockets=1, cores=1, threads=1))
    unit = consumption_unit(endless, "x86_64")
    assert len(unit.encode()) == 128
    assert unit.endswith("+AVX2")


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("sse2", "x86_64-v1"),
        ("cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3", "x86_64-v2"),
        ("cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave", "x86_64-v3"),
    ],
)
def test_architecture_level(flags: str, level: str) -> None:
    cpu = parse_cpuinfo(cpuinfo("x", "1 KB", sockets=1, cores=1, threads=1, flags=flags))
    assert architecture_level(cpu, "x86_64") == level
    assert architecture_level(cpu, "aarch64") == ""


def fake_root(directory: Path) -> Path:
    files = {
        "proc/cpuinfo": cpuinfo("Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", "49152 KB", sockets=2, cores=3, threads=2),
        "proc/meminfo": "MemTotal:       527360000 kB\nMemFree:  1 kB\n",
        "sys/block/sda/size": "1757812500\n",
        "sys/block/loop0/size": "99999999999\n",
        "proc/driver/nvidia/gpus/0000:3b:00.0/information": "Model: \t\t NVIDIA A100-SXM4-80GB\nIRQ: 12\n",
        "proc/driver/nvidia/gpus/0000:86:00.0/information": "Model: \t\t NVIDIA A100-SXM4-80GB\nIRQ: 13\n",
        "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  575.51.03  Tue\nGCC version:\n",
    }
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def test_the_worker_node_map_has_the_types_that_the_server_wants(tmp_path: Path) -> None:
    node = NodeDescription({"PANDA_HOSTNAME": "wn1.example.org", "_CONDOR_SLOT": "slot1_3"}, fake_root(tmp_path))
    values = node.worker_node_map("CERN-PROD", "CERN")
    assert values == {
        "site": "CERN-PROD", "panda_queue": "CERN", "host_name": "slot1_3@wn1.example.org",
        "cpu_model": "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", "n_logical_cpus": 12, "n_sockets": 2,
        "cores_per_socket": 3, "threads_per_core": 2, "cpu_architecture": os.uname().machine,
        "cpu_architecture_level": "x86_64-v1", "clock_speed": 2400.0, "total_memory": 515000, "total_local_disk": 900,
    }
    assert type(values["clock_speed"]) is float
    assert type(values["total_memory"]) is int
    assert node.mhz == 2400.0
    assert node.memory_mb == 515000


def test_gpus_are_those_that_the_driver_shows(tmp_path: Path) -> None:
    assert NodeDescription({}, tmp_path).gpu_map("SITE") == {}
    values = NodeDescription({"PANDA_HOSTNAME": "wn1"}, fake_root(tmp_path)).gpu_map("SITE")
    assert values == {
        "site": "SITE", "host_name": "wn1", "vendor": "NVIDIA", "model": "NVIDIA A100-SXM4-80GB", "count": 2,
        "architecture": "Ampere", "framework": "CUDA", "driver_version": "575.51.03",
    }


def test_a_node_without_any_information_is_described_all_the_same(tmp_path: Path) -> None:
    values = NodeDescription({}, tmp_path).worker_node_map("S", "Q")
    assert values["cpu_model"] in ("UNKNOWN", "ARM")
    assert "clock_speed" not in values
    assert "total_memory" not in values


def test_host_name() -> None:
    assert host_name({}) == os.uname().nodename
    assert host_name({"_CONDOR_SLOT": "slot1", "PANDA_HOSTNAME": "h" * 200}) == ("slot1@" + "h" * 200)[:128]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, BatchSystem()),
        ({"SLURM_JOB_ID": "77"}, BatchSystem("SLURM", "77")),
        ({"K8S_JOB_ID": "k", "PBS_JOBID": "5.ce"}, BatchSystem("Torque", "5.ce")),
        ({"QSUB_REQNAME": "q", "JOB_ID": "1"}, BatchSystem("BQS", "q")),
        ({"JOB_ID": "1"}, BatchSystem("Grid Engine", "1")),
        ({"clusterid": "12", "_CONDOR_JOB_AD": "/nonexistent"}, BatchSystem("Condor", "12")),
        ({"_CONDOR_JOB_AD": "/nonexistent"}, BatchSystem()),
    ],
)
def test_batch_system(environ: dict[str, str], expected: BatchSystem) -> None:
    assert find_batch_system(environ) == expected


def test_batch_id_from_the_condor_job_ad(tmp_path: Path) -> None:
    ad = tmp_path / "job.ad"
    ad.write_text('ClusterId = 5\nGlobalJobId = "sched.example.org#5.0#1700000000"\nOwner = "x"\n')
    expected = BatchSystem("Condor", "sched.example.org#5.0#1700000000")
    assert find_batch_system({"_CONDOR_JOB_AD": str(ad)}) == expected


def test_directory_size_counts_files_and_not_what_links_point_to(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"x" * 23)
    (tmp_path / "link").symlink_to("/bin")
    (tmp_path / "file-link").symlink_to(tmp_path / "a")
    assert directory_size(tmp_path) == DirectorySize(123, 2)
    assert directory_size(tmp_path / "nothing") == DirectorySize(0, 0)


def test_free_space_is_that_of_the_pod_when_it_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1000)
    status = os.statvfs(tmp_path)
    free = free_space(tmp_path, {})
    assert free is not None
    assert abs(free - status.f_bavail * status.f_frsize) < 10**9
    pod = {"storageLimitMiB": "1", "storageRequestMiB": "1"}
    assert pod_storage_limit(pod) == 1048576
    assert free_space(tmp_path, pod) == 1048576 - 1000
    assert free_space(tmp_path, pod, used=5_000_000) == 0
    assert pod_storage_limit({"storageLimitMiB": "1"}) is None
    assert pod_storage_limit({"storageLimitMiB": "much", "storageRequestMiB": "1"}) is None
    assert free_space(tmp_path / "nothing", {}) is None


def test_cpu_time_only_grows_and_cores_are_its_speed() -> None:
    now = 100.0
    meter = CpuMeter(lambda: now)
    now = 160.0
    first = meter.sample(120.0)
    assert (first.seconds, first.cores) == (120.0, 2.0)
    now = 220.0
    # A process ended that nobody has waited for: less is measured.
    assert meter.sample(90.0).seconds == 120.0
    now = 280.0
    assert meter.sample(150.0).cores == 0.5
    assert meter.finish(140.0) == 150.0
    assert meter.finish(360.0) == 360.0
    now = 9999.0
    assert meter.mean_cores == 2.0
    assert CpuMeter(lambda: 5.0).mean_cores == 0.0
