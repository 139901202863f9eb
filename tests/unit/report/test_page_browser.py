"""The page of a job in a real browser: something is drawn, in both schemes, nothing fails, nothing is fetched."""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import threading
import zlib
from collections import Counter
from pathlib import Path
from typing import Counter as Counts
from typing import List

import pytest
from jobstory import nasty_files, nasty_story, told_story

from pilot.report.html import job_page
from pilot.report.tails import job_logs

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run", "--disable-default-apps", "--disable-extensions", "--hide-scrollbars",
         "--window-size=900,1400", "--enable-logging=stderr", "--v=0"]
LIGHT, DARK = "--blink-settings=preferredColorScheme=1", "--blink-settings=preferredColorScheme=0"


class Proxy:
    """Notes the first line of each request that somebody makes, and answers none."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.requests: List[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            with stream:
                self.requests.append(stream.recv(2000).decode(errors="replace").partition("\r\n")[0])


def pixels(path: Path) -> Counts[bytes]:
    """How often each colour occurs in a PNG of 8 bits per channel, not interlaced."""
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    place, packed, width, height, channels = 8, b"", 0, 0, 0
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place:place + 8])
        body = data[place + 8:place + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", body)
            assert (depth, interlaced) == (8, 0) and colour in (2, 6)
            channels = 3 if colour == 2 else 4
        elif kind == b"IDAT":
            packed += body
        place += length + 12
    raw, stride = zlib.decompress(packed), width * channels
    found: Counts[bytes] = Counter()
    above = bytearray(stride)
    for row in range(height):
        start = row * (stride + 1)
        line = unfiltered(raw[start], bytearray(raw[start + 1:start + 1 + stride]), above, channels)
        found.update(bytes(line[at:at + 3]) for at in range(0, stride, channels))
        above = line
    return found


def unfiltered(kind: int, line: bytearray, above: bytearray, step: int) -> bytearray:
    """Undo a PNG filter of one row."""
    for index in range(len(line)) if kind else ():
        left = line[index - step] if index >= step else 0
        corner = above[index - step] if index >= step else 0
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = above[index]
        elif kind == 3:
            guess = (left + above[index]) // 2
        else:
            base = left + above[index] - corner
            guess = min((left, above[index], corner), key=lambda value: abs(base - value))
        line[index] = (line[index] + guess) & 0xFF
    return line


def browse(page: Path, scheme: str, proxy: Proxy) -> Counts[bytes]:
    """Load a page; returns its colours. An error in the console and a request of its are failures."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("this test looks at the page in a browser: apt-get install chromium")
    picture = page.with_suffix(f".{scheme[-1]}.png")
    done = subprocess.run(
        [program, *FLAGS, scheme, f"--user-data-dir={page.parent}/profile{scheme[-1]}", f"--screenshot={picture}",
         f"--proxy-server=http://127.0.0.1:{proxy.port}", "--proxy-bypass-list=<-loopback>", page.as_uri()],
        timeout=120, capture_output=True, check=True)
    console = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    assert console == []
    # a browser has requests of its own
    assert [request for request in proxy.requests if "example" in request] == []
    return pixels(picture)


@pytest.mark.parametrize("content", ["<script>console.error('wrong')</script>", "<img src='http://evil.example/a.png'>"])
def test_the_browser_tells_of_what_a_page_must_not_do(tmp_path: Path, content: str) -> None:
    page, proxy = tmp_path / "page.html", Proxy()
    page.write_text(f"<!doctype html>{content}")
    with pytest.raises(AssertionError):
        browse(page, LIGHT, proxy)
    proxy.listener.close()


def brightness(colours: Counts[bytes]) -> float:
    """Of the background, 0 to 255."""
    return sum(colours.most_common(1)[0][0]) / 3


@pytest.mark.parametrize("story", ["told", "nasty"])
def test_the_page_is_drawn_in_both_schemes_and_fetches_nothing(tmp_path: Path, story: str) -> None:
    if story == "told":
        store, clock = told_story(tmp_path)
    else:
        store, clock = nasty_story(tmp_path, 500)
        nasty_files(tmp_path / "job")
    row = store.jobs()[0]._replace(workdir=str(tmp_path / "job"))
    page = tmp_path / "page.html"
    logs = job_logs(tmp_path, row, "pilotlog.txt", ("payload.stdout", "payload.stderr"))
    page.write_text(job_page(store, row, logs, now=clock.now), encoding="utf-8", errors="replace")
    store.close()
    proxy = Proxy()
    light, dark = browse(page, LIGHT, proxy), browse(page, DARK, proxy)
    proxy.listener.close()
    assert brightness(light) > 200 and brightness(dark) < 60
    for colours in (light, dark):
        assert len(colours) > 50, "not blank: text has many shades"
        assert sum(colours.values()) - colours.most_common(1)[0][1] > 10_000
    if story == "told":
        assert bytes.fromhex("b3171c") in light and bytes.fromhex("176b2c") in light, "error, payload's bar"
