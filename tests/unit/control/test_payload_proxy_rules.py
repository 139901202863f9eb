"""Which jobs get a proxy of their own, what it is called, and that it goes away. The whole: tests/grid."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List

import pytest

from pilot.common.exception import PilotException
from pilot.control import payloadproxy
from pilot.info.job import Job
from pilot.info.queuedata import QueueData
from pilot.panda.errors import ServerRefusal, TransportError
from pilot.util.cancel import CancelledError


class Server:
    """Gives answers one after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers: List[Any] = list(answers)
        self.asked: List[Any] = []

    def get_proxy(self, role: str, dn: str = "") -> str:
        self.asked.append((role, dn))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)


def context(tmp_path: Path, *, unified: bool = True, verify: bool = True, payload: bool = True, setting: bool = True,
            container: bool = False, role: str = "atlas", server: Any = None) -> Any:
    experiment = SimpleNamespace(
        payload_proxy_role=lambda job: (role, "atlpilo2" if role else ""), uses_container=lambda job, queue: container,
        verify_proxy=lambda path, at_start: (0, ""))
    return SimpleNamespace(
        options=SimpleNamespace(verify_proxy=verify, verify_payload_proxy=payload), home=tmp_path, server=server,
        settings=SimpleNamespace(pilot=SimpleNamespace(payload_proxy_from_server=setting),
                                 server=SimpleNamespace(retry_base=0.01, retry_max=0.01)),
        info=SimpleNamespace(queue_for=lambda job: QueueData(name="Q", type="unified" if unified else "analysis")),
        experiment=experiment)


def user_job(tmp_path: Path) -> Job:
    (tmp_path / "job").mkdir(exist_ok=True)
    return Job(jobid="1", workdir=tmp_path / "job", transformation="http://trf/runGen")


@pytest.fixture(autouse=True)
def accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of the tests' proxies is no certificate."""
    monkeypatch.setenv("X509_USER_PROXY", "/tmp/pilot.proxy")
    monkeypatch.setattr("pilot.util.proxyfile.read_proxy", lambda path: None)
    monkeypatch.setattr("pilot.util.proxyfile.check_pair_and_chain", lambda path: "")


@pytest.mark.parametrize(("changes", "name"), [
    ({}, "pilot-unified.proxy"), ({"payload": False, "setting": False}, "pilot-unified.proxy"),
    ({"verify": False}, ""), ({"role": ""}, ""), ({"unified": False}, ""),
    ({"unified": False, "container": True}, "pilot-payload.proxy"),
    ({"unified": False, "container": True, "payload": False}, ""),
    ({"unified": False, "container": True, "setting": False}, ""),
    ({"unified": False, "container": True, "verify": False}, ""),
])
def test_who_gets_one(tmp_path: Path, changes: Any, name: str) -> None:
    server, job = Server("a proxy"), user_job(tmp_path)
    payloadproxy.provide(context(tmp_path, server=server, **changes), job)
    assert (job.payload_proxy.name if job.payload_proxy else "") == name
    assert job.needs_payload_proxy == bool(name)
    assert server.asked == ([("atlas", "atlpilo2")] if name else [])
    given = payloadproxy.environment(job)
    assert given.get("X509_USER_PROXY", "") == (str(tmp_path / "job" / name) if name else "")
    assert ("X509_UNIFIED_DISPATCH" in given) == ("unified" in name)
    assert "X509_UNIFIED_DISPATCH" not in os.environ
    if name:
        assert (tmp_path / "job" / name).stat().st_mode & 0o777 == 0o600
        assert "a proxy" not in repr(job)


def test_production_gets_none(tmp_path: Path) -> None:
    job = user_job(tmp_path)
    job.transformation = "Reco_tf.py"
    payloadproxy.provide(context(tmp_path, server=Server()), job)
    assert not job.needs_payload_proxy
    payloadproxy.renew(job)


