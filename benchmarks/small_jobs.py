"""Start-up, the road of a job without files, the way out: the pilot's own cost per job."""

from __future__ import annotations

import statistics
import subprocess
from typing import Any, Dict, List

from figures import Table
from rig import QUEUE, Bench, Ended


def floors(bench: Bench, runs: int) -> Dict[str, float]:
    """Medians in s of what cannot be undercut: bare Python, the dependencies, a shell script with a job's requests."""

    def median(command: List[str], what: str) -> float:
        return statistics.median(getattr(bench.measured(command, bench.home()), what) for _ in range(runs))

    json_post = "curl -s -o /dev/null -H 'Content-Type: application/json' -d"
    script = bench.directory / "floor.sh"
    script.write_text(
        f'{json_post} \'{{"site_name": "{QUEUE}", "prod_source_label": "managed"}}\' '
        f"{bench.url}/api/v1/pilot/acquire_jobs\n"
        f'true\n{json_post} \'{{"job_id": 1, "job_status": "finished"}}\' {bench.url}/api/v1/pilot/update_job\n'
    )
    imports = [bench.python, "-c", "import requests, psutil, yaml"]
    found = {
        "python": median([bench.python, "-c", ""], "wall"),
        "imports": median(imports, "wall"),
        "imports_cpu": median(imports, "cpu"),
    }
    script_command = ["sh", str(script)]
    if subprocess.run(["which", "curl"], stdout=subprocess.DEVNULL, check=False).returncode == 0:
        found.update(script=median(script_command, "wall"), script_cpu=median(script_command, "cpu"))
    else:
        found.update(script=0.05, script_cpu=0.04)
    return found


def one_true_job(bench: Bench, *options: str, **how: Any) -> Ended:
    """Submit a job with payload ``true`` and run a pilot for it."""
    job = bench.submit("/bin/true")
    ended = bench.run(*options, **how)
    bench.final_time(job)
    return ended


def measure(table: Table, python: str, runs: int) -> None:
    """Payload ``true`` without files, and no job on the server."""
    with Bench(python) as bench:
        floor = floors(bench, max(3, runs // 2))
        table.title("one job with payload `true`, no files, loopback server (floor: shell script with curl)")
        one_true_job(bench)  # byte code, page cache
        ended = [one_true_job(bench) for _ in range(runs)]
        table.add(
            "start of pilot.py to exit",
            [item.wall for item in ended],
            target=0.6,
            reference=66.9,
            floor=floor["script"],
        )
        table.add(
            "CPU of pilot and helpers",
            [item.cpu for item in ended],
            target=0.30,
            reference=0.42,
            floor=floor["script_cpu"],
        )
        table.add(
            "  the same, floor: bare import of the dependencies",
            [item.cpu for item in ended],
            target=0.30,
            reference=0.42,
            floor=floor["imports_cpu"],
        )
        table.add(
            "peak RSS of the pilot",
            [item.rss * 1024 / 1e6 for item in ended],
            "MB",
            target=38,
            reference=39.8,
            floor=28.3,
        )
        asked = [
            sum(
                item["operation"] not in ("queuedata", "trf")
                for item in bench.requests(run.started)
                if item["time"] <= run.ended
            )
            for run in ended
        ]
        table.add("API requests beside queue data and transform", asked, "", target=6, floor=2)
        _road(table, bench, runs)
        table.title("no job on the server, -x 1 (floor: bare import of the dependencies)")
        ended = [bench.run("-x", "1") for _ in range(runs)]
        table.add("start to exit", [item.wall for item in ended], target=0.5, reference=66.0, floor=floor["imports"])
        table.add("CPU", [item.cpu for item in ended], target=0.25, floor=floor["imports_cpu"])


def _road(table: Table, bench: Bench, runs: int) -> None:
    """The gaps of one job's road, from the server's request times, the payload's stamps and the exit."""
    script = bench.payload("road")
    firsts, starts, reports, exits = [], [], [], []
    for _ in range(runs):
        job = bench.submit(str(script))
        ended = bench.run()
        start, finish = bench.stamp("road.start"), bench.stamp("road.end")
        assert start is not None and finish is not None
        granted = next(item["time"] for item in bench.requests(ended.started) if item["operation"] == "acquire_jobs")
        final = bench.final_time(job)
        firsts.append(granted - ended.started)
        starts.append(start - granted)
        reports.append(final - finish)
        exits.append(ended.ended - final)
    table.add("start to getJob", firsts, reference=0.73, floor=0.12)
    table.add(
        "getJob asked to payload's first line (bash, ~3 ms, included)", starts, target=0.05, reference=0.03, floor=0.02
    )
    table.add("payload's last line to final report", reports, target=0.1, reference=2.1, floor=0.01)
    table.add("final report to exit", exits, target=0.1, reference=55, floor=0.002)


def measure_https(table: Table, python: str, runs: int) -> None:
    """The same job by https with a client certificate; CA directory as on the grid, CA file as large as a browser's."""
    from certificates import make_certificates

    with Bench(python) as plain:
        one_true_job(plain)
        base = [one_true_job(plain) for _ in range(runs)]
        files = make_certificates(plain.directory)
        serve = [
            "--cert",
            str(files.host),
            "--ca",
            str(files.authority),
            "--auth",
            "cert",
            "--production-dn",
            "CN=Robot",
        ]
        with Bench(python, serve=serve) as bench:
            table.title("the `true` job by https with a client certificate (reference: our own figure by http)")
            for what, where in (("CA directory", files.directory), ("CA file of 140 CAs", files.bundle)):
                how: Dict[str, Any] = {
                    "url": bench.https_url,
                    "env": {"X509_USER_PROXY": str(files.client), "X509_CERT_DIR": str(where)},
                }
                one_true_job(bench, **how)
                ended = [one_true_job(bench, **how) for _ in range(runs)]
                for name, mine, theirs, unit in (
                    ("wall", [item.wall for item in ended], [item.wall for item in base], "s"),
                    ("CPU", [item.cpu for item in ended], [item.cpu for item in base], "s"),
                    ("peak RSS", [item.rss * 1.024e-3 for item in ended], [item.rss * 1.024e-3 for item in base], "MB"),
                ):
                    table.add(f"{what}: {name}", mine, unit, reference=sorted(theirs)[len(theirs) // 2])
