"""A payload that sleeps: what the pilot costs while it has nothing to do but to watch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from figures import Table
from rig import ROOT, Bench, cpu_seconds, end, memory_mb, wait_for, wakeups

SPAWNING = "clone,clone3,fork,vfork,execve"


def measure(table: Table, python: str, seconds: float) -> None:
    """CPU, memory and wake-ups of the pilot with the settings as delivered; processes started at 20 times the rate."""
    table.title(f"payload sleeps, measured for {seconds:.0f} s, per minute")
    with Bench(python) as bench:
        sleeper = bench.payload("sleeper", "exec sleep 1000")
        bench.submit(str(sleeper))
        pilot = bench.start()
        wait_for(lambda: bench.stamp("sleeper.start"))
        wait_for(lambda: any(item.get("state") == "running" for item in bench.job(7000000001)["updates"]))
        time.sleep(2)  # what the start has left to do
        cpu, switches, began = cpu_seconds(pilot.pid), wakeups(pilot.pid), time.monotonic()
        time.sleep(seconds)
        cpu, switches, minutes = (
            cpu_seconds(pilot.pid) - cpu,
            wakeups(pilot.pid) - switches,
            (time.monotonic() - began) / 60,
        )
        memory = memory_mb(pilot.pid)
        end(pilot)
    table.add("CPU of the pilot and its helpers", [cpu / minutes], target=0.05, reference=0.55, note="/min")
    table.add("wake-ups (voluntary context switches of all threads)", [switches / minutes], "", note="/min")
    table.add("RSS of the pilot", [memory["VmRSS"]], "MB", target=38, reference=39.8, floor=28.3)
    table.add("peak RSS of the pilot", [memory["VmHWM"]], "MB", reference=39.8, floor=28.3)
    table.add("PSS of the pilot", [memory["Pss"]], "MB", reference=27.3)
    table.add("threads of the pilot", [memory["Threads"]], "")
    _spawned(table, python, min(seconds, 20))


def _spawned(table: Table, python: str, seconds: float) -> None:
    """Processes and threads that monitoring starts, counted by strace; samples and heartbeats come once a second."""
    if shutil.which("strace") is None:
        print("   processes started: not measured, there is no strace")
        return
    with Bench(python) as bench:
        bench.submit(str(bench.payload("sleeper", "exec sleep 1000")))
        pilot = bench.start(settings=["pilot.heartbeat=1", "monitor.cpu_interval=1"])
        wait_for(lambda: bench.stamp("sleeper.start"))
        time.sleep(2)
        trace = bench.directory / "trace"
        tracer = subprocess.Popen(
            [
                "strace",
                "-f",
                "-qq",
                "-e",
                f"trace={SPAWNING}",
                "-e",
                "signal=none",
                "-o",
                str(trace),
                "-p",
                str(pilot.pid),
            ],
            stderr=subprocess.DEVNULL,
        )
        before = len(bench.job(7000000001)["updates"])
        time.sleep(seconds)
        beats = len(bench.job(7000000001)["updates"]) - before
        alive = tracer.poll() is None
        tracer.terminate()
        tracer.wait()
        lines = trace.read_text().splitlines() if trace.exists() else []
        end(pilot)
    if not alive:
        print("   processes started: not measured, strace may not attach here")
        return
    threads = [line for line in lines if "CLONE_THREAD" in line]
    processes = [line for line in lines if line not in threads and "(" in line]
    table.add(
        f"processes started in {beats} heartbeats and samples",
        [len(processes)],
        "",
        target=0,
        reference=200 * seconds / 60,
    )
    table.add(f"threads started in {beats} heartbeats and samples", [len(threads)], "")


def measure_crowd(table: Table, python: str, processes: int, seconds: float) -> None:
    """A payload of many sleeping processes: CPU of one sample, samples once a second."""
    table.title(f"payload with {processes} sleeping processes")
    with Bench(python) as bench:
        crowd = bench.payload(
            "crowd",
            f"for i in {{1..{processes}}}; do sleep 1000 & done\nprintf 1 > {bench.directory}/crowd.ready\nwait",
        )
        job = bench.submit(str(crowd))
        pilot = bench.start(settings=["monitor.cpu_interval=1"])
        wait_for(lambda: bench.stamp("crowd.ready"))
        database = next(Path(bench.directory).glob("pilot*/pilot.db"))
        time.sleep(2)
        cpu, before = cpu_seconds(pilot.pid), _samples(database, job)
        time.sleep(seconds)
        cpu, taken = cpu_seconds(pilot.pid) - cpu, _samples(database, job) - before
        total = sum(1 for entry in Path("/proc").iterdir() if entry.name.isdigit())
        left = time.time()
        end(pilot)
    table.add(
        f"CPU of one sample ({total} processes on this machine)",
        [cpu / max(taken, 1)],
        target=0.06,
        reference=70 / 4,
        floor=0.02,
    )
    table.add("SIGTERM to exit, everything dead", [time.time() - left])


def _samples(database: Path, job: int) -> int:
    sys.path.insert(0, str(ROOT))
    from pilot.store.opening import open_view

    connection = open_view(database)
    try:
        return int(connection.execute("SELECT COUNT(*) FROM samples WHERE job_id = ?", (str(job),)).fetchone()[0])
    finally:
        connection.close()
