"""ATLAS: how long proxies must live, what arcproxy and voms-proxy-info say, which roles are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Optional

import pytest

from pilot.user.atlas import Atlas
from pilot.user.atlas.proxy import (
    ToolAnswer,
    get_voms_role,
    getproxy_dictionary,
    interpret_arcproxy,
    judge,
    verify_proxy,
)
from pilot.util.proxyfile import ProxyFacts

NOW = 1_800_000_000.0
HOUR = 3600.0


def facts(certificate: float, voms: Optional[float], begins: float = -1.0, has_key: bool = True) -> ProxyFacts:
    """Times in hours from now."""
    return ProxyFacts(NOW + begins * HOUR, NOW + certificate * HOUR, None if voms is None else NOW + voms * HOUR, (),
                      has_key)


@pytest.mark.parametrize(("proxy", "at_start", "code"), [
    (facts(96, 96), True, 0), (facts(71.7, 71.7), True, 0), (facts(71.6, 96), True, 1382),
    (facts(96, 71.6), True, 1382), (facts(12, 12), True, 1382), (facts(-1, 96), True, 1373),
    (facts(96, -1), True, 1177), (facts(96, None), True, 1177), (facts(96, 96, begins=1), True, 1163),
    (facts(96, 96, begins=0.2), True, 0), (facts(96, 96, has_key=False), True, 1163),
    (facts(12, 12), False, 0), (facts(0.7, 0.7), False, 0), (facts(0.6, 12), False, 1373),
    (facts(12, 0.6), False, 1370), (facts(-1, 12), False, 1373), (facts(12, -1), False, 1370),
    (facts(12, None), False, 1177),
])
def test_hours_that_are_needed(proxy: ProxyFacts, at_start: bool, code: int) -> None:
    found, text = judge(proxy, "/tmp/proxy", at_start=at_start, now=NOW)
    assert found == code
    assert (not code and not text) or "/tmp/proxy" in text


@pytest.mark.parametrize(("answer", "at_start", "code", "words"), [
    (ToolAnswer(0, f"{NOW + 96 * HOUR:.0f}\n345600\n{NOW + 96 * HOUR:.0f}\n345600\n", ""), True, 0, ""),
    (ToolAnswer(0, f"{NOW + 96 * HOUR:.0f}\n345600\n{NOW + 12 * HOUR:.0f}\n43200\n", ""), True, 1382, "72 h"),
    (ToolAnswer(0, f"{NOW + 0.5 * HOUR:.0f}\n1800\n{NOW + 12 * HOUR:.0f}\n43200\n", ""), False, 1373, "1 h"),
    (ToolAnswer(127, "", "arcproxy: error while loading shared libraries: libarc.so"), True, 0, "1381"),
    (ToolAnswer(1, "Unable to verify signature! Server certificate possibly not installed", ""), True, 0, "signature"),
    (ToolAnswer(1, "arcproxy: Failed", ""), True, 1380, "Failed"),
    (ToolAnswer(1, "", "no proxy"), True, 1177, "no proxy"),
    (ToolAnswer(0, "what\nis\nthis\n?", ""), True, 1008, "cannot be understood"),
    (ToolAnswer(0, "", ""), True, 1008, "cannot be understood"),
])
def test_what_arcproxy_says(answer: ToolAnswer, at_start: bool, code: int, words: str) -> None:
    found, text = interpret_arcproxy(answer, "/tmp/proxy", at_start=at_start, now=NOW)
    assert found == code
    assert words in text


def test_commands_are_asked_when_the_file_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "odd.proxy"
    path.write_text("an odd format")
    asked = []

    def run(argv: list[str], environ: Mapping[str, str]) -> Optional[ToolAnswer]:
        asked.append(argv[0])
        assert environ["X509_USER_PROXY"] == str(path)
        return ToolAnswer(0, "96:00:00\n100:00:00\n", "") if argv[0] == "voms-proxy-info" else None

    assert verify_proxy(str(path), at_start=True, now=NOW, run=run) == (0, "")
    assert asked == ["arcproxy", "voms-proxy-info"]
    assert verify_proxy(str(path), at_start=True, now=NOW, run=lambda argv, environ: None)[0] == 1163


def test_no_file_at_all(tmp_path: Path) -> None:
    assert verify_proxy("", at_start=True)[0] == 1163
    code, text = verify_proxy(str(tmp_path / "missing"), at_start=True, run=lambda argv, environ: None)
    assert (code, "No such file" in text) == (1163, True)


def test_roles() -> None:
    assert get_voms_role() == get_voms_role("production") == "atlas:/atlas/Role=production"
    assert getproxy_dictionary(get_voms_role("user")) == {"role": "atlas", "dn": "atlpilo2"}
    assert getproxy_dictionary(get_voms_role("production")) == {"role": "atlas:/atlas/Role=production"}
    from pilot.info.job import Job

    assert Atlas().payload_proxy_role(Job(jobid="1")) == ("atlas", "atlpilo2")
