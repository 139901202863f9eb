"""Whole pilots with copytools of a plug-in: which tool and which endpoint a file gets, fail-over, limits, aborts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import Farm, Pilot
from looks import ended_well, report_of
from shelves import PLUGINS

from pilot.staging.destination import deterministic_path

ALL_TOOLS = {"copytools": {name: {} for name in (*PLUGINS, "debug", "mv")}}


class Shelves:
    """Endpoints ONE and TWO on disk, and a queue that uses them."""

    def __init__(self, farm: Farm, directory: Path) -> None:
        self.farm, self.directory = farm, directory
        self.document = directory / "ddm.json"
        rows = {}
        for number, name in enumerate(("ONE", "TWO"), 1):
            (directory / name).mkdir()
            protocol = {"endpoint": "file://localhost", "path": str(directory / name), "id": number}
            protocols = {f"{way}_{net}": [protocol] for way in ("read", "write") for net in ("lan", "wan")}
            rows[name] = {"id": number, "is_deterministic": True, "site": f"SITE_{name}", "arprotocols": protocols}
        self.document.write_text(json.dumps(rows))

    def queue(self, *tools: str, **fields: Any) -> None:
        storages = {"read_lan": ["ONE"], "write_lan": ["ONE", "TWO"]}
        self.farm.set_queue(**{**ALL_TOOLS, "acopytools": {"default": list(tools)}, "astorages": storages, **fields})

    def put(self, name: str, content: bytes, rse: str = "ONE") -> None:
        path = self.path(name, rse)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def path(self, name: str, rse: str) -> Path:
        return self.directory / rse / deterministic_path("test", name)

    def job(self, payload: str = "true", inputs: Any = None, outputs: Any = (), **fields: Any) -> int:
        for name, content in (inputs or {}).items():
            self.put(name, content)
        more = {"ddmEndPointIn": ",".join(["ONE"] * len(inputs))} if inputs else {}
        endpoints = ",".join(["ONE"] * (len(outputs) + 1))
        return self.farm.submit_job(payload, inputs=inputs, outputs=outputs, ddmEndPointOut=endpoints,
                                    **{**more, **fields})

    def start(self, *options: str, settings: Any = None, **how: Any) -> Pilot:
        merged = {"plugins.copytools": PLUGINS, **(settings or {})}
        return self.farm.start_pilot("--storagedata-url", str(self.document), *options, settings=merged, files=False,
                                     **how)

    def run(self, *options: str, **how: Any) -> Pilot:
        pilot = self.start(*options, **how)
        pilot.wait()
        return ended_well(pilot)

    def rows(self, job: int) -> list[Any]:
        return [dict(row) for row in self.farm.pilots[-1].store().transfers(str(job))]


@pytest.fixture
def shelves(farm: Farm, tmp_path: Path) -> Shelves:
    place = tmp_path / "shelves"
    place.mkdir()
    return Shelves(farm, place)


def test_each_activity_has_its_tools_by_old_and_new_names(shelves: Shelves) -> None:
    shelves.queue(acopytools={"pr": ["shelf"], "write_lan": ["other"], "pl": ["mv"], "default": ["nosuchtool"]})
    job = shelves.job("cp in.dat out.dat", {"in.dat": b"input"}, ["out.dat"])
    shelves.run()
    assert shelves.farm.final(job)["state"] == "finished", shelves.farm.final(job)["pilotErrorDiag"]
    used = {row["direction"]: row["tool"] for row in shelves.rows(job)}
    assert used == {"stage-in": "shelf", "stage-out": "other", "log": "mv"}


def test_every_reason_reaches_report_log_and_data_base(shelves: Shelves) -> None:
    shelves.queue("nosuchtool", "shelf", "other", acopytools={"read_lan": ["shelf", "other"], "default": ["mv"]})
    job = shelves.job(inputs={"in.dat": b"input"})
    (shelves.directory / "ONE/DOWN").touch()
    pilot = shelves.run()
    final = shelves.farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1324)
    assert "ONE does not answer" in final["pilotErrorDiag"]
    rows = [row for row in shelves.rows(job) if row["direction"] == "stage-in"]
    assert [(row["tool"], row["code"], row["status"]) for row in rows] == [
        ("shelf", 1324, "SERVICE_ERROR"), ("other", 1324, "SERVICE_ERROR")]
    for number in (1, 2):
        assert f"[{job}.1.in.in.dat.{number}]" in pilot.output or f"[{job}.0.in.in.dat.{number}]" in pilot.output
    assert report_of(final), "the log left all the same"


@pytest.mark.parametrize(("word", "code"), [("on", 0), ("force", 0), ("off", 1324)])
def test_the_alternative_endpoint(shelves: Shelves, word: str, code: int) -> None:
    shelves.queue("shelf", astorages={"read_lan": ["ONE"], "write_lan": ["ONE", "TWO"], "pl": ["TWO"]})
    job = shelves.job("echo result > out.dat", outputs=["out.dat"], altStageOut=word)
    (shelves.directory / "ONE/DOWN").touch()
    shelves.run()
    final = shelves.farm.final(job)
    assert int(final["pilotErrorCode"] or 0) == code, final["pilotErrorDiag"]
    if code:
        assert "out.dat" not in report_of(final)
        return
    assert final["state"] == "finished"
    entry = report_of(final)["out.dat"]
    assert entry["endpoint"] == "TWO"
    assert entry["surl"] == f"file://localhost{shelves.path('out.dat', 'TWO')}"
    assert shelves.path("out.dat", "TWO").read_text() == "result\n"
    assert [row["code"] for row in shelves.rows(job) if row["direction"] == "stage-out"] == [1324, 0]


def test_the_nucleus_is_no_alternative_though_it_is_named_as_a_site(shelves: Shelves) -> None:
    shelves.queue("shelf", astorages={"read_lan": ["ONE"], "write_lan": ["ONE", "TWO"], "pl": ["TWO"]})
    job = shelves.job("echo result > out.dat", outputs=["out.dat"], altStageOut="on", nucleus="SITE_TWO")
    (shelves.directory / "ONE/DOWN").touch()
    shelves.run()
    final = shelves.farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1324)
    assert not shelves.path("out.dat", "TWO").exists()


def test_outputs_and_log_leave_with_the_dispatched_proxy_and_without_tokens(shelves: Shelves, tmp_path: Path) -> None:
    (tmp_path / "dispatch").write_text("proxy")
    shelves.queue("shelf")
    job = shelves.job("echo result > out.dat", outputs=["out.dat"])
    shelves.run(env={"X509_UNIFIED_DISPATCH": f"{tmp_path}/dispatch", "X509_USER_PROXY": "/none",
                     "OIDC_REFRESHED_AUTH_TOKEN": "/secret", "PANDA_AUTH_TOKEN_KEY": "secret"})
    assert shelves.farm.final(job)["state"] == "finished"
    for name in ("out.dat", str(shelves.farm.server.job(job)["definition"]["logFile"])):
        path = shelves.path(name, "ONE")
        given = json.loads(path.with_name(f"{path.name}.environ").read_text())
        assert given["X509_USER_PROXY"] == f"{tmp_path}/dispatch"
        assert not [key for key in given if "TOKEN" in key]
        assert given["PILOT_RUCIO_SITENAME"] == "LOCAL"
    assert (tmp_path / "dispatch").exists()


def test_as_many_attempts_as_the_option_says(shelves: Shelves) -> None:
    shelves.queue("debug")
    job = shelves.job("echo result > x.try-3.dat", outputs=["x.try-3.dat"])
    shelves.run("--stageout-attempts", "3")
    assert shelves.farm.final(job)["state"] == "finished", shelves.farm.final(job)["pilotErrorDiag"]
    assert [row["code"] for row in shelves.rows(job) if row["direction"] == "stage-out"] == [1137, 1137, 0]


def test_a_pilot_that_has_to_go_does_not_wait_for_the_next_attempt(shelves: Shelves) -> None:
    shelves.queue("debug")
    job = shelves.job("echo result > x.try-99.dat", outputs=["x.try-99.dat"])
    pilot = shelves.start("--stageout-attempts", "99", settings={"shutdown.deadline": 4})
    pilot.wait_output("trying")
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    final = shelves.farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1201), final["pilotErrorDiag"]
    assert report_of(final), "there was time for the log"


@pytest.mark.parametrize("kind", ["thread", "process", "bulk"])
def test_a_signal_ends_copies_of_every_kind_of_tool(shelves: Shelves, kind: str) -> None:
    gate = shelves.farm.gate("hang")
    shelves.queue(acopytools={"read_lan": [kind], "default": ["shelf"]})
    job = shelves.job("echo it ran", {"in1.dat": b"1", "in2.dat": b"2"})
    pilot = shelves.start()
    gate.reached()
    pilot.send("SIGTERM")
    assert pilot.wait() == 143
    final = shelves.farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", 1201)
    assert not shelves.farm.processes(), "no process of a copy is left"
    begun = [row for row in shelves.rows(job) if row["direction"] == "stage-in"]
    assert begun and {row["status"] for row in begun} == {"STAGEIN_ATTEMPT_FAILED"}


@pytest.mark.parametrize(
    ("parameters", "env", "code"),
    [("--overwriteQueueData '{\"maxwdir\": 1}'", {}, 1168),
     ("", {"storageLimitMiB": "1", "storageRequestMiB": "1"}, 1098)],
)
def test_inputs_that_are_too_large(shelves: Shelves, parameters: str, env: Any, code: int) -> None:
    shelves.queue("shelf", maxinputsize=0)
    job = shelves.job("echo it ran", {"in.dat": bytes(2 << 20)}, jobPars=parameters)
    settings = {"limits.reserve_space": 0, "pilot.free_space_limit": 0}
    shelves.run(settings=settings, env=env)
    final = shelves.farm.final(job)
    assert (final["state"], int(final["pilotErrorCode"])) == ("failed", code), final["pilotErrorDiag"]
    (row,) = [row for row in shelves.rows(job) if row["direction"] == "stage-in"]
    assert row["code"] == code
