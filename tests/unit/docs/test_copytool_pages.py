"""The table of copytools, and the copytool that the developer guide explains."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from pilot.common.exception import MiddlewareImportFailure
from pilot.copytool.base import CopyTool
from pilot.copytool.registry import SUCCESSORS, known_names, load_tool, tool_names
from pilot.util.cancel import CancelToken
from pilot.util.helper import HelperFailure, HelperPool
from tests.disks import small_disk  # noqa: F401 - a fixture
from tests.grid.adapters import Adapter
from tests.grid.conformance import Downloads, Uploads

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "docs"))

import generate_copytools  # noqa: E402


def test_the_table_has_every_tool_with_all_its_names() -> None:
    rows = [line for line in generate_copytools.page().splitlines() if line.startswith("| `")]
    tools = rows[: len(tool_names())]
    named = {name for row in tools for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert named == set(known_names())
    for row in tools:
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert len(cells) == 8 and cells[1] and cells[7], row
    dead = {line.split("`")[1] for line in rows[len(tools):]}
    assert dead == set(SUCCESSORS)


def test_a_feature_shows_in_the_table() -> None:
    (row,) = [row for row in generate_copytools.page().splitlines() if row.startswith("| `rucio`")]
    assert "many files per call" in row and "replicas" in row and "traces" in row


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The code of the guide as a package."""
    guide = (ROOT / "docs" / "developer-guide.md").read_text(encoding="utf-8")
    section = guide[guide.index("## How to write a copytool"):]
    blocks: List[str] = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[:2]
    package = tmp_path_factory.mktemp("plugin") / "shelfpackage"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, block in zip(("tool", "worker"), blocks):
        (package / f"{name}.py").write_text(block, encoding="utf-8")
    sys.path.insert(0, str(package.parent))
    yield package.parent
    sys.path.remove(str(package.parent))


class Shelf(Adapter):
    """A directory."""

    tool_name = "shelf"

    def tool(self, **changes: Any) -> CopyTool:
        return load_tool("shelf", self.config(**changes), {"shelf": "shelfpackage.tool:ShelfTool"})

    def path(self, name: str) -> Path:
        return self.workdir / "shelf" / name

    def url_for(self, name: str, port: int = 0) -> str:
        return f"shelf://{self.path(name)}"

    def put(self, name: str, content: bytes) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_bytes(content)

    def get(self, name: str) -> bytes:
        return self.path(name).read_bytes()

    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    def identity(self, name: str) -> object:
        return self.path(name).stat().st_ino, self.path(name).stat().st_mtime_ns


class TestTheToolOfTheGuide(Downloads, Uploads):
    """It passes the cases that make sense for a directory."""

    # there is no server before which an upload could be held
    test_a_file_in_the_making_is_left_alone = None  # type: ignore[assignment]

    @pytest.fixture
    def adapter(self, tmp_path: Path, example: Path) -> Shelf:
        return Shelf(tmp_path, HelperPool())


LIBRARY = """
class Job:
    size, errno, error = 4, 13, "the shelf is locked"
    def __init__(self, source, on_bytes):
        self.source = source
        on_bytes(4)
    def abort(self):
        pass
    def wait(self):
        return self.source != "locked"

def start(source, target, on_bytes):
    return Job(source, on_bytes)
"""


def test_the_worker_of_the_guide_runs_in_a_helper(example: Path) -> None:
    env: Dict[str, str] = {"PATH": os.environ["PATH"], "PYTHONPATH": str(example)}
    nothing = pytest.raises(MiddlewareImportFailure, match="shelflib")
    with HelperPool(pythons=(sys.executable,)).session() as pool, nothing:
        pool.call("shelfpackage.worker", "copy", {}, env=env, token=CancelToken())
    (example / "shelflib.py").write_text(textwrap.dedent(LIBRARY))
    told: List[int] = []
    with HelperPool(pythons=(sys.executable,)).session() as pool:
        answer = pool.call("shelfpackage.worker", "copy", {"source": "a", "target": "b"}, env=env, token=CancelToken(),
                           on_event=lambda event: told.append(event["bytes"]))
        assert (answer, told) == ({"size": 4}, [4])
        with pytest.raises(HelperFailure) as caught:
            pool.call("shelfpackage.worker", "copy", {"source": "locked", "target": "b"}, env=env, token=CancelToken())
        assert (caught.value.text, caught.value.facts["errno"]) == ("the shelf is locked", 13)
