"""Machine and job features: real directories and a real server; what is nonsense in them is nothing."""

from __future__ import annotations

import http.server
import os
import threading
import time
from pathlib import Path
from typing import Dict, Iterator, Mapping, Union

import pytest

from pilot.monitoring.features import ends, notice
from pilot.util.features import feature


class Site:
    """Both directories."""

    def __init__(self, path: Path) -> None:
        self.machine, self.job = path / "machine", path / "job"
        for place in (self.machine, self.job):
            place.mkdir()
        self.environ: Dict[str, str] = {"MACHINEFEATURES": str(self.machine), "JOBFEATURES": str(self.job)}

    def say(self, **values: Union[str, float]) -> None:
        """Keys of job features end with _job, or are those of limits."""
        for key, value in values.items():
            place = self.machine if key in ("shutdowntime", "grace_secs", "hs06") else self.job
            (place / key).write_text(f"{value}\n")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def left(environ: Mapping[str, str], ago: float = 100.0) -> Dict[str, int]:
    """s until each end, of a pilot that started some time ago."""
    found = ends(environ, time.monotonic() - ago, time.time() - ago)
    return {key: round(end.at - time.monotonic()) for key, end in found.items() if end is not None}


def test_what_a_site_announces(site: Site) -> None:
    assert left(site.environ) == {}
    now = time.time()
    site.say(shutdowntime=now + 1080)
    assert left(site.environ) == {"shutdowntime": 1080}
    site.say(shutdowntime_job=f"{now + 500:.0f}", wall_limit_secs=7200, jobstart_secs=now - 200)
    assert left(site.environ) in ({"shutdowntime": 1080, "shutdowntime_job": seconds, "wall_limit_secs": 7000}
                                  for seconds in (499, 500, 501))
    found = ends(site.environ, time.monotonic(), now)["wall_limit_secs"]
    assert found is not None
    assert (found.length, "7200 s since jobstart_secs" in found.text) == (7200, True)
    (site.machine / "shutdowntime").unlink()
    assert "shutdowntime" not in left(site.environ), "it was taken back"


def test_a_limit_without_a_start_counts_from_the_pilots(site: Site) -> None:
    site.say(wall_limit_secs=7200)
    assert left(site.environ, ago=100) == {"wall_limit_secs": 7100}
    site.say(jobstart_secs=17)  # long ago: this limit would have ended before the pilot began
    assert left(site.environ, ago=100) == {"wall_limit_secs": 7100}


@pytest.mark.parametrize("value", ["", "soon", "nan", "inf", "-1", "1e400", "0x10", "17", "99999999999999999999",
                                   "1" * 5000, "\0\0", "1 2"])
def test_nonsense_is_nothing(site: Site, value: str) -> None:
    (site.machine / "shutdowntime").write_text(value)
    (site.job / "shutdowntime_job").write_bytes(b"\xff\xfe")
    assert left(site.environ) == {}


def test_odd_files_are_nothing(site: Site, tmp_path: Path) -> None:
    os.mkfifo(site.machine / "shutdowntime")
    (site.job / "shutdowntime_job").mkdir()
    (site.job / "wall_limit_secs").symlink_to("/dev/zero")
    assert left(site.environ) == {}
    (site.job / "wall_limit_secs").unlink()
    (tmp_path / "value").write_text("7200")
    (site.job / "wall_limit_secs").symlink_to(tmp_path / "value")
    assert left(site.environ) == {"wall_limit_secs": 7100}, "the site may link its files"
    assert left({"MACHINEFEATURES": "relative", "JOBFEATURES": str(tmp_path / "missing")}) == {}


def test_the_shorter_notice_counts(site: Site) -> None:
    assert notice(site.environ) is None
    site.say(grace_secs=3600)
    assert notice(site.environ) == 3600
    site.say(grace_secs_job=300)
    assert notice(site.environ) == 300


@pytest.fixture
def server(site: Site) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(site.machine))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}/"
    running.shutdown()
    running.server_close()


def test_features_behind_a_url(site: Site, server: str) -> None:
    environ = {"MACHINEFEATURES": server}
    site.say(hs06=17.5)
    assert feature(environ, "MACHINEFEATURES", "hs06") == 17.5
    assert left(environ) == {}
    site.say(shutdowntime=time.time() + 1080)
    assert left(environ) == {"shutdowntime": 1080}
    (site.machine / "shutdowntime").write_text("1" * 100_000)
    assert left(environ) == {}
