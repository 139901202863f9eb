"""Whole pilots with TLS and real VOMS proxies: user payloads have their own proxy or do not run; secrets go away."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

import pytest

from sandbox import TLSFiles
from tests.grid.testbed.pki import USER_DN, Pki
from tests.integration.harness import PILOT, PYTHON, QUEUE, Farm, Pilot

LONG = 100
"""Hours of the pilot's proxy: more than the 72 that are needed."""


def archive(path: Path) -> Dict[str, bytes]:
    """Members of a log archive without the top directory."""
    with tarfile.open(path) as tar:
        streams = {member.name.partition("/")[2]: tar.extractfile(member) for member in tar if member.isfile()}
        return {name: stream.read() for name, stream in streams.items() if stream is not None}


class Site:
    """A unified queue, a TLS server that accepts the robot's proxy, and transformations behind its /trf/."""

    def __init__(self, directory: Path, pki: Pki) -> None:
        self.pki, self.directory = pki, directory
        self.trf = directory / "trf"
        self.trf.mkdir()
        tls = TLSFiles(pki.host_cert, pki.host_key, pki.ca)
        (directory / "farm").mkdir()
        self.farm = Farm(directory / "farm", auth="cert", tls=tls, trf_dir=self.trf, production_dns=(USER_DN,))
        self.farm.set_queue(type="unified", copytools={"telling": {}}, acopytools={"default": ["telling"]})
        self.own = pki.voms(directory / "robot.proxy", hours=LONG)
        self.users = pki.voms(directory / "users.pem", fqans=("/atlas/Role=NULL/Capability=NULL",))
        self.server = self.farm.server
        self.server.creds.flags["pilot"] = "p"
        self.server.creds.proxies["atlas"] = self.users.read_text()

    def submit(self, payload: str, *, analysis: bool = True, output: str = "out.dat", **fields: Any) -> int:
        """A job; a user's has its transformation behind a URL."""
        if analysis:
            (self.trf / "user.sh").write_text(f"#!/bin/bash\n{payload}\n")
            fields = {"transformation": f"http://127.0.0.1:{self.server.port}/trf/user.sh", **fields}
        return self.farm.submit_job(payload, outputs=[output], **fields)

    def start(self, *options: str, env: Optional[Mapping[str, str]] = None, verify: bool = True,
              settings: Optional[Mapping[str, object]] = None, directory: Optional[Path] = None) -> Pilot:
        """Start a pilot that speaks https with its proxy."""
        plugins: Dict[str, object] = {"plugins.copytools": {"telling": "proxied:TellingTool"},
                                      "plugins.experiments": {"proxied": "proxied:ProxiedExperiment"}}
        command = self.farm.command(settings={**plugins, **(settings or {})})
        if verify:
            command.remove("-t")
        command += ["--pilot-user", "proxied", "--url", "https://localhost", "-p", str(self.server.https_port),
                    "--queuedata-url", f"http://127.0.0.1:{self.server.port}/cache/schedconfig/{QUEUE}.all.json",
                    "-g", f"http://127.0.0.1:{self.server.port}/trf", *options]
        return self.farm.start(command, env={**self.pki.env, "X509_USER_PROXY": str(self.own), **(env or {})},
                               directory=directory)

    def run(self, payload: str, *options: str, analysis: bool = True, **how: Any) -> Tuple[Dict[str, Any], Pilot]:
        """One job from its start to its end; returns its final report and the pilot."""
        self.job = self.submit(payload, analysis=analysis)
        pilot = self.start(*options, **how)
        pilot.wait()
        return self.farm.final(self.job), pilot

    def given(self, name: str) -> Dict[str, str]:
        """The environment in which an output was stored."""
        return dict(json.loads((self.farm.outputs / f"{name}.environ").read_text()))

    @property
    def log(self) -> str:
        return str(self.server.job(self.job)["definition"]["logFile"])

    def secrets_on_disk(self) -> list[Path]:
        """Files that hold the users' proxy (the tests' own apart)."""
        lines = self.users.read_text().splitlines()
        mark = lines[lines.index("-----END CERTIFICATE-----") + 3].encode()
        found = []
        for path in self.farm.directory.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.suffix != ".environ" and mark in path.read_bytes():
                found.append(path)
        return found


