"""Experiments: what differs between them, the guard before their hooks, how they are found."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest

from pilot.common.exception import PilotException, TrfDownloadFailure
from pilot.info.job import Job
from pilot.info.payloadtask import FileText, PayloadCommand, UtilityCommand
from pilot.payload.transform import is_allowed
from pilot.user import UnknownExperiment, load_experiment
from pilot.user.base import Experiment
from pilot.user.guard import PluginFault, attributes, fits, guard, hooks

ROOT = Path(__file__).parents[3]
THIN = ("generic", "rubin", "sphenix", "eic", "ska", "darkside")
IMAGE = Job(jobid="1", imagename="docker://an/image", platform="x86_64-el9")
QUEUE: Any = None  # thin experiments do not ask it


@pytest.mark.parametrize("name", THIN)
@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title])
def test_experiments_are_found_in_any_spelling(name: str, spelling: Any) -> None:
    assert load_experiment(spelling(name)).name == name


@pytest.mark.parametrize("name", THIN)
def test_thin_experiments_are_thin(name: str) -> None:
    lines = (ROOT / "pilot" / "user" / name / "__init__.py").read_text().splitlines()
    assert len(lines) < 60


def test_what_rubin_does_differently() -> None:
    rubin = load_experiment("Rubin")
    assert not rubin.allow_timefloor("push") and rubin.allow_timefloor("pull")
    assert rubin.pilot_id("https://logs.example/PandaJob_4711/out.txt", "6000000001") == (
        "https://logs.example/PandaJob_6000000001/out.txt")
    assert rubin.pilot_id("https://logs.example/out.txt", "6") == "https://logs.example/out.txt"
    assert rubin.pilot_id("", "6") == "unknown"
    assert "memory_*" in rubin.looping_exclusions
    assert not rubin.uses_container(IMAGE, QUEUE)
    for url in ("http://pandaserver.cern.ch:25080/trf/user/run", "https://pandaserver-doma.cern.ch/x",
                "https://storage.googleapis.com/drp-us-central1-containers/x"):
        assert is_allowed(url, rubin.transform_base_urls), url
    assert not is_allowed("https://pandaserver.cern.ch.example.org/x", rubin.transform_base_urls)


def test_what_sphenix_does_differently() -> None:
    sphenix = load_experiment("sPHENIX")
    assert sphenix.mv_to_final_destination
    assert sphenix.realtime_server == "logstash;http://splogstash.sdcc.bnl.gov:8080"
    assert sphenix.realtime_tls == (False, False)
    assert not sphenix.uses_container(IMAGE, QUEUE)
    assert sphenix.allow_timefloor("push")


@pytest.mark.parametrize(("fields", "expected"), [
    ({}, "el9#x86_64"), ({"imagename": "NULL"}, "el9#x86_64"), ({"platform": "x86_64-el8"}, "el9#x86_64"),
    ({"imagename": "docker://an/image"}, ""), ({"alrbuserplatform": "centos7"}, "centos7"),
])
def test_eic_takes_the_platform_of_the_site(fields: dict[str, str], expected: str) -> None:
    job = Job(jobid="1", **fields)  # type: ignore[arg-type]
    load_experiment("EIC").complete_job(job, {"ALRB_USER_PLATFORM": "el9#x86_64"})
    assert job.alrbuserplatform == expected


@pytest.mark.parametrize("name", ["generic", "sphenix", "eic", "ska", "darkside"])
def test_the_others_download_from_where_generic_does(name: str) -> None:
    bases = load_experiment(name).transform_base_urls
    assert is_allowed("https://pandaserver-doma.cern.ch/trf/user/run", bases)
    assert not is_allowed("https://pandaserver.cern.ch/trf/user/run", bases)


# --- the interface ----------------------------------------------------------------------------------------------------

LATER: set[str] = set()
"""Nothing asks for them yet."""


def _names_used_outside_of_user() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "pilot").rglob("*.py"):
        if "user" in path.relative_to(ROOT / "pilot").parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("experiment"):
                found.add(node.attr)
    return found


def test_every_hook_is_called_and_every_attribute_read() -> None:
    used = _names_used_outside_of_user()
    assert {*hooks(), *attributes()} - used - LATER - {"name"} == set()


def test_every_hook_says_when_it_is_called() -> None:
    for name in hooks():
        text = getattr(Experiment, name).__doc__ or ""
        assert len(text.split()) >= 6, name


# --- the guard --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "wanted"), [
    ("x", "str"), (True, "bool"), (3, "int"), (3, "float"), (None, "None"), (None, "Optional[str]"),
    ("x", "str | None"),
    ([], "Sequence[str]"), (("a", "b"), "Sequence[str]"), ((0, ""), "tuple[int, str]"),
    ([(1, "x")], "list[tuple[int, str]]"),
    ({"a": "b"}, "Mapping[str, str]"), (PayloadCommand("true"), "PayloadCommand"), (object(), "Any"),
    (object(), "object"),
    (PayloadCommand("x", files={"a": FileText("x")}, masked=["s"]), "PayloadCommand"), (Path("x"), "Path"),
    ([UtilityCommand("a", "b")], "Sequence[UtilityCommand]"), (len, "Callable[[], str]"),
    ((1, 2, 3), "tuple[int, ...]"),
])
def test_values_that_fit(value: object, wanted: str) -> None:
    assert fits(value, wanted)


@pytest.mark.parametrize(("value", "wanted"), [
    (None, "str"), ("yes", "bool"), (1, "bool"), (True, "int"), ("", "None"), (3, "Optional[str]"),
    ("abc", "Sequence[str]"),
    ([1], "Sequence[str]"), ((0,), "tuple[int, str]"), (("", 0), "tuple[int, str]"), ([1], "list[tuple[int, str]]"),
    ({"a": 1}, "Mapping[str, str]"), ({1: "a"}, "Mapping[str, str]"), ([("a", "b")], "Mapping[str, str]"),
    ("true", "PayloadCommand"), (PayloadCommand(None), "PayloadCommand"),  # type: ignore[arg-type]
    (PayloadCommand("x", files={"a": "text"}), "PayloadCommand"),  # type: ignore[dict-item]
    (iter([]), "Sequence[str]"), (b"x", "str"), (object(), "str | None"),
    ([UtilityCommand("a", 1)], "Sequence[UtilityCommand]"),  # type: ignore[arg-type]
])
def test_values_that_do_not_fit(value: object, wanted: str) -> None:
    assert not fits(value, wanted)


def test_defaults_of_the_interface_fit_it() -> None:
    plugin = guard(Experiment())
    assert plugin.sanity_check() == (0, "")
    assert plugin.verify_proxy("", at_start=True) == (0, "")
    assert plugin.pilot_id("", "1") == "unknown"
    assert plugin.complete_job(Job(jobid="1"), {}) is None  # type: ignore[func-returns-value]


def test_a_fault_names_the_hook_the_class_and_the_line() -> None:
    class Faulty(Experiment):
        name = "faulty"

        def pilot_id(self, gtag: str, job_id: str) -> str:
            raise KeyError("nothing here")

        def cpu_architecture_level(self) -> str:
            sys.exit(3)

        def metadata(self, job: Job, report_text: str) -> Any:
            return 42

        def verify_job(self, job: Job, queue: Any) -> Any:
            raise TrfDownloadFailure("its own words")

    plugin = guard(Faulty())
    with pytest.raises(PluginFault, match=r"hook pilot_id of experiment faulty .*Faulty\) failed: "
                                          r"KeyError: 'nothing here' \(test_experiments_unit.py:\d+\)"):
        plugin.pilot_id("", "1")
    with pytest.raises(PluginFault, match="SystemExit: 3"):
        plugin.cpu_architecture_level()
    with pytest.raises(PluginFault, match="hook metadata .* returned 42, wanted str"):
        plugin.metadata(IMAGE, "")
    with pytest.raises(TrfDownloadFailure):  # what a hook raises on purpose keeps its code
        plugin.verify_job(IMAGE, QUEUE)


@pytest.mark.parametrize(("text", "words"), [
    ("raise RuntimeError('import is broken')", "RuntimeError: import is broken"),
    ("def syntax error", "SyntaxError"),
    ("class X: pass", "not a subclass"),
    ("from pilot.user.base import Experiment\nclass X(Experiment):\n    def __init__(self): raise ValueError('no')",
     "X cannot be used: ValueError: no"),
    ("from pilot.user.base import Experiment\nclass X(Experiment):\n    transform_base_urls = 'http://one'",
     "transform_base_urls is 'http://one', wanted Sequence[str]"),
    ("from pilot.user.base import Experiment\nclass X(Experiment):\n    verify_job = None", "wanted a method"),
    ("y = 1", "has no attribute 'X'"),
])
def test_a_plug_in_that_cannot_be_used_is_named_with_the_reason(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "brokenplugin.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "brokenplugin", raising=False)
    with pytest.raises(UnknownExperiment) as caught:
        load_experiment("mine", {"mine": "brokenplugin:X"})
    assert words in caught.value.detail and "--pilot-user mine" in caught.value.detail
    monkeypatch.delitem(sys.modules, "brokenplugin", raising=False)


def test_an_unknown_experiment_lists_the_known_ones() -> None:
    with pytest.raises(UnknownExperiment) as caught:
        load_experiment("nosuch")
    assert isinstance(caught.value, PilotException)
    assert all(name in caught.value.detail for name in THIN)