@pytest.mark.parametrize(("own", "suffix", "name"), [
    ("/tmp/x509up_u25606", "-unified", "x509up_u25606-unified"), ("/d/a.proxy", "-unified", "a-unified.proxy"),
    ("/d/a.proxy", "-payload", "a-payload.proxy"), ("/d/a.proxy.pem", "-payload", "a.proxy.pem-payload"),
])
def test_names(own: str, suffix: str, name: str) -> None:
    assert payloadproxy.proxy_name(own, suffix) == name


@pytest.mark.parametrize(("answers", "asked"), [
    ([ServerRefusal("not in authorized users", status_code=70)], 1),
    ([ServerRefusal("proxy not found", status_code=90)] * 3, 3), ([TransportError("no answer")] * 3, 3),
])
def test_without_it_the_job_fails(tmp_path: Path, answers: Any, asked: int) -> None:
    server, job = Server(*answers), user_job(tmp_path)
    with pytest.raises(PilotException, match="payload proxy could not be downloaded: ") as caught:
        payloadproxy.provide(context(tmp_path, server=server), job)
    assert caught.value.code == 1163
    assert len(server.asked) == asked
    with pytest.raises(PilotException):  # whoever comes here all the same must not fall back
        payloadproxy.renew(job)


def test_without_a_server_and_after_trouble_that_passes(tmp_path: Path) -> None:
    job = user_job(tmp_path)
    with pytest.raises(PilotException, match="does not talk to the PanDA server"):
        payloadproxy.provide(context(tmp_path), job)
    payloadproxy.provide(context(tmp_path, server=Server(TransportError("no answer"), "a proxy")), job)
    assert job.payload_proxy is not None


def test_a_job_that_is_to_end_does_not_wait(tmp_path: Path) -> None:
    job = user_job(tmp_path)
    job.cancel.cancel(1144, "killed")
    with pytest.raises(CancelledError):
        payloadproxy.provide(context(tmp_path, server=Server("a proxy", "a proxy")), job)


def test_one_that_ends_soon_fails_the_job(tmp_path: Path) -> None:
    for code, reported in ((1370, 1177), (1373, 1373)):
        ctx = context(tmp_path, server=Server("a proxy"))
        ctx.experiment.verify_proxy = lambda path, at_start, code=code: (code, "it ends")
        with pytest.raises(PilotException, match="it ends") as caught:
            payloadproxy.provide(ctx, user_job(tmp_path))
        assert caught.value.code == reported


def test_renewed_over_whatever_the_payload_put_there(tmp_path: Path) -> None:
    job = user_job(tmp_path)
    payloadproxy.provide(context(tmp_path, server=Server("a proxy")), job)
    assert job.payload_proxy is not None
    (tmp_path / "elsewhere").write_text("untouched")
    for put in (lambda path: None, lambda path: path.symlink_to(tmp_path / "elsewhere"), lambda path: os.mkfifo(path)):
        job.payload_proxy.unlink()
        put(job.payload_proxy)
        payloadproxy.renew(job)
        assert not job.payload_proxy.is_symlink()
        assert job.payload_proxy.read_text() == "a proxy"
    assert (tmp_path / "elsewhere").read_text() == "untouched"
    payloadproxy.forget(job)
    assert not job.payload_proxy.exists()
    assert job.secret_paths == []
    payloadproxy.forget(job)


def test_what_a_dead_pilot_has_left(tmp_path: Path) -> None:
    for name in ("panda_secrets.json", "pilot-unified.proxy", "x509up_u1-unified", "pilot-payload.proxy", "a.proxy",
                 "kept-unifiedx", "payload.stdout"):
        (tmp_path / name).write_text("x")
    (tmp_path / "dir-unified").mkdir()
    (tmp_path / "link-payload").symlink_to("payload.stdout")
    assert payloadproxy.remove_abandoned(str(tmp_path), "panda_secrets.json") == 5
    assert sorted(os.listdir(tmp_path)) == ["a.proxy", "dir-unified", "kept-unifiedx", "payload.stdout"]
    assert payloadproxy.remove_abandoned(str(tmp_path / "missing"), "panda_secrets.json") == 0
    assert payloadproxy.remove_abandoned("", "panda_secrets.json") == 0