@pytest.fixture
def site(pki: Pki, tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, pki)
    try:
        yield made
    finally:
        left = made.farm.processes()
        made.farm.close()
    assert not left, f"left behind: {left}"


TELL = 'env > "$PWD/out.dat"; stat -c "mode=%a" "$X509_USER_PROXY" >> out.dat; cat "$X509_USER_PROXY" >> out.dat'


def told(site: Site) -> Dict[str, str]:
    """What the payload has seen."""
    lines = (site.farm.outputs / "out.dat").read_text().splitlines()
    return dict(line.partition("=")[::2] for line in lines if "=" in line)


@pytest.mark.parametrize("dialect", ["v1", "legacy"])
def test_a_user_job_on_a_unified_queue_has_the_users_proxy(site: Site, dialect: str) -> None:
    final, pilot = site.run(TELL, "--server-api", dialect)
    assert final["state"] == "finished", (final["pilotErrorDiag"], pilot.output[-4000:])
    assert pilot.process.returncode == 0
    assert "Traceback" not in pilot.output
    seen = told(site)
    assert Path(seen["X509_USER_PROXY"]).name == "robot-unified.proxy"
    assert Path(seen["X509_USER_PROXY"]).parent.name == f"PanDA_Pilot-{site.job}"
    assert seen["X509_UNIFIED_DISPATCH"] == seen["X509_USER_PROXY"]
    assert seen["mode"] == "600"
    assert site.users.read_text() in (site.farm.outputs / "out.dat").read_text()
    assert site.given("out.dat")["content"] == site.users.read_text(), "outputs are the user's"
    assert site.given(site.log)["X509_USER_PROXY"] == str(site.own), "the log is the pilot's"
    assert "X509_UNIFIED_DISPATCH" not in site.given(site.log)
    members = archive(site.farm.outputs / site.log)
    assert not [name for name in members if "unified" in name]
    (site.farm.outputs / "out.dat").unlink()
    assert site.secrets_on_disk() == []


def test_with_the_atlas_plug_in_itself(site: Site) -> None:
    final, pilot = site.run(TELL, "--pilot-user", "ATLAS")
    assert final["state"] == "finished", (final["pilotErrorDiag"], pilot.output[-4000:])
    assert Path(told(site)["X509_USER_PROXY"]).name == "robot-unified.proxy"
    assert f"X509_USER_PROXY={told(site)['X509_USER_PROXY']}" in pilot.output, "the command names it"
    assert site.given("out.dat")["content"] == site.users.read_text()


@pytest.mark.parametrize("kind", ["unified", "analysis"])
def test_what_the_site_has_set_does_not_go_before_it(site: Site, kind: str) -> None:
    site.farm.set_queue(type=kind, container_type="singularity:pilot")
    plugin = {"plugins.experiments": {"contained": "proxied:ContainedExperiment"}}
    final, _ = site.run(TELL, "--pilot-user", "contained", settings=plugin,
                        env={"X509_UNIFIED_DISPATCH": str(site.pki.plain_proxy)})
    assert final["state"] == "finished"
    seen = told(site)
    assert Path(seen["X509_USER_PROXY"]).name.startswith("robot-")
    assert seen.get("X509_UNIFIED_DISPATCH", seen["X509_USER_PROXY"]) == seen["X509_USER_PROXY"]


def test_production_jobs_and_pilots_without_verification_keep_the_pilots_proxy(site: Site) -> None:
    for analysis, verify in ((False, True), (True, False)):
        final, _ = site.run("env > out.dat", analysis=analysis, verify=verify)
        assert final["state"] == "finished"
        assert told(site)["X509_USER_PROXY"] == str(site.own)
        assert site.given("out.dat")["X509_USER_PROXY"] == str(site.own)
    assert not [request for request in site.server.requests if "get_proxy" in request.operation]


