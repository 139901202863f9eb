"""The job's directory is followed with few looks at files, and the figures are right when it matters."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path
from typing import Callable

import pytest

from pilot.monitoring import workdir as module
from pilot.monitoring.workdir import WorkdirTracker
from pilot.util.removal import remove_tree
from pilot.util.space import directory_size

OLD = 1_600_000_000


def age(path: Path, when: float = OLD) -> None:
    """Give a file or directory an old time: what has just changed is read again anyway."""
    os.utime(path, (when, when))


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks seem to be so dear that the next one is far away; reading directories again is free."""
    monkeypatch.setattr(module, "_WALKS", 1e-12)
    monkeypatch.setattr(module, "_MOST", 1e-12)
    monkeypatch.setattr(module, "_REREADING", 1e9)
    monkeypatch.setattr(module, "_SAVED", 1e9)


def populate(root: Path, directories: int = 5, files: int = 20) -> None:
    for number in range(directories):
        place = root / f"d{number}"
        place.mkdir()
        for file in range(files):
            (place / f"f{file}").write_bytes(b"x" * (file + 1))
            age(place / f"f{file}")
        age(place)
    age(root)


def test_sum_of_regular_files(tmp_path: Path) -> None:
    populate(tmp_path)
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    view = WorkdirTracker(tmp_path).look()
    assert (view.size, view.files) == tuple(directory_size(tmp_path)) == (5 * 210, 100)


def test_a_small_directory_is_walked_at_each_look(tmp_path: Path) -> None:
    populate(tmp_path, 2, 2)
    tracker = WorkdirTracker(tmp_path)
    first = tracker.look()
    os.truncate(tmp_path / "d0/f0", 5000)
    age(tmp_path / "d0/f0")
    tracker._walked -= 60
    second = tracker.look()
    assert second.walked > first.walked
    assert second.size == first.size + 4999


