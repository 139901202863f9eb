"""Ends that somebody else decides, and the next job: SIGTERM, tobekilled, several jobs in one pilot."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import List, Tuple

from figures import Table
from rig import Bench, wait_for

MANY = {"timefloor": 60}


def _sleeper(bench: Bench, name: str) -> str:
    """A payload that waits and obeys SIGTERM at once, with a stamp of its end."""
    return str(
        bench.payload(
            name,
            f"trap 'printf %s \"$EPOCHREALTIME\" > {bench.directory}/{name}.end; exit 143' TERM\n"
            "sleep 1000 & wait; kill $!; wait",
        )
    )


def measure_next_job(table: Table, python: str, runs: int) -> None:
    """The pause between two payloads of one pilot."""
    table.title("several jobs in one pilot, nothing to stage")
    with Bench(python, queue=MANY) as bench:
        script = bench.payload("next")
        for number in range(runs + 1):
            bench.submit(str(script), str(number))
        bench.run("-x", "1", "-v", "100", settings=["server.getjob_wait=0", "server.getjob_wait_max=0"])
        gaps = [
            float(bench.stamp(f"next{number + 1}.start") or "nan") - float(bench.stamp(f"next{number}.end") or "nan")
            for number in range(runs)
        ]
    table.add("payload's end to next payload's start", gaps, target=0.3, floor=0.02)


def measure_signal(table: Table, python: str, runs: int) -> None:
    """SIGTERM in mid payload."""
    table.title("SIGTERM in mid payload, the payload obeys at once (floor: the payload's own end)")
    reports, exits, payloads = [], [], []
    with Bench(python) as bench:
        script = _sleeper(bench, "mid")
        for _ in range(runs):
            bench.forget("mid.start", "mid.end")
            job = bench.submit(script)
            pilot = bench.start()
            wait_for(lambda: bench.stamp("mid.start"))
            _settle(bench, job)
            sent = time.time()
            pilot.send_signal(signal.SIGTERM)
            pilot.wait()
            exits.append(time.time() - sent)
            payloads.append((bench.stamp("mid.end") or float("nan")) - sent)
            reports.append(bench.final_time(job) - sent)
    table.add("signal to final report", reports, target=2, reference=196, floor=_middle(payloads))
    table.add("signal to exit", exits, target=3, reference=204, floor=_middle(payloads))


def measure_kill(table: Table, python: str, runs: int) -> None:
    """``tobekilled`` in the answer to a heartbeat; heartbeats come once a second here."""
    table.title("tobekilled seen in the answer to a heartbeat (floor: the payload's own end)")
    payloads, reports, exits, nexts = [], [], [], []
    for timefloor in (0, 60):
        with Bench(python, queue={"timefloor": timefloor}) as bench:
            script, follower = _sleeper(bench, "victim"), str(bench.payload("follower"))
            for _ in range(runs):
                bench.forget("victim.start", "victim.end", "follower.start")
                job = bench.submit(script)
                pilot = bench.start("-x", "1", settings=["pilot.heartbeat=1", "server.getjob_wait=0"])
                wait_for(lambda: bench.stamp("victim.start"))
                if timefloor:
                    bench.submit(follower)
                seen, dead = _kill(bench, job)
                pilot.wait()
                gone = time.time()
                final = bench.final_time(job)
                payloads.append(dead - seen)
                reports.append(final - seen)
                if timefloor:
                    nexts.append((bench.stamp("follower.start") or float("nan")) - final)
                else:
                    exits.append(gone - final)
    table.add("seen to final report", reports, target=3, reference=140, floor=_middle(payloads))
    table.add("final report to exit, no further job (timefloor 0)", exits, target=1, reference=7)
    table.add("final report to the next job's payload (timefloor 60 min)", nexts, target=1)


def _kill(bench: Bench, job: int) -> Tuple[float, float]:
    """Kill a job on the server; returns the times when the pilot was told and when the payload ended."""
    _settle(bench, job)
    bench.call("POST", f"jobs/{job}/kill")
    dead = wait_for(lambda: bench.stamp("victim.end"))
    told = [item["_time"] for item in bench.job(job)["updates"] if "tobekilled" in str(item["_command"])]
    return float(told[0]), float(dead or 0)


def _settle(bench: Bench, job: int) -> None:
    """Wait until the server knows that the payload runs."""
    wait_for(lambda: any(item.get("state") == "running" for item in bench.job(job)["updates"]))


def _middle(values: List[float]) -> float:
    return sorted(values)[len(values) // 2]


def measure_many(table: Table, python: str, pilots: int) -> None:
    """Many pilots at once against one server: is anything lost?"""
    table.title(f"{pilots} pilots at once, one server, payload `true`")
    with Bench(python) as bench:
        jobs = [bench.submit("/bin/true") for _ in range(pilots)]
        began = time.monotonic()
        running: List[subprocess.Popen[bytes]] = [bench.start("-x", "1") for _ in range(pilots)]
        codes = [process.wait() for process in running]
        wall = time.monotonic() - began
        reported = sum((bench.job(job)["final"] or {}).get("state") == "finished" for job in jobs)
    table.add("wall until all have ended", [wall], note=f"{pilots / wall:.1f} pilots/s")
    table.add("wall per pilot", [wall / pilots])
    table.add("jobs without a final report", [pilots - reported], "", target=0)
    table.add("pilots that did not exit with 0", [sum(code != 0 for code in codes)], "", target=0)
