"""After a limit of the disk was broken: inputs and the middle of huge logs go, and nothing outside of the directory."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pilot.control.watch.makeroom import make_room
from pilot.info.filespec import FileSpec
from pilot.info.job import Job

LIMIT_KB = 100


@pytest.fixture
def ctx() -> Any:
    return SimpleNamespace(settings=SimpleNamespace(
        pilot=SimpleNamespace(local_size_limit_stdout=LIMIT_KB),
        payload=SimpleNamespace(payloadstdout="payload.stdout")))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = Job("1", workdir=tmp_path / "job")
    job.workdir.mkdir()
    job.errors.add(1104, "too large")
    return job


def inputs(job: Job, *names: str) -> None:
    job.indata = [FileSpec(lfn=name) for name in names]


def test_only_jobs_that_broke_a_limit_of_the_disk_lose_anything(ctx: Any, job: Job) -> None:
    inputs(job, "in.dat")
    (job.workdir / "in.dat").write_bytes(b"x")
    job.errors.remove(1104)
    job.errors.add(1305, "a failed payload")
    make_room(ctx, job)
    assert (job.workdir / "in.dat").exists()
    job.errors.add(1098, "no space")
    job.keep_workdir = True
    make_room(ctx, job)
    assert (job.workdir / "in.dat").exists(), "the server wants to keep it"
    job.keep_workdir = False
    make_room(ctx, job)
    assert not (job.workdir / "in.dat").exists()


def test_nothing_outside_of_the_directory_is_touched(ctx: Any, job: Job, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("target", "log.target", "hard"):
        (outside / name).write_bytes(b"a" * 300_000)
    inputs(job, "link", "../outside/target", "/etc/hostname", "gone", "directory")
    (job.workdir / "link").symlink_to(outside / "target")
    (job.workdir / "directory").mkdir()
    (job.workdir / "log.link").symlink_to(outside / "log.target")
    os.link(outside / "hard", job.workdir / "log.hard")
    (job.workdir / "workDir").symlink_to(outside)
    (outside / "tmp.stdout.1").write_bytes(b"b" * 300_000)
    make_room(ctx, job)
    assert not os.path.lexists(job.workdir / "link")
    assert (job.workdir / "directory").is_dir()
    assert {path.stat().st_size for path in outside.iterdir()} == {300_000}


def test_head_and_tail_of_a_huge_log_stay(ctx: Any, job: Job) -> None:
    (job.workdir / "log.huge").write_bytes(b"begin" + bytes(10_000_000) + b"end")
    (job.workdir / "payload.stdout").write_bytes(b"s" * 1000 * LIMIT_KB)
    (job.workdir / "log.not_a_log").mkdir()
    os.mkfifo(job.workdir / "log.fifo")
    make_room(ctx, job)
    kept = (job.workdir / "log.huge").read_bytes()
    assert kept.startswith(b"begin") and kept.endswith(b"end")
    assert b"left out" in kept and len(kept) < LIMIT_KB * 1024
    assert (job.workdir / "payload.stdout").stat().st_size == 1000 * LIMIT_KB, "it is below the limit"


def test_a_directory_that_is_gone_is_no_trouble(ctx: Any, job: Job) -> None:
    job.workdir.rmdir()
    make_room(ctx, job)
