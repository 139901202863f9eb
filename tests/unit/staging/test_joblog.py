"""The log archive: what is in it, what never is, and what happens on bad days."""

from __future__ import annotations

import os
import random
import tarfile
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from pilot.common.exception import PilotException
from pilot.info.filespec import FileSpec
from pilot.staging.joblog import create_log_archive
from pilot.staging.stageout import stage_out
from pilot.util.archive import NOTES
from pilot.util.cancel import CancelToken

LFN = "log.42.job.log.tgz"
TOP = "tarball_PandaJob_42_LOCAL_TEST"


def archive(site: Any, context: Any = None, token: CancelToken | None = None) -> dict[str, bytes]:
    """Create the archive and return {name below the top directory: content}."""
    site.job.logdata = [FileSpec(lfn=LFN, filetype="log", guid="f7414d5a")]
    spec = create_log_archive(site.job, context or site.context(), token or CancelToken())
    assert spec is site.job.logdata[0]
    data = (site.home / LFN).read_bytes()
    assert spec.filesize == len(data)
    assert spec.checksum == {"adler32": f"{zlib.adler32(data):08x}"}
    result = {}
    with tarfile.open(site.home / LFN) as tar:
        for member in tar:
            assert member.isreg()
            top, _, name = member.name.partition("/")
            assert top == TOP
            source = tar.extractfile(member)
            assert source is not None
            result[name] = source.read()
    return result


def test_the_archive_holds_the_work_directory_under_its_name(site: Any) -> None:
    (site.workdir / "payload.stdout").write_text("hello\n")
    (site.workdir / "sub/deep").mkdir(parents=True)
    (site.workdir / "sub/deep/x.log").write_text("deep")
    assert archive(site) == {"payload.stdout": b"hello\n", "sub/deep/x.log": b"deep"}


def test_the_pilot_log_comes_first_also_through_its_link(site: Any) -> None:
    (site.home / "pilotlog.txt").write_text("pilot")
    (site.workdir / "pilotlog.txt").symlink_to("../pilotlog.txt")
    (site.workdir / "aaa").write_text("a")
    content = archive(site)
    assert list(content)[0] == "pilotlog.txt"
    assert content == {"pilotlog.txt": b"pilot", "aaa": b"a"}


def test_inputs_outputs_and_the_archive_itself_stay_out(site: Any) -> None:
    site.input("in.root")
    (site.workdir / "in.root").write_text("input")
    site.output("out.root")
    (site.workdir / LFN).write_text("old archive")
    (site.workdir / "note").write_text("n")
    assert archive(site) == {"note": b"n"}


