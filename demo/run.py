"""The demo: a PanDA server, three jobs on real files, three pilots at once, and a table of what happened.

::

    demo/jobs/*.json ──submit──► sandbox ◄──getJob, updateJob── pilot.py (three, in demo-run/pilot-1 .. 3)
                                  stage-in from demo-run/inputs, transforms from demo/trf, stage-out to demo-run/outputs

Exit code 0 when everything was as expected: results, diagnosis, sizes, checksums and contents of the outputs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, Optional

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from pilot.store.pilotdb import DATABASE_NAME, PilotDB  # noqa: E402

MARKER = ".made-by-the-demo"
"""File that says: this directory may be wiped."""
PATIENCE = 120.0
"""Seconds after which a pilot that has not ended is given up."""


class Expected(NamedTuple):
    """What a job has to come to: state at the server, pilot error code, text in the diagnosis, payload's exit code."""

    state: str
    code: int = 0
    diagnosis: str = ""
    exit_code: int = 0


JOBS = {
    "count-words": Expected("finished"),
    "fails": Expected("failed", 1305, "no calibration constants for run 4711 in part-00.txt", 3),
    "merge": Expected("finished"),
}


class Server:
    """The sandbox as a process of its own."""

    def __init__(self, run: Path) -> None:
        command = [sys.executable, "-m", "sandbox", "serve", "--port", "0", "--db", str(run / "server.db"),
                   "--trf", str(HERE / "trf"), "--adder-delay", "0.1"]
        with open(run / "server.log", "wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                            stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "listening on " not in line:
            raise SystemExit(f"demo: the sandbox did not start, see {run / 'server.log'}")
        self.url = line.split()[2]
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by a site's web proxy

    def call(self, path: str, data: Optional[object] = None) -> Any:
        """GET, or POST with data, to the admin interface."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{self.url}/sandbox/api/{path}", body, {"Content-Type": "application/json"})
        with self._opener.open(request, timeout=30) as reply:
            return json.load(reply)

    def close(self) -> None:
        """End the process."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)


# --- before -----------------------------------------------------------------------------------------------------------


def make_inputs(directory: Path) -> None:
    """Two books of some MB, and twenty files of unsorted numbers; the same in every run."""
    directory.mkdir()
    source = random.Random(2013)
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyzäöü", k=source.randint(2, 12))) for _ in range(5000)]
    for index in (1, 2):
        lines = (" ".join(source.choices(words, k=12)) for _ in range(40_000))
        (directory / f"book-{index}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for index in range(20):
        numbers = "".join(f"{source.randrange(10**9)}\n" for _ in range(25_000))
        (directory / f"part-{index:02d}.txt").write_text(numbers, encoding="ascii")


def adler32(path: Path) -> str:
    """Checksum as PanDA writes it: eight hexadecimal digits."""
    return f"{zlib.adler32(path.read_bytes()):08x}"


def definition(name: str, base: str, inputs: Path) -> dict[str, object]:
    """Read a job definition and add what a data catalogue would know of its inputs: size, checksum, GUID."""
    text = (HERE / "jobs" / f"{name}.json").read_text(encoding="utf-8")
    job: dict[str, object] = json.loads(text.replace("{base}", base))
    paths = [inputs / lfn for lfn in str(job["inFiles"]).split(",")]
    job["fsize"] = ",".join(str(path.stat().st_size) for path in paths)
    job["checksum"] = ",".join(f"ad:{adler32(path)}" for path in paths)
    job["GUID"] = ",".join(str(uuid.uuid5(uuid.NAMESPACE_URL, path.name)) for path in paths)
    return job


def start_pilot(number: int, url: str, run: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Start one pilot as a batch system would: in a directory of its own."""
    directory = run / f"pilot-{number}"
    directory.mkdir()
    command = [
        sys.executable, str(ROOT / "pilot.py"), "--pilot-user", "generic", "-q", "DEMO", "-j", "managed", "--url", url,
        "-t", "-b", "-g", f"{url}/trf", "--input-dir", str(run / "inputs"), "--output-dir", str(run / "outputs"),
    ]
    # the pilot notes its job ids beside pilot.py, for the wrapper; here it shall not write into the checkout
    environ = {**os.environ, "PANDA_PILOT_SOURCE": str(directory), "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
    with open(directory / "stdout.txt", "wb") as stdout:
        process = subprocess.Popen(command, cwd=directory, env=environ, stdin=subprocess.DEVNULL, stdout=stdout,
                                   stderr=subprocess.STDOUT)
    return process, directory


# --- after ------------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A line of the table; times in s, sizes in bytes."""

    name: str
    job_id: int
    directory: Path
    state: str
    code: int
    diagnosis: str
    exit_code: int
    files_in: int
    files_out: int
    bytes_in: int
    bytes_out: int
    times: tuple[float, ...]


def read_row(name: str, job_id: int, directory: Path, server: Server) -> Row:
    """Put together what the server knows of the job and what the pilot's data base tells."""
    view = server.call(f"jobs/{job_id}")
    final = view.get("final") or {}
    store = PilotDB(directory / DATABASE_NAME, read_only=True)
    try:
        pilot = store.pilots()[-1]
        job = next(row for row in store.jobs() if row.job_id == str(job_id))
        story = store.story(str(job_id))
        moved = [item for item in store.transfers(str(job_id)) if not item["code"]]
        began, ended = float(str(pilot["started"])), float(str(pilot["ended"]))
    finally:
        store.close()
    incoming = [item for item in moved if item["direction"] == "stage-in"]
    outgoing = [item for item in moved if item["direction"] != "stage-in"]
    # when each stage was entered; a stage that a job has left out takes no time
    marks = [began, job.granted, *(at for at, _, stage, _ in story)]
    spans: Counter[str] = Counter()
    for (at, _, stage, _), until in zip(story, [*(item[0] for item in story[1:]), ended]):
        spans[stage] += until - at
    times = (marks[1] - began, spans["stagein"], spans["payload"], spans["stageout"], ended - began)
    bytes_in, bytes_out = (sum(int(str(item["bytes"])) for item in items) for items in (incoming, outgoing))
    return Row(name, job_id, directory, str(view["state"]), int(final.get("pilotErrorCode") or 0),
               str(final.get("pilotErrorDiag") or ""), int(final.get("transExitCode") or 0), len(incoming),
               len(outgoing), bytes_in, bytes_out, times)


def problems_of(row: Row, run: Path, server: Server) -> list[str]:
    """Compare a job with what it has to come to; returns what is wrong."""
    expected = JOBS[row.name]
    found = []
    for what, value, wanted in (("state", row.state, expected.state), ("pilot error code", row.code, expected.code),
                                ("payload exit code", row.exit_code, expected.exit_code)):
        if value != wanted:
            found.append(f"{row.name}: {what} is {value}, expected {wanted}")
    if expected.diagnosis not in row.diagnosis:
        found.append(f"{row.name}: the diagnosis {row.diagnosis!r} does not say {expected.diagnosis!r}")
    report = json.loads((server.call(f"jobs/{row.job_id}").get("final") or {}).get("xml") or "{}")
    wanted_files = set(json.loads((HERE / "jobs" / f"{row.name}.json").read_text())["outFiles"].split(","))
    if expected.state == "failed":
        wanted_files = {name for name in wanted_files if name.endswith(".log.tgz")}
    if set(report) != wanted_files:
        found.append(f"{row.name}: the server was told of {sorted(report)}, expected {sorted(wanted_files)}")
    for lfn, facts in report.items():
        path = run / "outputs" / lfn
        if not path.is_file() or (path.stat().st_size, adler32(path)) != (int(facts["fsize"]), facts["adler32"]):
            found.append(f"{row.name}: {path} is not what the server was told: {facts}")
    return found


def problems_of_contents(run: Path) -> list[str]:
    """Look into the outputs: the work has really been done."""
    found = []
    inputs, outputs = run / "inputs", run / "outputs"
    words: Counter[str] = Counter()
    for name in ("book-1.txt", "book-2.txt"):
        words.update((inputs / name).read_text(encoding="utf-8").split())
    try:
        lines = (outputs / "demo.counts.tsv").read_text(encoding="utf-8").splitlines()
        if {word: int(number) for word, number in (line.split("\t") for line in lines)} != dict(words):
            found.append("demo.counts.tsv: wrong counts")
        for index in range(5):
            parts = [inputs / f"part-{number:02d}.txt" for number in range(4 * index, 4 * index + 4)]
            wanted = sorted(int(line) for part in parts for line in part.read_text().splitlines())
            if [int(line) for line in (outputs / f"demo.merged-{index}.txt").read_text().splitlines()] != wanted:
                found.append(f"demo.merged-{index}.txt: wrong contents")
    except (OSError, ValueError) as exc:
        found.append(str(exc))
    return found


def print_table(rows: list[Row], run: Path) -> None:
    """Print one line per job, then the diagnosis of those that failed."""
    head = f"{'job':<12} {'PandaID':<11} {'pilot':<8} {'result':<9} {'files':>6} {'MB in':>6} {'MB out':>6}"
    print(f"\n{head} {'getjob':>7} {'stage-in':>8} {'payload':>8} {'stage-out':>9} {'total s':>8}")
    for row in rows:
        files = f"{row.files_in}>{row.files_out}"
        sizes = f"{row.bytes_in / 1e6:>6.1f} {row.bytes_out / 1e6:>6.1f}"
        getjob, stagein, payload, stageout, total = row.times
        print(f"{row.name:<12} {row.job_id:<11} {row.directory.name:<8} {row.state:<9} {files:>6} {sizes} "
              f"{getjob:>7.2f} {stagein:>8.2f} {payload:>8.2f} {stageout:>9.2f} {total:>8.2f}")
    for row in rows:
        if row.code:
            print(f"\n{row.name} failed, as it has to. The server was told:\n  {row.code} {row.diagnosis}")


def print_directions(rows: list[Row], run: Path, url: str, keep: bool) -> None:
    """Say where to look next."""
    shown, python = os.path.relpath(run), os.path.relpath(sys.executable)
    failed = next((row for row in rows if row.code), rows[0])
    place = os.path.relpath(failed.directory)
    print(f"""
Where to look next:
  {place}/pilotlog.txt   the log of that pilot
  {python} pilot.py --status {place}   the job's story
  {place}/job-{failed.job_id}.html   the same as a page, with errors, files and the final report
  {shown}/outputs/   outputs and job logs (tar -tzf {shown}/outputs/demo.fails.log.tgz)
  demo/jobs/, demo/trf/   the job definitions and what they run""")
    print(f"  {url}/sandbox/   the server's page" if keep else
          "  make demo KEEP=1   the same, and the server goes on: its page, further jobs, further pilots")


def print_invitation(url: str, run: Path) -> None:
    """Say how to go on with the server that is left running."""
    shown, python = os.path.relpath(run), os.path.relpath(sys.executable)
    print(f"""
The server goes on until Ctrl-C: {url}/sandbox/. A further job and a pilot for it:
  echo '{{"transformation": "echo", "jobPars": "hello"}}' | {python} -m sandbox submit --url {url} --site DEMO -
  {python} pilot.py --pilot-user generic -q DEMO -j managed -t -b --url {url} -a {shown}/more \\
    --output-dir {run}/outputs""", flush=True)


def report_pages(directory: Path) -> None:
    """Write the HTML page of the jobs of one pilot."""
    command = [sys.executable, str(ROOT / "pilot.py"), "--report", str(directory)]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=PATIENCE)


# --- the demo ---------------------------------------------------------------------------------------------------------


def run_demo(server: Server, run: Path, keep: bool) -> int:
    """Submit the jobs, run the pilots, compare; returns the exit code."""
    job_ids = {}
    for name in JOBS:
        job_ids[name] = server.call("jobs", {"definition": definition(name, server.url, run / "inputs")})["PandaID"]
    print(f"server: {server.url}; jobs: {', '.join(f'{name} {job_id}' for name, job_id in job_ids.items())}")
    print("three pilots run ...", flush=True)
    problems = []
    pilots = [start_pilot(number, server.url, run) for number in range(1, len(JOBS) + 1)]
    for process, directory in pilots:
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code:
            problems.append(f"{directory.name}: exit code {code}, see {directory}/stdout.txt")
    # the server looks at finished jobs a moment after the pilots' reports
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(job["state"] == "holding" for job in server.call("jobs")):
        time.sleep(0.1)
    rows = []
    for name, job_id in job_ids.items():
        place = next((directory for _, directory in pilots if _has_job(directory, job_id)), None)
        if place is None:
            problems.append(f"{name}: no pilot has run job {job_id}")
            continue
        report_pages(place)
        rows.append(read_row(name, job_id, place, server))
        problems += problems_of(rows[-1], run, server)
    problems += problems_of_contents(run)
    if rows:
        print_table(rows, run)
        print_directions(rows, run, server.url, keep)
    for problem in problems:
        print(f"NOT AS EXPECTED: {problem}", file=sys.stderr)
    if not problems:
        print("\nEverything is as expected: results, diagnosis, sizes, checksums and contents of all outputs.")
    return 1 if problems else 0


def _has_job(directory: Path, job_id: int) -> bool:
    path = directory / DATABASE_NAME
    if not path.exists():
        return False
    store = PilotDB(path, read_only=True)
    try:
        return any(row.job_id == str(job_id) for row in store.jobs())
    finally:
        store.close()


def main() -> int:
    """Run the demo in ./demo-run, which is wiped before."""
    parser = argparse.ArgumentParser(description="Three jobs through a PanDA server, pilots and back.")
    parser.add_argument("--keep", action="store_true", help="leave the server running until Ctrl-C")
    parser.add_argument("--directory", type=Path, default=ROOT / "demo-run", help="wiped at the start [./demo-run]")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server has to go with the demo
    run = args.directory.resolve()
    if run.exists() and any(run.iterdir()) and not (run / MARKER).exists():
        parser.error(f"{run} is not the directory of an earlier demo: it is not wiped")
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    (run / MARKER).touch()
    print(f"making inputs in {run / 'inputs'}", flush=True)
    make_inputs(run / "inputs")
    server = Server(run)
    try:
        server.call("queues/DEMO", json.loads((HERE / "queue.json").read_text()))
        code = run_demo(server, run, args.keep)
        if args.keep:
            print_invitation(server.url, run)
            server.process.wait()
    except KeyboardInterrupt:
        code = 130
    finally:
        server.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
