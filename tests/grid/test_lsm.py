"""The copytool lsm with commands as a site has them: small shell scripts over a directory that plays the storage."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Dict, Mapping

import pytest

from pilot.common.exception import MiddlewareImportFailure
from pilot.info.storage import StorageData
from pilot.util.cancel import CancelledError
from pilot.util.helper import HelperPool
from tests.grid.adapters import SMALL, Adapter, adler32, move
from tests.grid.conformance import PATIENCE, Downloads, Permissions, Running, leftovers, refused, until

GET = """#!/bin/bash
# lsm-get URL FILE
[ $# = 2 ] || { echo "usage: lsm-get url file" >&2; exit 1; }
exec cp -- "$STORAGE/${1#root://storage.example.org/}" "$2"
"""
PUT = """#!/bin/bash
# lsm-put --size BYTES -t TOKEN --checksum TYPE:HEX --guid GUID FILE URL
printf '%s\\n' "$@" > "$STORAGE/.asked"
target="$STORAGE/${@: -1}"; target="${target/root:\\/\\/storage.example.org\\//}"
[ -e "$target" ] && { echo "$target: File exists"; exit 211; }
mkdir -p -- "$(dirname -- "$target")" && cp -- "${@: -2:1}" "$target"
"""


class Lsm(Adapter):
    """The commands lie in a directory that only the queue's ``setup`` makes known."""

    tool_name = "lsm"

    def __init__(self, workdir: Path, helpers: HelperPool) -> None:
        super().__init__(workdir, helpers)
        self.storage = workdir / "storage"
        self.commands = workdir / "site commands"
        self.setup = workdir / "the setup.sh"
        for directory in (self.storage, self.commands):
            directory.mkdir()
        self.setup.write_text(f'export PATH="{self.commands}:$PATH" STORAGE="{self.storage}"\necho welcome\n')
        self.command("lsm-get", GET)
        self.command("lsm-put", PUT)
        self.token = "ATLASDATADISK"

    def command(self, name: str, text: str) -> None:
        """Write a command of the site."""
        (self.commands / name).write_text(text)
        (self.commands / name).chmod(0o755)

    def options(self) -> Mapping[str, object]:
        return {"setup": str(self.setup)}

    def config(self, **changes: Any) -> Any:
        def storages(names: list[str]) -> Dict[str, StorageData]:
            return {name: StorageData(name=name, token=self.token) for name in names}

        return super().config(storage=storages, **changes)

    def url_for(self, name: str, port: int = 0) -> str:
        return f"root://storage.example.org/{name}"

    def put(self, name: str, content: bytes) -> None:
        path = self.storage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def get(self, name: str) -> bytes:
        return (self.storage / name).read_bytes()

    def exists(self, name: str) -> bool:
        return (self.storage / name).exists()

    def deny(self, name: str) -> None:
        self.command("lsm-get", "#!/bin/bash\necho 'cannot open: Permission denied' >&2; exit 13\n")
        self.command("lsm-put", "#!/bin/bash\necho 'cannot open: Permission denied'; exit 13\n")


@pytest.fixture
def adapter(tmp_path: Path, helpers: HelperPool) -> Lsm:
    return Lsm(tmp_path, helpers)


class TestLsm(Downloads, Permissions):
    """Cases of all tools."""

    @pytest.fixture
    def adapter(self, tmp_path: Path, helpers: HelperPool) -> Lsm:
        return Lsm(tmp_path, helpers)


def test_an_output_is_given_to_the_site_with_all_that_is_known(adapter: Lsm) -> None:
    transfer = adapter.upload("a/dir/my output.root", SMALL, guid="0A-1B")
    result = move(adapter.tool(), transfer)
    assert adapter.get("a/dir/my output.root") == SMALL
    assert adapter.get(".asked").decode().splitlines() == [
        "--size", str(len(SMALL)), "-t", "ATLASDATADISK", "--checksum", f"adler32:{adler32(SMALL)}", "--guid", "0A-1B",
        str(transfer.local), transfer.url,
    ]  # fmt: skip
    assert (result.size, dict(result.checksum), result.url) == (len(SMALL), {"adler32": adler32(SMALL)}, transfer.url)


def test_an_endpoint_without_space_token_is_a_clear_error(adapter: Lsm) -> None:
    adapter.token = ""
    error = refused(adapter.tool(), adapter.upload("output", SMALL), 1137)
    assert "copy_out() failed to resolve token value for ddmendpoint=TEST_DISK" in error.detail
    assert not adapter.exists("output")


def test_an_unknown_endpoint_is_a_clear_error(adapter: Lsm) -> None:
    tool = adapter.tool()
    object.__setattr__(tool.config, "storage", lambda _names: {})
    refused(tool, adapter.upload("output", SMALL), 1137)


def test_a_missing_output_is_told_apart_before_the_site_is_asked(adapter: Lsm) -> None:
    transfer = adapter.upload("output", SMALL)
    transfer.local.unlink()
    refused(adapter.tool(), transfer, 1103)
    assert not adapter.exists(".asked")


@pytest.mark.parametrize(
    ("command", "text", "code"),
    [
        ("lsm-put", "echo 'the service is not available at the moment'; exit 1", 1324),
        ("lsm-put", "echo 'No space left on device' >&2; exit 28", 1333),
        ("lsm-put", "echo 'something else'; exit 3", 1137),
        ("lsm-put", "kill -9 $$", 1137),
        ("lsm-get", "echo 'No such file or directory' >&2; exit 2", 1331),
        ("lsm-get", "echo 'Network is unreachable' >&2; exit 1", 1327),
        ("lsm-get", "exit 7", 1099),
    ],
)
def test_what_the_command_says_decides_the_code(adapter: Lsm, command: str, text: str, code: int) -> None:
    adapter.command(command, f"#!/bin/bash\n{text}\n")
    transfer = adapter.upload("file", SMALL) if command == "lsm-put" else adapter.download("file", SMALL)
    error = refused(adapter.tool(), transfer, code)
    assert command in error.detail


def test_an_existing_destination_is_told_apart(adapter: Lsm) -> None:
    adapter.put("output", b"another")
    error = refused(adapter.tool(), adapter.upload("output", SMALL), 1221)
    assert not getattr(error, "remains", True)
    assert adapter.get("output") == b"another"


@pytest.mark.parametrize("name", ["with space", "-dash", "quo\"te's", "$HOME`id`", "semi;colon"])
def test_odd_names_are_never_interpreted(adapter: Lsm, name: str) -> None:
    move(adapter.tool(), adapter.upload(f"odd/{name}", SMALL))
    assert adapter.get(f"odd/{name}") == SMALL


def test_a_command_that_is_not_there_is_a_missing_tool(adapter: Lsm) -> None:
    (adapter.commands / "lsm-get").unlink()
    with pytest.raises(MiddlewareImportFailure) as caught:
        move(adapter.tool(), adapter.download("input", SMALL))
    assert caught.value.code == 1342 and "lsm-get" in caught.value.detail
    with pytest.raises(MiddlewareImportFailure):
        move(adapter.tool(options={}), adapter.download("input", SMALL))


def test_a_setup_file_that_fails_stops_the_transfer(adapter: Lsm) -> None:
    adapter.put("input", SMALL)
    adapter.setup.write_text("echo no modules here >&2; return 5\n")
    error = refused(adapter.tool(), adapter.download("input", SMALL), 1099)
    assert "no modules here" in error.detail
    adapter.setup.unlink()
    assert "setup.sh" in refused(adapter.tool(), adapter.download("input", SMALL), 1331, 1099).detail


def test_a_command_that_takes_too_long_is_a_time_out_and_leaves_nothing(adapter: Lsm) -> None:
    adapter.command("lsm-get", '#!/bin/bash\necho half > "$2"; exec sleep 1000\n')
    refused(adapter.tool(), adapter.download("input", SMALL, timeout=0.5), 1151)
    assert leftovers(adapter) == []
    adapter.command("lsm-put", "#!/bin/bash\nexec sleep 1000\n")
    error = refused(adapter.tool(), adapter.upload("output", SMALL, timeout=0.5), 1152)
    assert getattr(error, "remains", False)


def test_a_command_that_is_broken_off_dies_with_its_children_and_leaves_nothing(adapter: Lsm) -> None:
    pipe = adapter.workdir / "alive"
    os.mkfifo(pipe)
    adapter.command("lsm-get", f'#!/bin/bash\necho half > "$2"; sleep 1000 > "{pipe}" & wait\n')
    running = Running(adapter.tool(), adapter.download("input", SMALL))
    with open(pipe, "rb") as alive:  # opens when the child has begun, ends when it is gone
        assert stat.S_ISFIFO(os.fstat(alive.fileno()).st_mode)
        running.cancel()
        assert isinstance(running.error, CancelledError)
        assert alive.read() == b""
    until(lambda: leftovers(adapter) == [], f"the partial file is removed within {PATIENCE} s")
