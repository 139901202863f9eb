"""Proxies and tokens while a job runs: renewed in time by the server, or the payload is ended before they are."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from pathlib import Path
from typing import Any, Tuple

import pytest
from harness import Farm, Pilot
from vomsproxies import living_proxy, write_proxy

ROLE = "atlas:/atlas/Role=production"
USER = ("/atlas/Role=NULL/Capability=NULL",)


@pytest.fixture
def site(farm: Farm) -> Farm:
    """The server gives proxies to everybody."""
    farm.server.creds.flags["Robot Pilot"] = "p"  # who everybody is for a server without identities
    return farm


def start(farm: Farm, proxy: Path, *options: str, **settings: object) -> Tuple[int, Any, Pilot]:
    """A job whose payload waits; its proxy was good for the start."""
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    line = [word for word in farm.command("--pilot-user", "voms", settings={
        "plugins.experiments": {"voms": "voms:VomsExperiment"}, "pilot.proxy_verification_time": 1,
        "limits.leave_by_check": 1, **settings}) if word != "-t"]
    pilot = farm.start([*line, *options], env={"X509_USER_PROXY": str(proxy)})
    gate.reached()
    return job, gate, pilot


def asked(farm: Farm) -> int:
    return sum(request.operation == "get_proxy" for request in farm.server.requests)


def end(farm: Farm, job: int, gate: Any, pilot: Pilot) -> None:
    gate.open()
    assert pilot.wait() == 0
    assert farm.final(job)["state"] == "finished"


@pytest.mark.parametrize("linked", [False, True])
def test_attributes_that_end_soon_are_renewed_by_the_server(site: Farm, tmp_path: Path, linked: bool) -> None:
    proxy = write_proxy(tmp_path / "real.proxy", 96, 96)
    given = proxy
    if linked:
        given = tmp_path / "link.proxy"
        given.symlink_to(proxy)
    site.server.creds.proxies[ROLE] = fresh = living_proxy(90, 90)
    job, gate, pilot = start(site, given)
    assert asked(site) == 0
    write_proxy(tmp_path / "new", 96, 0.5).rename(proxy)
    pilot.wait_output("the server has given a new one")
    end(site, job, gate, pilot)
    assert proxy.read_text() == fresh
    assert stat.S_IMODE(os.stat(proxy).st_mode) == 0o600
    assert given.is_symlink() == linked
    assert not list(pilot.directory.glob(".renewed*"))
    assert asked(site) == 1
    secrets = [line for line in fresh.splitlines() if len(line) == 64]
    assert secrets and not [line for line in secrets if line in pilot.output]


def test_a_proxy_of_another_role_never_takes_its_place(site: Farm, tmp_path: Path) -> None:
    proxy = write_proxy(tmp_path / "real.proxy", 96, 96)
    site.server.creds.proxies[ROLE] = living_proxy(96, 96, fqans=USER)
    job, gate, pilot = start(site, proxy)
    old = write_proxy(tmp_path / "new", 96, 0.6).read_text()
    (tmp_path / "new").rename(proxy)
    pilot.wait_output("what the server gave is not usable: it has the attributes /atlas/Role=NULL")
    assert proxy.read_text() == old
    end(site, job, gate, pilot)  # 36 minutes are left: there is time for another look


@pytest.mark.parametrize("what", ["text", "short", "none"])
def test_attributes_that_nobody_renews_end_the_payload_in_time(site: Farm, tmp_path: Path, what: str) -> None:
    proxy = write_proxy(tmp_path / "real.proxy", 96, 96)
    if what != "none":
        site.server.creds.proxies[ROLE] = "no proxy" if what == "text" else living_proxy(0.2, 0.2)
    job, _, pilot = start(site, proxy)
    write_proxy(tmp_path / "new", 96, 0.1).rename(proxy)  # 6 minutes: the log needs them (limits.leave_margin)
    assert pilot.wait() == 0
    final = site.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", 1177)
    assert "a new one cannot be had" in pilot.log
    assert list(site.outputs.glob("log.*.tgz"))


@pytest.mark.parametrize(("certificate", "attributes", "code"), [(0.5, 96, 1373), (96, None, 1177)])
def test_what_cannot_be_renewed_ends_the_payload(site: Farm, tmp_path: Path, certificate: float, attributes: Any,
                                                 code: int) -> None:
    proxy = write_proxy(tmp_path / "real.proxy", 96, 96)
    site.server.creds.proxies[ROLE] = living_proxy(96, 96)
    job, _, pilot = start(site, proxy)
    write_proxy(tmp_path / "new", certificate, attributes).rename(proxy)
    assert pilot.wait() == 0
    final = site.final(job)
    assert (final["state"], final["pilotErrorCode"]) == ("failed", code)
    assert asked(site) == 0


def test_a_proxy_that_vanishes_ends_the_payload(site: Farm, tmp_path: Path) -> None:
    proxy = write_proxy(tmp_path / "real.proxy", 96, 96)
    job, _, pilot = start(site, proxy)
    proxy.unlink()
    assert pilot.wait() == 0
    assert site.final(job)["pilotErrorCode"] == 1163


def test_a_certificate_that_ends_is_an_end_of_the_slot(site: Farm, tmp_path: Path) -> None:
    """A proxy of four days is shorter than this queue's slot."""
    site.set_queue(maxtime=10 * 86400)
    proxy = write_proxy(tmp_path / "real.proxy", 96, 96)
    job, gate, pilot = start(site, proxy)
    assert "the proxy's certificate ends at" in pilot.output
    write_proxy(tmp_path / "new", 900, 900).rename(proxy)
    pilot.wait_output("the queue's maxtime is 864000 s, less 600 s")
    end(site, job, gate, pilot)


def test_without_verification_nothing_is_looked_at(site: Farm, tmp_path: Path) -> None:
    proxy = write_proxy(tmp_path / "real.proxy", 96, 96)
    job, gate, pilot = start(site, proxy, "-t", **{"pilot.heartbeat": 1})
    proxy.unlink()
    pilot.wait_output(f"job {job}: payload, CPU time")
    end(site, job, gate, pilot)


def jwt(seconds: float) -> str:
    """A token as servers of identity make them, unsigned."""
    def part(values: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")

    now = time.time()
    return f"{part({'alg': 'none'})}.{part({'iat': now - 5, 'exp': now + seconds})}.c2lnbmF0dXJl"


def test_an_expired_token_is_said_and_one_that_nobody_renews_is_an_end_of_the_slot(farm: Farm, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(jwt(3 * 3600))
    gate = farm.gate("payload")
    job = farm.submit_job(gate.shell())
    pilot = farm.start_pilot(settings={"pilot.proxy_verification_time": 1}, env={
        "OIDC_AUTH_TOKEN": str(token), "OIDC_AUTH_ORIGIN": "atlas.pilot"})
    gate.reached()
    assert "the token, which is not renewed, ends at" in pilot.output
    token.write_text(jwt(-60))
    pilot.wait_output("the token has ended at ")
    token.write_text(jwt(3600))
    end(farm, job, gate, pilot)
