"""The grid demo: a job from a dataset in Rucio to outputs in Rucio, on services of this machine (docs/grid-testbed.md).

::

    books ──upload──► Rucio dataset, files on XRootD
                        │ replicas                        ┌── registered here: what the PanDA server does
                        ▼                                 │
    sandbox ──job──► pilot: stage-in, payload, stage-out ─┴─► Rucio dataset, replicas, rule
                        └── traces ──► Rucio server ──► message broker

Exit code 0 when every step has been seen to happen, in Rucio, on the storage and at the broker.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(HERE)]

from run import MARKER, PATIENCE, Server, adler32, make_inputs  # noqa: E402

from pilot.store.pilotdb import DATABASE_NAME, PilotDB  # noqa: E402
from tests.grid.testbed.names import use_local_names  # noqa: E402
from tests.grid.testbed.rucio import Rucio  # noqa: E402
from tests.grid.testbed.service import BrokenService, MissingService  # noqa: E402
from tests.grid.testbed.site import queue, storages  # noqa: E402
from tests.grid.testbed.testbed import Testbed, new_directory  # noqa: E402

QUEUE = "DEMO_GRID"
RSE = "TB_XROOTD"
SCOPE_IN, SCOPE_OUT = "mc23", "user.pilot"
BOOKS = ("book-1.txt", "book-2.txt")


class NotSeen(Exception):
    """Something that has to happen has not; the text says what and where to look."""


def say(step: str, text: str) -> None:
    """Show one thing that has happened."""
    print(f"{step:<10} {text}", flush=True)


class Demo:
    """One run: ``tag`` makes its names in Rucio its own."""

    def __init__(self, rucio: Rucio, server: Server, run: Path, tools: list[str]) -> None:
        self.rucio, self.server, self.run, self.tools = rucio, server, run, tools
        tag = uuid.uuid4().hex[:8]
        self.inputs = {f"{tag}.{name}": run / "inputs" / name for name in BOOKS}
        self.dataset_in, self.dataset_out = f"demo.books.{tag}", f"{SCOPE_OUT}.demo.counts.{tag}"
        self.outputs = [f"{tag}.counts.tsv", f"{tag}.lengths.tsv"]
        self.log = f"{tag}.log.tgz"
        self.job = 0

    # --- before -------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Put the inputs into Rucio, as an earlier task would have."""
        for name, path in self.inputs.items():
            self.rucio.upload(path, RSE, SCOPE_IN, name)
        self.rucio.call("add_dataset", SCOPE_IN, self.dataset_in)
        files = [{"scope": SCOPE_IN, "name": name} for name in self.inputs]
        self.rucio.call("attach_dids", SCOPE_IN, self.dataset_in, files)
        size = sum(path.stat().st_size for path in self.inputs.values())
        say("dataset", f"{SCOPE_IN}:{self.dataset_in} with {len(self.inputs)} files, {size / 1e6:.1f} MB")
        for replica in self.rucio.replicas(SCOPE_IN, self.dataset_in):
            say("", f"{next(iter(replica['pfns']))}")

    def submit(self) -> None:
        """Give the queue and the job to the server, the storages to a file for the pilot."""
        self.server.call(f"queues/{QUEUE}", queue(QUEUE, self.tools, RSE))
        (self.run / "storages.json").write_text(json.dumps(storages(self.rucio), indent=1), encoding="utf-8")
        guids = [self.rucio.call("get_metadata", SCOPE_IN, name)["guid"] or str(uuid.uuid4()) for name in self.inputs]
        paths, leaving = list(self.inputs.values()), [*self.outputs, self.log]
        definition = {
            "jobName": "demo.grid", "computingSite": QUEUE, "prodSourceLabel": "managed",
            "transformation": f"{self.server.url}/trf/count_words.py",
            "jobPars": f"--counts {self.outputs[0]} --lengths {self.outputs[1]} {' '.join(self.inputs)}",
            "inFiles": ",".join(self.inputs), "scopeIn": ",".join([SCOPE_IN] * len(paths)), "GUID": ",".join(guids),
            "fsize": ",".join(str(path.stat().st_size) for path in paths),
            "checksum": ",".join(f"ad:{adler32(path)}" for path in paths),
            "realDatasetsIn": ",".join([self.dataset_in] * len(paths)), "ddmEndPointIn": ",".join([RSE] * len(paths)),
            "outFiles": ",".join(leaving), "scopeOut": ",".join([SCOPE_OUT] * len(self.outputs)),
            "logFile": self.log, "scopeLog": SCOPE_OUT, "ddmEndPointOut": ",".join([RSE] * len(leaving)),
            "realDatasets": ",".join([self.dataset_out] * len(leaving)),
        }
        self.job = self.server.call("jobs", {"definition": definition})["PandaID"]
        say("job", f"{self.job} on queue {QUEUE}: copytools {', '.join(self.tools)}, storage {RSE}")

    # --- the pilot ----------------------------------------------------------------------------------------------------

    def run_pilot(self) -> None:
        """Run one pilot to its end, with the proxy of account ``pilot``."""
        directory = self.run / "pilot"
        directory.mkdir()
        url = self.rucio.x509_url
        command = [
            sys.executable, str(ROOT / "pilot.py"), "--pilot-user", "generic", "-q", QUEUE, "-j", "managed",
            "--url", self.server.url, "-b", "-t", "-g", f"{self.server.url}/trf", "--rucio-host", url,
            "--storagedata-url", str(self.run / "storages.json"), "--set", f"rucio.url={self.rucio.url}/traces/",
        ]
        environ = {**os.environ, **self.rucio.x509_env, "PANDA_PILOT_SOURCE": str(directory),
                   "no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}
        began = time.monotonic()
        with open(directory / "stdout.txt", "wb") as stdout:
            process = subprocess.Popen(command, cwd=directory, env=environ, stdin=subprocess.DEVNULL, stdout=stdout,
                                       stderr=subprocess.STDOUT)
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise NotSeen(f"the pilot has not ended within {PATIENCE:.0f} s, see {directory}/stdout.txt") from None
        if code:
            raise NotSeen(f"the pilot ended with {code}, see {directory}/stdout.txt")
        took = time.monotonic() - began
        say("pilot", f"ended after {took:.1f} s with exit code 0, {os.path.relpath(directory)}/pilotlog.txt")
        store = PilotDB(directory / DATABASE_NAME, read_only=True)
        try:
            moved = store.transfers(str(self.job))
        finally:
            store.close()
        for item in moved:
            say(str(item["direction"]), f"{item['lfn']}: {item['status']} by {item['tool']} in {item['seconds']:.2f} s")

    def final_report(self) -> dict[str, dict[str, Any]]:
        """What the server was told of the outputs: name, and size, checksum, GUID, URL of each."""
        deadline = time.monotonic() + 10
        while (view := self.server.call(f"jobs/{self.job}"))["state"] == "holding" and time.monotonic() < deadline:
            time.sleep(0.1)
        final = view.get("final") or {}
        if view["state"] != "finished":
            raise NotSeen(f"the job is {view['state']}: {final.get('pilotErrorCode')} {final.get('pilotErrorDiag')}")
        report: dict[str, dict[str, Any]] = json.loads(final["xml"])
        missing = {*self.outputs, self.log} - set(report)
        if missing:
            raise NotSeen(f"the server was not told of {sorted(missing)}")
        say("job", f"{self.job} has finished, the server knows of {len(report)} files")
        return {name: report[name] for name in (*self.outputs, self.log)}

    # --- after --------------------------------------------------------------------------------------------------------

    def register(self, report: dict[str, dict[str, Any]]) -> str:
        """What the server does with the report: replicas, dataset, rule. Returns the rule's id."""
        files = [{"scope": SCOPE_OUT, "name": name, "bytes": int(facts["fsize"]), "adler32": facts["adler32"],
                  "meta": {"guid": facts["guid"].replace("-", "")}} for name, facts in report.items()]
        self.rucio.call("add_replicas", RSE, files)
        self.rucio.call("add_dataset", SCOPE_OUT, self.dataset_out)
        self.rucio.call("attach_dids", SCOPE_OUT, self.dataset_out,
                        [{"scope": SCOPE_OUT, "name": name} for name in report])
        (rule,) = self.rucio.call("add_replication_rule", [{"scope": SCOPE_OUT, "name": self.dataset_out}], 1, RSE)
        return str(rule)

    def check_outputs(self, report: dict[str, dict[str, Any]]) -> None:
        """Fetch the outputs through Rucio, compare sizes, checksums and contents."""
        replicas = {replica["name"]: replica for replica in self.rucio.replicas(SCOPE_OUT, self.dataset_out)}
        place = self.run / "outputs"
        for name, facts in report.items():
            replica = replicas.get(name) or {}
            if replica.get("states") != {RSE: "AVAILABLE"} or replica.get("adler32") != facts["adler32"]:
                raise NotSeen(f"no replica of {name} with checksum {facts['adler32']} in Rucio: {replica}")
            (url,) = replica["pfns"]
            if facts.get("surl") and facts["surl"] != url:
                raise NotSeen(f"the server was told that {name} is {facts['surl']}, Rucio expects it at {url}")
            wanted = {"did": f"{SCOPE_OUT}:{name}", "base_dir": str(place), "no_subdir": True}
            self.rucio.call("download_dids", [wanted])
            if adler32(place / name) != facts["adler32"]:
                raise NotSeen(f"{url} has not the checksum {facts['adler32']} that the server was told")
            say("replica", f"{facts['adler32']} {int(facts['fsize']):>9,} B  {url}")
        words = Counter(word for path in self.inputs.values() for word in path.read_text(encoding="utf-8").split())
        lines = (place / self.outputs[0]).read_text(encoding="utf-8").splitlines()
        if {word: int(number) for word, number in (line.split("\t") for line in lines)} != dict(words):
            raise NotSeen(f"{place / self.outputs[0]} does not hold the counts of the inputs")
        say("contents", f"{sum(words.values()):,} words counted, as they are in the inputs")

    def check_rule(self, rule: str) -> None:
        """See the rule in Rucio."""
        facts = self.rucio.call("get_replication_rule", rule)
        state, files = facts["state"], facts["locks_ok_cnt"]
        if state != "OK" or files != len(self.outputs) + 1:
            raise NotSeen(f"rule {rule}: state {state}, {files} files locked")
        say("rule", f"{rule} on {facts['name']}: {state}, {files} files at {facts['rse_expression']}")

    def check_traces(self) -> None:
        """See a trace of every file that was moved at the message broker."""
        moved = {**dict.fromkeys(self.inputs, "get_sm"), **dict.fromkeys([*self.outputs, self.log], "put_sm")}

        def wanted(trace: dict[str, Any]) -> bool:
            return trace.get("clientState") == "DONE" and str(trace.get("appid")) == str(self.job)

        try:
            traces = self.rucio.traces(wanted, len(moved))
        except BrokenService as reason:
            raise NotSeen(f"not every file has a trace: {reason}") from None
        for trace in traces:
            name, event = trace["filename"], trace["eventType"]
            if moved.pop(name, None) != event.partition("_a")[0] or trace["remoteSite"] != RSE:  # _a: a user's job
                raise NotSeen(f"this trace is wrong: {trace}")
            say("trace", f"{event} {name}: {trace['clientState']} by {trace['protocol']} at {RSE}, job {self.job}")


def run_demo(demo: Demo) -> None:
    """All steps, each shown; NotSeen when one is missing."""
    demo.prepare()
    demo.submit()
    demo.run_pilot()
    report = demo.final_report()
    rule = demo.register(report)
    demo.check_outputs(report)
    demo.check_rule(rule)
    demo.check_traces()


def main() -> int:
    """Run the demo in ./demo-grid-run, which is wiped before."""
    parser = argparse.ArgumentParser(description="A job from Rucio to Rucio, on services of this machine.")
    parser.add_argument("--copytools", default="rucio,xrdcp", help="of the queue, the first one first [%(default)s]")
    parser.add_argument("--directory", type=Path, default=ROOT / "demo-grid-run",
                        help="wiped at the start [./demo-grid-run]")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # services and server have to go with the demo
    run = args.directory.resolve()
    if run.exists() and any(run.iterdir()) and not (run / MARKER).exists():
        parser.error(f"{run} is not the directory of an earlier demo: it is not wiped")
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    (run / MARKER).touch()
    make_inputs(run / "inputs")
    services = new_directory()
    use_local_names(services)
    testbed = Testbed(services)
    server = None
    try:
        began = time.monotonic()
        rucio = testbed.rucio
        names = ", ".join(service.name for service in testbed.running)
        say("services", f"{names}: started in {time.monotonic() - began:.1f} s")
        server = Server(run)
        run_demo(Demo(rucio, server, run, args.copytools.split(",")))
    except (NotSeen, MissingService, BrokenService) as reason:
        print(f"NOT AS EXPECTED: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if server:
            server.close()
        testbed.stop()
        shutil.rmtree(services, ignore_errors=True)
    print("\nEverything is as expected: dataset, replicas, contents, rule and traces.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
