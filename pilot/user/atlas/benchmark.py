"""The benchmark suite of CERN beside a fraction of the jobs (setting ``monitor.benchmark_fraction``, off by default).

The result is sent to a collector (``monitor.benchmark_url``) and goes into the job report, at
``resource.machine.benchmark``. It never costs a job anything but its share of the cores. Source: payload document 20.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from pilot.info.payloadtask import UtilityCommand
from pilot.user.atlas.asetup import REPOSITORY, cvmfs_base
from pilot.util.checksum import open_regular
from pilot.util.copying import placed

if TYPE_CHECKING:
    from pilot.info.payloadtask import PayloadTask

logger = logging.getLogger(__name__)

LABEL = "benchmark"
RESULT = Path("benchmark") / "bmk_tmp" / "result_profile.json"
_PLACE = "benchmarks/cern/current"
_LIMIT = 1 << 20
_REPORT_LIMIT = 50 << 20
_POST_SECONDS = 20.0
_DROPPED = ("osdist", "pnode", "freetext", "classification", "UID")


def benchmark(task: PayloadTask, chance: float) -> Sequence[UtilityCommand]:
    """Return the command of the suite when ``chance`` (0 to 1) is below the fraction of jobs that run it."""
    if chance >= task.settings.monitor.benchmark_fraction:
        return ()
    path = f"{cvmfs_base(task.environ)}/{REPOSITORY}/{_PLACE}"
    if not os.path.exists(f"{path}/cern-benchmark"):
        logger.info("job %s: no benchmark: there is no %s", task.job.jobid, path)
        return ()
    cloud = str(task.job.definition.get("cloud") or "")
    line = (
        f"export CVMFS_BASE_PATH={shlex.quote(path)};"
        f"export BMK_LOGDIR={shlex.quote(str(task.workdir / LABEL))};export BMK_ROOTDIR=$CVMFS_BASE_PATH;"
        "$CVMFS_BASE_PATH/cern-benchmark --benchmarks='whetstone;fastBmk' --topic=/topic/vm.spec"
        f"{f' --cloud={shlex.quote(cloud)}' if cloud else ''} --vo=ATLAS -o"
        f"{f' --mp_num={task.job.corecount}' if task.job.corecount > 0 else ''} --public_ip=$(hostname -i)")
    return (UtilityCommand(LABEL, line),)


def chance() -> float:
    """Return a random number from 0 to 1."""
    return random.random()


def read_result(task: PayloadTask) -> Optional[dict[str, Any]]:
    """Return the result as the collector wants it; None when there is none that can be used."""
    raw = _json(task.workdir / RESULT, _LIMIT)
    if raw is None:
        return None
    metadata = {key: value for key, value in _section(raw, "metadata").items() if key not in _DROPPED}
    metadata.update(node=os.uname().nodename, ATLASSite=task.queue.site, PanDAQueue=task.queue.name,
                    PanDAID=task.job.jobid, **machine())
    profiles = _section(raw, "profiles")
    scores = {}
    for name, key in (("whetstone", "score"), ("fastBmk", "value")):
        number = _number(_section(profiles, name).get(key))
        if number is not None:
            scores[name] = {key: number}
    result: dict[str, Any] = {"metadata": metadata, "profiles": scores, "type": "BenchmarkData"}
    if "_timestamp" in raw:
        result["timestamp"] = raw["_timestamp"]
    return result


def publish(task: PayloadTask) -> None:
    """Send the result to the collector, in the background: nobody waits for that."""
    url, result = task.settings.monitor.benchmark_url, read_result(task)
    if not url or result is None:
        return
    import threading

    verify = task.settings.server.verify_tls
    threading.Thread(target=_post, args=(url, result, verify), name="benchmark", daemon=True).start()


def _post(url: str, result: Mapping[str, Any], verify: bool) -> None:
    import requests

    try:
        answer = requests.post(url, json=result, timeout=_POST_SECONDS, verify=verify)
        logger.info("benchmark sent to %s: HTTP %d", url, answer.status_code)
    except (requests.RequestException, ValueError) as exc:
        logger.warning("benchmark could not be sent to %s: %s", url, exc)


def add_to_report(task: PayloadTask) -> None:
    """Put the result into the job report, before that is read."""
    result = read_result(task)
    path = task.workdir / task.settings.payload.jobreport
    report = _json(path, _REPORT_LIMIT) if result is not None else None
    if report is None:
        return
    place = report
    for key in ("resource", "machine"):
        if not isinstance(place.setdefault(key, {}), dict):
            return
        place = place[key]
    place["benchmark"] = result
    try:
        with placed(path) as part:
            part.write_text(json.dumps(report), encoding="utf-8")
    except (OSError, ValueError, RecursionError) as exc:
        logger.warning("job %s: the benchmark does not get into %s: %s", task.job.jobid, path.name, exc)


def machine(text: Optional[str] = None) -> dict[str, Any]:
    """Return threadsPerCore, coresPerSocket, sockets and isAVM of this node, from /proc/cpuinfo (or ``text``)."""
    if text is None:
        try:
            text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
        except OSError:
            text = ""
    facts: dict[str, set[str]] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), set()).add(value.strip())
    siblings, cores = (int(min(facts.get(name, {"1"})) or 1) for name in ("siblings", "cpu cores"))
    return {"threadsPerCore": max(1, siblings // max(1, cores)), "coresPerSocket": cores,
            "sockets": len(facts.get("physical id", {"0"})),
            "isAVM": any("hypervisor" in value.split() for value in facts.get("flags", set()))}


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = tree.get(name)
    return value if isinstance(value, dict) else {}


def _number(value: object) -> Optional[float]:
    try:
        number = float(value)  # type: ignore[arg-type]  # whatever it is
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _json(path: Path, limit: int) -> Optional[dict[str, Any]]:
    """Return the JSON object in a regular file, None when there is none."""
    try:
        with os.fdopen(open_regular(path, links=False), "rb") as stream:
            content = stream.read(limit + 1)
        tree = json.loads(content) if len(content) <= limit else None
    except (OSError, ValueError, RecursionError):
        return None
    return tree if isinstance(tree, dict) else None