SECRETS = [
    "panda_secrets.json", "x509up_u500", "x509_proxy", "user.proxy", "MyProxy.txt", "hostkey.pem", "panda_token",
    "id_rsa", ".netrc", "special.tok", "sub/panda_secrets.json", ".ssh/config",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_never_get_in(site: Any, name: str) -> None:
    (site.workdir / name).parent.mkdir(exist_ok=True)
    (site.workdir / name).write_text("top secret")
    context = site.context()
    context.secret_files = ("/somewhere/special.tok",)
    content = archive(site, context)
    assert list(content) == [NOTES]
    assert b"may hold secrets" in content[NOTES]
    assert b"top secret" not in b"".join(content.values())


def test_a_private_key_under_a_harmless_name_stays_out(site: Any) -> None:
    (site.workdir / "notes.txt").write_text("x\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n")
    assert list(archive(site)) == [NOTES]


def test_links_pipes_and_cores_stay_out_and_are_noted(site: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host file")
    (site.workdir / "link").symlink_to(tmp_path / "secret")
    (site.workdir / "loop").symlink_to("loop")
    (site.workdir / "dirlink").symlink_to("/etc")
    (site.workdir / "payload.stderr").symlink_to(tmp_path / "secret")
    os.mkfifo(site.workdir / "pipe")
    (site.workdir / "core.1234").write_text("core")
    (site.workdir / "core.dat").write_text("detector core")
    content = archive(site)
    assert set(content) == {"core.dat", NOTES}
    notes = content[NOTES].decode()
    for line in ("link: a link", "loop: a link", "dirlink: a link", "pipe: no regular file", "core.1234: a core dump"):
        assert line in notes


def test_core_dumps_are_kept_in_debug_mode(site: Any) -> None:
    (site.workdir / "core.1234").write_text("core")
    site.job.debug = True
    assert archive(site) == {"core.1234": b"core"}


def test_the_patterns_of_the_experiment_are_relative_and_protect_what_must_stay(site: Any) -> None:
    for name in ("big.root", "jobReport.root", "work"):
        (site.workdir / name).write_text(name)
    (site.workdir / "sub").mkdir()
    (site.workdir / "sub/other.root").write_text("o")
    context = site.context()
    context.redundant_patterns = ("*.root*", "/work")
    assert archive(site, context) == {"jobReport.root": b"jobReport.root"}


def test_a_file_above_the_limit_is_noted_and_a_log_keeps_its_end(site: Any) -> None:
    (site.workdir / "huge").write_bytes(bytes(5000))
    (site.workdir / "payload.stdout").write_bytes(b"a" * 5000 + b"the end")
    content = archive(site, site.context(limits__log_archive_max_file=1000))
    assert content["payload.stdout"] == b"a" * 993 + b"the end"
    assert set(content) == {"payload.stdout", NOTES}
    assert b"huge: too large (5000 B, limit 1000 B)" in content[NOTES]
    assert b"payload.stdout: only the last 1000 of 5007 B" in content[NOTES]


def test_a_sparse_file_is_noted(site: Any) -> None:
    with open(site.workdir / "holes", "wb") as out:
        out.truncate(1 << 30)
    assert b"a sparse file (1073741824 B" in archive(site)[NOTES]


def test_a_work_directory_that_is_gone_leaves_the_pilot_log(site: Any) -> None:
    (site.home / "pilotlog.txt").write_text("pilot")
    site.workdir.rmdir()
    content = archive(site)
    assert content["pilotlog.txt"] == b"pilot"
    assert b"not there (any more)" in content[NOTES]


def test_a_job_that_never_got_a_work_directory_does_not_archive_the_current_one(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.home / "pilotlog.txt").write_text("pilot")
    (site.launch / "private").write_text("not ours")
    monkeypatch.chdir(site.launch)
    site.job.workdir = Path()
    assert set(archive(site)) == {"pilotlog.txt", NOTES}


def test_a_job_without_log_needs_none(site: Any) -> None:
    assert create_log_archive(site.job, site.context(), CancelToken()) is None


def test_the_archive_then_goes_out_from_where_it_was_made(site: Any) -> None:
    (site.workdir / "note").write_text("n")
    archive(site)
    stage_out(site.job, site.job.logdata, site.context(), CancelToken(), log=True)
    spec = site.job.logdata[0]
    assert (spec.status, spec.surl) == ("transferred", f"file://localhost{site.home}/{LFN}")
    assert (site.home / "output.list").read_text().startswith(f"{LFN} file://localhost{site.home}/{LFN}:checksumtype=")


def test_a_log_goes_to_output_dir_too(site: Any, tmp_path: Path) -> None:
    archive(site)
    stage_out(
        site.job, site.job.logdata, site.context(options={"output_dir": str(tmp_path / "o")}), CancelToken(), log=True
    )
    with tarfile.open(tmp_path / "o" / LFN) as tar:
        assert tar.getnames() == []


def test_when_the_time_is_over_the_reduced_archive_arrives(site: Any) -> None:
    (site.home / "pilotlog.txt").write_text("pilot")
    (site.workdir / "other").write_text("x")
    token = CancelToken()
    token.set_deadline(time.monotonic() - 1)
    content = archive(site, token=token)
    assert set(content) == {"pilotlog.txt", NOTES}
    assert b"reduced archive" in content[NOTES]


def test_a_directory_in_the_way_is_a_log_creation_failure(site: Any) -> None:
    (site.home / LFN).mkdir()
    site.job.logdata = [FileSpec(lfn=LFN, filetype="log")]
    with pytest.raises(PilotException) as caught:
        create_log_archive(site.job, site.context(), CancelToken())
    assert caught.value.code == 1320
    assert list(site.home.glob("*.part")) == []


def test_random_trees_come_back_byte_by_byte(site: Any) -> None:
    rng = random.Random(42)  # noqa: S311 - not for cryptography
    expected = {}
    letters = "abcXYZ09 _-+=,;'\"\\äß字\t\u2028*?[]"
    for round_number in range(60):
        parts = [
            "".join(rng.choice(letters) for _ in range(rng.randint(1, 60))).strip() or "x"
            for _ in range(rng.randint(1, 6))
        ]
        parts[-1] = f"{round_number}{parts[-1]}"
        relative = "/".join(parts)
        path = site.workdir / relative
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            continue
        expected[relative] = rng.randbytes(rng.choice([0, 1, 511, 512, 513, 10_240, 300_000]))
        path.write_bytes(expected[relative])
    assert len(expected) > 30
    assert archive(site) == expected


def test_a_name_that_is_no_text_is_archived(site: Any) -> None:
    (site.workdir / os.fsdecode(b"bad\xff\xfename")).write_text("odd")
    assert list(archive(site).values()) == [b"odd"]