def test_new_and_removed_files_are_seen_between_walks(tmp_path: Path, lazy: None) -> None:
    populate(tmp_path)
    tracker = WorkdirTracker(tmp_path)
    before = tracker.look()
    (tmp_path / "d1/new").write_bytes(bytes(1000))
    (tmp_path / "d2/f19").unlink()
    deep = tmp_path / "d3/a/b/c"
    deep.mkdir(parents=True)
    (deep / "deep").write_bytes(bytes(500))
    after = tracker.look()
    assert after.walked == before.walked, "it was no walk"
    assert (after.size, after.files) == (before.size + 1000 - 20 + 500, before.files + 1)
    for path in sorted((tmp_path / "d3").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (tmp_path / "d3").rmdir()
    last = tracker.look()
    assert last.walked == before.walked
    assert (last.size, last.files) == tuple(directory_size(tmp_path))


def test_the_largest_and_the_latest_files_are_seen_growing(tmp_path: Path, lazy: None) -> None:
    populate(tmp_path)
    (tmp_path / "large").write_bytes(bytes(100_000))
    age(tmp_path / "large", OLD - 1000)
    age(tmp_path)
    tracker = WorkdirTracker(tmp_path)
    before = tracker.look()
    with open(tmp_path / "large", "ab") as stream:
        stream.write(bytes(5000))
    age(tmp_path)
    after = tracker.look()
    assert after.walked == before.walked
    assert after.size == before.size + 5000


def test_near_the_limit_every_look_is_a_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    populate(tmp_path)
    monkeypatch.setattr(module, "_WALKS", 1e-12)
    monkeypatch.setattr(module, "_MOST", 1e9)
    far, near = WorkdirTracker(tmp_path, limit=10**6), WorkdirTracker(tmp_path, limit=1100)
    for tracker, walks in ((far, False), (near, True)):
        first = tracker.look()
        assert (tracker.look().walked > first.walked) is walks


def test_space_that_the_disk_has_lost_brings_a_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    populate(tmp_path)
    monkeypatch.setattr(module, "_WALKS", 1e-12)
    monkeypatch.setattr(module, "_MOST", 1e9)
    used = [10**9]
    monkeypatch.setattr(module, "_used", lambda root: used[0])
    tracker = WorkdirTracker(tmp_path, limit=10**6)
    first = tracker.look()
    used[0] += 900_000
    assert tracker.look().walked == first.walked, "there is room for that"
    used[0] += 200_000
    assert tracker.look().walked > first.walked


def test_random_changes_end_in_the_same_sum_as_a_walk(tmp_path: Path, lazy: None) -> None:
    rng = random.Random(5)
    populate(tmp_path, 3, 5)
    tracker = WorkdirTracker(tmp_path)
    first = tracker.look()
    for turn in range(200):
        places = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
        place = rng.choice(places)
        files = [path for path in place.iterdir() if path.is_file()]
        action = rng.randrange(5)
        if action == 0 and len(places) < 30:
            (place / f"dir{turn}").mkdir()
        elif action == 1 and files:
            rng.choice(files).unlink()
        elif action == 2 and place != tmp_path:
            place.rename(tmp_path / f"moved{turn}")
        elif action == 3 and files:
            with open(rng.choice(files), "ab") as stream:
                stream.write(bytes(rng.randrange(1000)))
        else:
            (place / f"new{turn}").write_bytes(bytes(rng.randrange(1000)))
        view = tracker.look()
        assert view.walked == first.walked
        assert (view.size, view.files) == tuple(directory_size(tmp_path)), f"after turn {turn}, action {action}"


def test_files_with_holes_count_in_full_and_both_figures_are_known(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as stream:
        stream.truncate(1 << 40)
    view = WorkdirTracker(tmp_path).look()
    assert view.size == 1 << 40
    assert view.blocks < 1 << 20


def test_a_file_with_many_names_counts_once(tmp_path: Path, lazy: None) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_bytes(bytes(1000))
    for number in range(10):
        os.link(tmp_path / "a/file", tmp_path / f"name{number}")
    tracker = WorkdirTracker(tmp_path)
    assert tracker.look().size == 1000
    (tmp_path / "a/other").write_bytes(bytes(10))
    os.link(tmp_path / "a/file", tmp_path / "a/again")
    assert tracker.look().size == 1010
    assert tracker.walk().size == 1010


def test_more_directories_than_are_remembered(tmp_path: Path, lazy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DIRECTORIES", 10)
    populate(tmp_path, 100, 3)
    tracker = WorkdirTracker(tmp_path)
    view = tracker.look()
    assert (view.size, view.files) == tuple(directory_size(tmp_path))
    assert len(tracker._directories) == 10
    assert tracker.look().size == view.size
    (tmp_path / "d5/new").write_bytes(bytes(100))
    assert tracker.walk().size == view.size + 100
    assert "more directories" in "\n".join(tracker.listing())


@pytest.mark.parametrize(("levels", "unread"), [(550, 0), (1200, 1)])
def test_trees_deeper_than_a_path_may_be_long(tmp_path: Path, levels: int, unread: int) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (tmp_path / "top").write_bytes(bytes(7))
    descriptors = len(os.listdir("/proc/self/fd"))
    view = WorkdirTracker(tmp_path).look()
    assert (view.size, view.unread) == (7, unread)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert remove_tree(tmp_path / "deeper") == ""


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"bad\xff\n\x1b[31mname")
    (tmp_path / name).write_bytes(bytes(3_000_000))
    tracker = WorkdirTracker(tmp_path)
    view = tracker.look()
    assert view.newest_path == r"bad\xff\x0a\x1b[31mname"
    assert all(line.isprintable() for line in tracker.listing())


def test_a_directory_that_is_gone_is_an_error(tmp_path: Path) -> None:
    tracker = WorkdirTracker(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        tracker.look()


def test_entries_that_come_and_go_while_it_looks(tmp_path: Path, lazy: None) -> None:
    populate(tmp_path, 3, 3)
    stop = threading.Event()

    def churn() -> None:
        rng = random.Random(1)
        while not stop.is_set():
            place = tmp_path / f"d{rng.randrange(3)}"
            name = place / f"x{rng.randrange(50)}"
            try:
                action = rng.randrange(4)
                if action == 0:
                    name.mkdir()
                elif action == 1:
                    name.rmdir() if name.is_dir() else name.unlink()
                elif action == 2:
                    name.write_bytes(bytes(rng.randrange(5000)))
                else:
                    name.rename(name.with_name(f"y{rng.randrange(50)}"))
            except OSError:
                continue

    thread = threading.Thread(target=churn)
    thread.start()
    tracker = WorkdirTracker(tmp_path)
    for turn in range(300):
        view = tracker.walk() if turn % 10 == 0 else tracker.look()
        assert view.size >= 0 and view.files >= 0
    stop.set()
    thread.join()
    tracker.look()
    assert (tracker.view.size, tracker.view.files) == tuple(directory_size(tmp_path))


# --- signs of life ----------------------------------------------------------------------------------------------------

def by_name(*excluded: str) -> Callable[[str], bool]:
    return lambda path: path not in excluded


def test_the_newest_file_that_counts(tmp_path: Path, lazy: None) -> None:
    populate(tmp_path)
    age(tmp_path / "d2/f3", OLD + 50)
    age(tmp_path / "d2/f4", OLD + 90)
    tracker = WorkdirTracker(tmp_path, counts=by_name("d2/f4", "pilot.txt"))
    view = tracker.look()
    assert (view.newest, view.newest_path) == (OLD + 50, "d2/f3")
    (tmp_path / "pilot.txt").write_text("the pilot's own")
    assert tracker.look().newest == OLD + 50
    age(tmp_path / "d2/f3", OLD + 60)  # among the latest: seen without a walk
    assert tracker.look().newest == OLD + 60


def test_a_sign_of_life_stays_when_its_file_goes(tmp_path: Path) -> None:
    populate(tmp_path, 1, 2)
    age(tmp_path / "d0/f1", OLD + 7)
    tracker = WorkdirTracker(tmp_path)
    tracker.look()
    (tmp_path / "d0/f1").unlink()
    assert tracker.walk()[3:5] == (OLD + 7, "d0/f1")


def test_times_in_the_future_count_from_the_first_look(tmp_path: Path) -> None:
    populate(tmp_path, 1, 1)
    age(tmp_path / "d0/f0", time.time() + 10**6)
    tracker = WorkdirTracker(tmp_path)
    before = time.time()
    first = tracker.look()
    assert before <= first.newest <= time.time()
    assert tracker.walk().newest == first.newest, "nobody has touched it since"
    age(tmp_path / "d0/f0", time.time() + 2 * 10**6)
    assert tracker.walk().newest > first.newest


def test_a_time_that_was_in_the_future_is_no_sign_of_life_when_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    populate(tmp_path, 1, 1)
    now = time.time()
    age(tmp_path / "d0/f0", now + 1000)
    tracker = WorkdirTracker(tmp_path)
    first = tracker.look()
    monkeypatch.setattr(module.time, "time", lambda: now + 2000)
    assert tracker.walk().newest == first.newest