@pytest.mark.parametrize("options", [(), ("-u",), ("--set", "pilot.payload_proxy_from_server=false")])
def test_other_queues_give_contained_payloads_a_proxy_and_nothing_else(site: Site, options: Tuple[str, ...]) -> None:
    site.farm.set_queue(type="analysis", container_type="singularity:pilot")
    plugin = {"plugins.experiments": {"contained": "proxied:ContainedExperiment"}}
    final, _ = site.run(TELL, "--pilot-user", "contained", *options, settings=plugin)
    assert final["state"] == "finished", final["pilotErrorDiag"]
    seen = told(site)
    assert Path(seen["X509_USER_PROXY"]).name == ("robot.proxy" if options else "robot-payload.proxy")
    assert "X509_UNIFIED_DISPATCH" not in seen
    assert site.given("out.dat")["X509_USER_PROXY"] == str(site.own)
    assert not options or not [request for request in site.server.requests if "get_proxy" in request.operation]


@pytest.mark.parametrize("dialect", ["v1", "legacy"])
def test_a_refusal_fails_the_job_before_the_payload(site: Site, dialect: str) -> None:
    site.server.creds.flags.clear()
    final, pilot = site.run("touch out.dat", "--server-api", dialect)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1163)
    assert final["pilotErrorDiag"].startswith("Grid proxy not valid: payload proxy could not be downloaded: ")
    assert "'pilot' not in" in final["pilotErrorDiag"]
    assert not (site.farm.outputs / "out.dat").exists()
    assert "payload command" not in pilot.output
    assert site.given(site.log)["X509_USER_PROXY"] == str(site.own)
    assert pilot.process.returncode == 0


@pytest.mark.parametrize("fault", ["http_500", "html", "reset"])
def test_a_server_that_is_away_is_asked_again_and_then_the_job_fails(site: Site, fault: str) -> None:
    planned = site.server.faults.add("get_proxy", fault, times=2)
    final, _ = site.run("echo x > out.dat")
    assert (final["state"], planned.hits) == ("finished", 2)
    (site.farm.outputs / "out.dat").unlink()
    site.server.faults.add("get_proxy", fault, times=None)
    final, _ = site.run("echo x > out.dat")
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1163)
    assert "payload proxy could not be downloaded" in final["pilotErrorDiag"]


@pytest.mark.parametrize(("kind", "code", "words"), [
    ("expired", 1373, "has ended"), ("short", 1373, "1 h are needed"), ("plain", 1177, "no VOMS attributes"),
    ("nonsense", 1163, "no certificate in it"), ("keyless", 1163, "do not fit together"),
    ("foreign key", 1163, "do not fit together"), ("foreign chain", 1163, "is not signed by"),
    ("no proxy", 1163, "not found"),
])
def test_a_proxy_that_is_no_good_fails_the_job(site: Site, kind: str, code: int, words: str) -> None:
    pki, path = site.pki, site.directory / "bad.pem"
    text = site.users.read_text()
    blocks = text.replace("-----\n-----", "-----\n\n-----").split("\n\n")
    host = pki.host_cert.read_text()
    site.server.creds.proxies["atlas"] = {
        "expired": lambda: pki.expired(path).read_text(), "short": lambda: pki.plain(path, valid="0:30").read_text(),
        "plain": lambda: pki.plain(path).read_text(), "nonsense": lambda: "<html>not a proxy</html>",
        "keyless": lambda: pki.user_cert.read_text(),
        "foreign key": lambda: blocks[0] + "\n" + pki.host_key.read_text() + "\n" + blocks[-1],
        "foreign chain": lambda: blocks[0] + "\n" + blocks[1] + "\n" + host, "no proxy": lambda: "",
    }[kind]()
    final, _ = site.run("echo x > out.dat")
    assert (final["state"], final["pilotErrorCode"]) == ("failed", code), final["pilotErrorDiag"]
    assert words in final["pilotErrorDiag"]
    assert not (site.farm.outputs / "out.dat").exists()


