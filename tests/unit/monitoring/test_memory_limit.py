"""The memory limit of a job: the whole table of the rule, and what the server may send instead of resource types."""

from __future__ import annotations

import threading
from typing import Any, Mapping, Optional

import pytest

from pilot.common.exception import PilotException
from pilot.info import resourcetypes
from pilot.info.resourcetypes import ResourceTypes, read_table
from pilot.monitoring.memorylimit import MemoryFacts, memory_bound

SERVER = {"SCORE": 2500, "MCORE": 2100, "MCORE_HIMEM": 3500, "SCORE_HIMEM": None, "MCORE_LOMEM": 0, "ODD": 123}
FACTS = MemoryFacts("SCORE", 1, 0, True, 0, 1, 2.0)


def limit_mb(per_core: Optional[Mapping[str, Optional[int]]] = None, **changes: Any) -> Optional[float]:
    bound = memory_bound(FACTS._replace(**changes), per_core)
    return None if bound is None else bound.kb / 1024


@pytest.mark.parametrize(("name", "cores", "per_core", "megabytes"), [
    ("SCORE", 1, SERVER, 2500), ("MCORE", 8, SERVER, 2100 * 8), ("MCORE_HIMEM", 8, SERVER, 3500 * 8),
    ("ODD", 2, SERVER, 246), ("", 1, SERVER, 4001), ("UNKNOWN", 3, SERVER, 4001 * 3),
    ("SCORE_HIMEM", 1, SERVER, 4001), ("MCORE_LOMEM", 8, SERVER, 4001 * 8),  # null and 0 of the server
    ("SCORE_LOMEM", 1, SERVER, 4001),  # not in the table
    ("SCORE", 1, None, 2000), ("MCORE", 8, None, 16000), ("SCORE_HIMEM", 1, None, 3000),
    ("MCORE_HIMEM", 8, None, 24000),
    ("SCORE_LOMEM", 1, None, 1000), ("MCORE_LOMEM", 8, None, 8000), ("", 1, None, 4001), ("ODD", 1, None, 4001),
    ("score", 1, None, 4001), ("SCORE", 0, None, 2000), ("SCORE", 1, {}, 4001),
])
def test_per_core(name: str, cores: int, per_core: Any, megabytes: int) -> None:
    assert limit_mb(per_core, resource_type=name, cores=cores) == 2 * megabytes


@pytest.mark.parametrize(("name", "cores", "maxrss", "queue_cores", "megabytes"), [
    ("SCORE_VHIMEM", 1, 64000, 8, 8000), ("SCORE_VHIMEM", 2, 64000, 8, 16000), ("SCORE_VHIMEM", 1, 1000, 3, 1000 / 3),
    ("MCORE_VHIMEM", 8, 64000, 8, 64000), ("MCORE_VHIMEM", 16, 64000, 8, 64000),
])
def test_very_high_memory(name: str, cores: int, maxrss: int, queue_cores: int, megabytes: float) -> None:
    found = limit_mb(SERVER, resource_type=name, cores=cores, maxrss=maxrss, queue_cores=queue_cores)
    assert found == int(2 * megabytes * 1024) / 1024


@pytest.mark.parametrize(("name", "pull", "min_ram", "megabytes"), [
    ("GPU_VHIMEM", False, 3500, 3500), ("GPU_VHIMEM", True, 3500, 4000), ("GPU_VHIMEM", True, 4000, 4000),
    ("VHIMEM", True, 1, 1000), ("SCORE_VHIMEM_X", False, 10, 10),
    ("SCORE_VHIMEM", False, 3500, 3500), ("MCORE_VHIMEM", True, 3500, 4000),  # the queue has no maxrss
])
def test_minimum_of_the_job(name: str, pull: bool, min_ram: int, megabytes: int) -> None:
    assert limit_mb(SERVER, resource_type=name, pull=pull, min_ram=min_ram) == 2 * megabytes


def test_no_number_no_limit() -> None:
    assert limit_mb(SERVER, resource_type="GPU_VHIMEM") is None
    assert limit_mb(SERVER, grace=0.0) is None


def test_grace_and_origin() -> None:
    bound = memory_bound(FACTS._replace(cores=2, grace=1.1), SERVER)
    assert bound is not None and (bound.kb, bound.bytes) == (5632000, 5632000 * 1024)
    assert bound.origin == "SCORE (server) 2500 MB/core x 2 x grace 1.1"
    assert memory_bound(FACTS, None) == (4096000, "SCORE (built-in) 2000 MB/core x 1 x grace 2")
    none = memory_bound(FACTS._replace(resource_type=""), SERVER)
    assert none is not None and none.origin == "no resource type, (default) 4001 MB/core x 1 x grace 2"
    rounded = memory_bound(FACTS._replace(resource_type="A_VHIMEM", min_ram=1500), None)
    assert rounded is not None and rounded.origin == "the job's minRamCount 1500 MB (2000) x grace 2"


# --- the server's table -----------------------------------------------------------------------------------------------


def test_table_takes_what_makes_sense() -> None:
    items: list[dict[str, object]] = [
        {"resource_name": "A", "maxrampercore": 2000}, {"resource_name": "B", "maxrampercore": None},
        {"resource_name": "C", "maxrampercore": "1500"}, {"resource_name": "D", "maxrampercore": "x"},
        {"resource_name": "E", "maxrampercore": -5}, {"resource_name": "F", "maxrampercore": float("nan")},
        {"resource_name": "G", "maxrampercore": 1e300}, {"resource_name": "H", "maxrampercore": True},
        {"resource_name": "I"}, {"resource_name": 5, "maxrampercore": 1}, {"resource_name": "", "maxrampercore": 1},
        {"resource_name": "x" * 500, "maxrampercore": 1}, {}]
    assert read_table(items) == {
        "A": 2000, "B": None, "C": 1500, **dict.fromkeys("DEFGHI")}


def test_asked_once_and_only_on_demand() -> None:
    calls: list[int] = []
    gate = threading.Event()

    def download() -> list[dict[str, object]]:
        calls.append(1)
        assert gate.wait(30)
        return [{"resource_name": "SCORE", "maxrampercore": 7}]

    types = ResourceTypes(download)
    assert not types.settled and calls == []
    for _ in range(3):
        types.ask()
    assert not types.settled and types.per_core is None
    gate.set()
    assert types.wait(30) and types.settled and types.per_core == {"SCORE": 7} and calls == [1]
    types.ask()
    assert calls == [1]


@pytest.mark.parametrize("trouble", [PilotException("no answer"), ValueError("broken"), TypeError("None")])
def test_no_answer_leaves_the_built_in_values(trouble: Exception) -> None:
    def download() -> Any:
        raise trouble

    types = ResourceTypes(download)
    types.ask()
    assert types.wait(30) and types.per_core is None


def test_an_answer_that_never_comes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    types = ResourceTypes(lambda: [] if gate.wait(60) else [])
    types.ask()
    assert not types.settled
    monkeypatch.setattr(resourcetypes, "PATIENCE", 0.0)
    assert types.settled and types.per_core is None
    gate.set()


def test_no_server_no_question() -> None:
    types = ResourceTypes(None)
    types.ask()
    assert types.settled and types.per_core is None
