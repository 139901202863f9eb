"""The page of a job: complete, in order, harmless, bounded, readable without pictures."""

from __future__ import annotations

import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import List, Optional, Tuple

import pytest
from jobstory import RTL, SECRET, nasty_files, nasty_story, told_story

from pilot.report.html import job_page
from pilot.report.tails import job_logs
from pilot.store.pilotdb import PilotDB

LARGEST = 300_000
LOGS = ("payload.stdout", "payload.stderr")
VOID = {"meta", "link", "br"}
OURS = {"html", "head", "meta", "link", "title", "style", "body", "h1", "h2", "h3", "p", "b", "small",
        "section", "table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li", "figure",
        "figcaption", "pre", "svg", "line", "text", "polyline", "rect"}


class Dump(HTMLParser):
    """Reads a page as a text browser does; an element that is not closed in order is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.stack: List[str] = []
        self.tags: set[str] = set()
        self.headings: List[str] = []
        self.pictures: List[str] = []
        self.attributes: List[Tuple[str, str]] = []
        self.tables: List[Tuple[int, int]] = []
        self.words: List[str] = []
        self.feed(page)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "svg":
            self.pictures.append(dict(attrs).get("aria-label") or "")
        if tag == "table":
            self.tables.append((0, 0))
        if tag == "th":
            self.tables[-1] = (self.tables[-1][0] + 1, self.tables[-1][1])
        if tag == "tr" and "tbody" in self.stack:
            self.tables[-1] = (self.tables[-1][0], self.tables[-1][1] + 1)
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] in ("h1", "h2"):
            self.headings.append(data)
        if self.stack and self.stack[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_what_people_ask_for_comes_first(tmp_path: Path) -> None:
    store, clock = told_story(tmp_path)
    workdir = tmp_path / "PanDA_Pilot-7"
    workdir.mkdir()
    (workdir / "payload.stdout").write_text("event 1\nevent 2\nthe last word\n")
    (tmp_path / "pilotlog.txt").write_text("2026-01-01 00:00:00,000 | INFO | a line of the pilot\n")
    (row,) = store.jobs()
    page = job_page(store, row, job_logs(tmp_path, row, "pilotlog.txt", LOGS), now=clock.now)
    dump = Dump(page)
    assert dump.headings == ["Job 7: failing in stage stageout, 1305 PAYLOADEXECUTIONFAILURE",
                             "Errors, the most important first", "Stages", "Use of the node", "Files",
                             "Notes of the checks", "Story", "Environment", "Ends of the logs"]
    text = dump.text
    assert text.index("exit code 7") < text.index("the log"), "the root cause stands first"
    for words in ("root cause 1305 payloadexecutionfailure", "user never payload.stderr, line 12",
                  "payload 2 h 00 min", "maxrss of the queue x 2",
                  "stage-in: 1 file(s), 4.00 GB in 38 s, 105 MB/s", "no byte moved for 600 s",
                  "cannot measure: smaps_rollup is not readable", "4711 (SLURM)", "pilot.heartbeat = 60",
                  "TEST_QUEUE", "big.root rucio 420 B of 1.00 kB (42%)", "the last word", "a line of the pilot",
                  "node7.example.org"):
        assert words in text, words
    assert dump.tables and all(heads and rows for heads, rows in dump.tables), "each table has heads, and rows"
    assert len(dump.pictures) == 6 and all(len(words) > 20 for words in dump.pictures)
    assert any("limit 4.00 GB (maxrss of the queue x 2)" in words for words in dump.pictures)
    assert len(page.encode()) < 60_000
    store.close()


def test_a_job_of_which_little_is_known_has_a_page(tmp_path: Path) -> None:
    store = PilotDB(tmp_path / "pilot.db")
    store.add_job("7", 1, "token", 100.0, "{}", "true")
    dump = Dump(job_page(store, store.jobs()[0], now=103.0))
    assert dump.headings == ["Job 7: in stage received, no error so far", "Stages"]
    assert "No error is known." in dump.text
    store.put_message("7", {"state": "finished", "jobId": 7}, final=True, state="finished")
    dump = Dump(job_page(store, store.jobs()[0], now=103.0))
    assert dump.headings == ["Job 7: finished", "Stages", "Final report"]
    store.close()


@pytest.mark.parametrize("transfers", [1000, 100_000])
def test_nothing_makes_the_page_large_or_dangerous(tmp_path: Path, transfers: int) -> None:
    store, clock = nasty_story(tmp_path, transfers)
    workdir = tmp_path / "job"
    nasty_files(workdir)
    (tmp_path / "pilotlog.txt").write_text(f"token={SECRET}\n" * 5000)
    (row,) = store.jobs()
    row = row._replace(workdir=str(workdir))
    page = job_page(store, row, job_logs(tmp_path, row, "pilotlog.txt", LOGS), now=clock.now)
    assert 100_000 < len(page.encode("utf-8", "replace")) < LARGEST
    assert SECRET not in page and SECRET[:20] not in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", page)
    assert not any(mark in page for mark in RTL if not mark.isascii())
    dump = Dump(page)
    assert dump.tags <= OURS, dump.tags - OURS
    assert not [name for name, _ in dump.attributes if name.startswith("on") or name in ("src", "srcset", "style")]
    assert [value for name, value in dump.attributes if name == "href"] == ["data:,"]
    assert "url(" not in page.partition("</style>")[0] and "@import" not in page
    assert "alert('x')" in dump.text, "shown as it is, not run"
    assert f"100 of {transfers} attempts" in dump.text
    store.close()


def test_links_and_pipes_are_not_read(tmp_path: Path) -> None:
    store, _ = told_story(tmp_path)
    workdir = tmp_path / "PanDA_Pilot-7"
    workdir.mkdir()
    (tmp_path / "secret").write_text("the contents of another file")
    (workdir / "payload.stdout").symlink_to(tmp_path / "secret")
    os.mkfifo(workdir / "payload.stderr")
    row = store.jobs()[0]
    assert job_logs(tmp_path, row, "pilotlog.txt", LOGS) == []
    store.close()


def test_a_key_whose_beginning_is_cut_off_is_not_shown(tmp_path: Path) -> None:
    lines = "\n".join("MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ" for _ in range(600))
    path = tmp_path / "pilotlog.txt"
    path.write_text(f"-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\nand then this\n")
    store, _ = told_story(tmp_path)
    (tail,) = job_logs(tmp_path, store.jobs()[0], "pilotlog.txt", ())
    assert [line for line in tail.lines if line] == ["and then this"]
    store.close()


def test_a_page_of_a_day_is_made_in_a_moment(tmp_path: Path) -> None:
    """No limit is asserted here (benchmarks/views.py measures): only that nothing grows with the square."""
    store, clock = told_story(tmp_path, samples=1440)
    began = time.process_time()
    job_page(store, store.jobs()[0], now=clock.now)
    assert time.process_time() - began < 30
    store.close()