def test_a_payload_that_removes_or_replaces_its_proxy(site: Site) -> None:
    for line in ('rm "$X509_USER_PROXY"', 'ln -sf /etc/passwd "$X509_USER_PROXY"'):
        final, _ = site.run(f"echo x > out.dat; {line}")
        assert final["state"] == "finished"
        assert site.given("out.dat")["content"] == site.users.read_text(), "never another identity"
        assert Path("/etc/passwd").stat().st_size > 100
        (site.farm.outputs / "out.dat").unlink()


def test_two_jobs_leave_nothing_in_the_pilots_environment(site: Site) -> None:
    site.farm.set_queue(timefloor=3600)
    first = site.submit(TELL)
    second = site.submit("env > out2.dat", analysis=False, output="out2.dat")
    pilot = site.start("-x", "1", settings={"jobs.pipelining": True, "pilot.heartbeat": 1})
    assert pilot.wait() == 0
    assert [site.farm.final(job)["state"] for job in (first, second)] == ["finished", "finished"]
    assert site.given("out.dat")["content"] == site.users.read_text()
    assert site.given("out2.dat")["X509_USER_PROXY"] == str(site.own)
    assert "X509_UNIFIED_DISPATCH" not in (site.farm.outputs / "out2.dat").read_text()


@pytest.mark.parametrize(("proxy", "code", "exit_code"), [
    ("expired", 1373, 68), ("short", 1382, 80), ("plain", 1177, 68), ("missing", 1163, 68), ("garbage", 1163, 68),
])
def test_a_pilot_without_a_good_proxy_asks_for_no_job(site: Site, proxy: str, code: int, exit_code: int) -> None:
    if proxy == "missing" and os.path.exists(f"/tmp/x509up_u{os.getuid()}"):
        pytest.skip("there is a proxy in /tmp")
    path = site.directory / "own.pem"
    {"expired": lambda: site.pki.expired(path), "short": lambda: site.pki.voms(path, hours=12),
     "plain": lambda: site.pki.plain(path, valid="100:00"), "missing": lambda: path,
     "garbage": lambda: path.write_text("garbage")}[proxy]()
    job = site.submit("true")
    pilot = site.start(env={"X509_USER_PROXY": str(path)})
    assert pilot.wait() == exit_code, pilot.output[-3000:]
    assert site.farm.state(job) == "activated"
    assert "-t switches this check off" in pilot.output


@pytest.mark.parametrize("by", ["recovery", "next pilot"])
def test_secrets_of_a_killed_pilot_are_removed(site: Site, by: str) -> None:
    gate = site.farm.gate("payload")
    site.job = site.submit(gate.shell(), secrets=json.dumps({"key": "very-secret-value"}))
    pilot = site.start()
    gate.reached()
    directory = next(pilot.directory.rglob(f"PanDA_Pilot-{site.job}"))
    files = [directory / "panda_secrets.json", directory / "robot-unified.proxy"]
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    pilot.kill()
    if by == "next pilot":
        assert site.start(directory=pilot.directory).wait() == 0
        assert not any(path.exists() for path in files)
        return
    command = [PYTHON, str(PILOT), "--recover", str(pilot.directory), "--url", "https://localhost", "-p",
               str(site.server.https_port)]
    recovery = site.farm.start(command, env={**site.pki.env, "X509_USER_PROXY": str(site.own)})
    assert recovery.wait() == 0
    assert not any(path.exists() for path in files)
    assert site.secrets_on_disk() == []


def test_secrets_go_even_when_the_directory_is_kept(site: Site) -> None:
    site.job = site.submit("echo x > out.dat", secrets=json.dumps({"key": "very-secret-value"}))
    pilot = site.start("--cleanup", "False")
    assert pilot.wait() == 0
    directory = next(pilot.directory.rglob(f"PanDA_Pilot-{site.job}"))
    assert (directory / "payload.stdout").exists()
    assert not (directory / "panda_secrets.json").exists()
    assert not list(directory.glob("*-unified*"))
    assert b"very-secret-value" not in b"".join(archive(site.farm.outputs / site.log).values())
