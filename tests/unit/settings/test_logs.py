"""The log: format, masking, files kept per job, and that nothing that happens to it can hurt the pilot."""

from __future__ import annotations

import errno
import logging
import os
import re
import resource
import subprocess
import sys
import textwrap
from pathlib import Path
from threading import Thread

import pytest

from pilot.util import logs
from pilot.util.logowner import owners
from pilot.version import PILOT_VERSION

ROOT = Path(__file__).parents[3]
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
logger = logging.getLogger("pilot.some.module")


@pytest.fixture(autouse=True)
def restore_logging():
    root = logging.getLogger()
    level, raising, others = root.level, logging.raiseExceptions, list(root.handlers)
    yield
    for handler in [item for item in root.handlers if item not in others]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)
    logging.raiseExceptions = raising


def run(code: str, cwd: Path, **kwargs) -> subprocess.CompletedProcess[str]:
    program = "import logging, sys, os\nfrom pathlib import Path\nfrom pilot.util import logs\n" + textwrap.dedent(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    kwargs.setdefault("stdout", subprocess.PIPE)
    return subprocess.run([sys.executable, "-c", program], cwd=cwd, env=env, text=True, check=False,
                          stderr=subprocess.PIPE, **kwargs)


def test_formats_are_those_of_the_reference(tmp_path, capsys):
    path = tmp_path / "pilotlog.txt"
    logs.setup_logging(path)
    logger.info("value %d", 5)
    logger.debug("not shown")
    line = path.read_text()
    assert re.fullmatch(rf"{STAMP} \| INFO     \| value 5\n", line)
    assert capsys.readouterr().out == line
    logs.setup_logging(path, debug=True)
    logger.debug("details")
    pattern = rf"{STAMP} \| DEBUG    \| pilot.some.module {{15}} \| test_formats_are_those_of_the_reference \| details"
    assert re.fullmatch(pattern, path.read_text().splitlines()[-1])


def test_time_stamps_are_utc(tmp_path):
    result = run("logs.setup_logging(None); r = logging.LogRecord('n', 20, 'f', 1, 'm', (), None); r.created = 0.5\n"
                 "logging.getLogger().handle(r)", tmp_path, )
    assert result.stdout.startswith("1970-01-01 00:00:00,")


def test_handlers_have_their_names_and_setup_replaces_them(tmp_path):
    before = len(logging.getLogger().handlers)
    for _ in range(3):
        logs.setup_logging(tmp_path / "pilotlog.txt")
    names = [handler.get_name() for handler in logging.getLogger().handlers][before:]
    assert names == ["stream_handler", "pilotlog_handler"]


def test_setup_without_file_or_without_stdout(tmp_path, capsys):
    logs.setup_logging(None)
    logger.info("only stdout")
    assert "only stdout" in capsys.readouterr().out and list(tmp_path.iterdir()) == []
    logs.setup_logging(tmp_path / "log", stdout=False)
    logger.info("only file")
    assert capsys.readouterr().out == "" and "only file" in (tmp_path / "log").read_text()


def test_a_log_that_cannot_be_opened_is_said_on_stdout(tmp_path, capsys):
    logs.setup_logging(tmp_path / "no" / "dir" / "log")
    logger.info("still running")
    out = capsys.readouterr().out
    assert "cannot write" in out and "still running" in out


def test_secrets_in_arguments_and_tracebacks_are_masked(tmp_path, capsys):
    logs.setup_logging(tmp_path / "log", debug=True)
    try:
        raise ValueError("token=5ecr3tV4lue")
    except ValueError:
        logger.exception("with %s", {"pilotSecrets": "5ecr3tV4lue"})
    text = (tmp_path / "log").read_text() + capsys.readouterr().out
    assert "5ecr3tV4lue" not in text and "********" in text and "ValueError" in text


def test_traceback_goes_to_the_file_and_not_to_the_terminal(tmp_path, capsys):
    logs.setup_logging(tmp_path / "log")
    try:
        raise ValueError("oops")
    except ValueError:
        logger.exception("it failed")
    assert "Traceback" in (tmp_path / "log").read_text()
    out = capsys.readouterr().out
    assert "it failed" in out and "Traceback" not in out


def test_arguments_that_do_not_fit_the_message_lose_no_information(tmp_path):
    logs.setup_logging(tmp_path / "log", stdout=False)
    logger.info("%d jobs", "many")
    assert "%d jobs" in (tmp_path / "log").read_text() and "many" in (tmp_path / "log").read_text()


def test_text_that_is_not_utf8_is_logged(tmp_path, capsys):
    logs.setup_logging(tmp_path / "log")
    logger.info("name \udcff ü")
    assert "name \\udcff ü" in (tmp_path / "log").read_text(encoding="utf-8")


def test_each_job_has_its_log_and_no_line_is_lost(tmp_path):
    path = tmp_path / "pilotlog.txt"
    logs.setup_logging(path, stdout=False)
    logger.info("start-up")
    for jobid in ("11", "22", "33"):
        logs.start_job_log(jobid)
        assert path.exists()
        logger.info("line of job %s", jobid)
    assert "start-up" in (tmp_path / "pilotlog-11.txt").read_text()
    assert "line of job 11" in (tmp_path / "pilotlog-11.txt").read_text()
    assert "line of job 22" in (tmp_path / "pilotlog-22.txt").read_text()
    current = path.read_text()
    assert "line of job 33" in current and "line of job 22" not in current
    assert f"PanDA Pilot version {PILOT_VERSION}" in current, "the banner opens each log"
    assert logs.job_log_path("22") == tmp_path / "pilotlog-22.txt"
    assert logs.job_log_path("33") == path
    assert sorted(item.name for item in tmp_path.iterdir()) == ["pilotlog-11.txt", "pilotlog-22.txt", "pilotlog.txt"]


def test_same_job_again_continues_and_odd_ids_make_safe_names(tmp_path):
    logs.setup_logging(tmp_path / "pilotlog.txt", stdout=False)
    for jobid in ("../x", "../x", "b", "../x", "c"):
        logs.start_job_log(jobid)
        logger.info("here")
    assert sorted(item.name for item in tmp_path.iterdir()) == [
        "pilotlog-.._x.2.txt", "pilotlog-.._x.txt", "pilotlog-b.txt", "pilotlog.txt"]


def test_an_earlier_log_is_continued_by_a_new_setup(tmp_path):
    (tmp_path / "log").write_text("old\n")
    logs.setup_logging(tmp_path / "log", stdout=False)
    logger.info("new")
    assert (tmp_path / "log").read_text().startswith("old\n")


def test_touch_renews_the_modification_time(tmp_path):
    path = tmp_path / "log"
    logs.setup_logging(path, stdout=False)
    os.utime(path, (1, 1))
    logs.touch_log()
    assert path.stat().st_mtime > 1


def test_lines_that_do_not_fit_on_the_disk_are_counted_not_raised(tmp_path, capsys):
    path = tmp_path / "log"
    logs.setup_logging(path, stdout=False)
    logger.info("before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 30, hard))
        for number in range(5):
            logger.info("lost %d", number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    logger.info("after")
    logger.info("last")
    lines = path.read_text().splitlines()
    assert "before" in lines[0] and lines[-2].endswith("after") and lines[-1].endswith("last")
    assert lines[-3] == "[5 log lines are missing here: they could not be written]"
    captured = capsys.readouterr()
    assert captured.err == ""


def test_full_device_as_stdout_and_log_ends_quietly(tmp_path):
    with open("/dev/full", "w") as full:
        result = run("""
            logs.setup_logging(Path('/dev/full'))
            for n in range(100): logging.info('line %d', n)
            logs.close_stdout_safely()""", tmp_path, stdout=full)
    assert (result.returncode, result.stderr) == (0, "")


def test_closed_pipe_as_stdout_ends_quietly_and_the_file_goes_on(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    result = run("""
        logs.setup_logging(Path('log'))
        for n in range(100): logging.info('line %d', n)
        logs.close_stdout_safely()""", tmp_path, stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")
    assert len((tmp_path / "log").read_text().splitlines()) == 100


def test_closed_stdout_and_stderr_do_no_harm(tmp_path):
    code = (f"import os; os.close(1); os.close(2)\nimport sys; sys.path.insert(0, {str(ROOT)!r})\n"
            "from pilot.util import logs\nfrom pathlib import Path\nimport logging\n"
            "logs.setup_logging(Path('log'))\nlogging.info('here')\nlogs.close_stdout_safely()")
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, close_fds=True)
    assert result.returncode == 0
    assert "here" in (tmp_path / "log").read_text()


def test_stdout_can_be_redirected_to_a_file(tmp_path):
    code = "logs.redirect_stdout('out.txt'); logs.setup_logging(None); logging.info('here'); print('printed')"
    result = run(code, tmp_path)
    assert (result.returncode, result.stdout) == (0, "")
    text = (tmp_path / "out.txt").read_text()
    assert "here" in text and "printed" in text
    result = run("logs.redirect_stdout('no/dir/out.txt'); print('printed')", tmp_path)
    assert result.stdout == "printed\n" and "not redirected" in result.stderr and "Traceback" not in result.stderr


def test_banner_names_the_version_and_the_system():
    lines = logs.banner().splitlines()
    assert lines[1] == f"***  PanDA Pilot version {PILOT_VERSION}  ***"
    assert lines[0] == lines[2] == lines[-1] == "*" * len(lines[1])
    assert "architecture information:" in lines


def test_banner_survives_missing_files(monkeypatch):
    monkeypatch.setattr(logs.Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    assert "unknown (no /etc/os-release)" in logs.banner() and "VM" not in logs.banner()


def test_no_string_of_a_stranger_forges_a_line_or_steers_a_terminal(tmp_path, capsys):
    logs.setup_logging(tmp_path / "log")
    logger.info("job %s", "1\n2026-01-01 00:00:00,000 | CRITICAL | forged\x1b[2J\x9b\r\x00\u202etxt.exe\ttab")
    for text in (capsys.readouterr().out, (tmp_path / "log").read_text()):
        first, second = text.rstrip("\n").split("\n")
        assert re.fullmatch(rf"{STAMP} \| INFO     \| job 1", first)
        assert second == r"    2026-01-01 00:00:00,000 | CRITICAL | forged\x1b[2J\x9b\r\x00\u202etxt.exe" "\ttab"


def overlapping(tmp_path: Path) -> None:
    """Job 11 leaves while job 22 has the pilot log."""
    logs.setup_logging(tmp_path / "pilotlog.txt", stdout=False)
    for jobid in ("11", "22"):
        logs.start_job_log(jobid, overlapping=True)
    owners.work_for("")


def test_a_job_that_leaves_keeps_its_own_log_beside_the_next_jobs(tmp_path):
    overlapping(tmp_path)
    logger.info("job %s: from anywhere", "11")
    logger.info("job %s: from anywhere", "22")
    logger.info("nobody's line")
    owners.work_for("11")
    logger.info("what a thread of the first job says")
    hand = Thread(target=owners.for_the_same_job(lambda: logger.info("what its helper says")))
    hand.start()
    hand.join()
    logger.info("job %s: named by a thread of the other one", "22")
    owners.work_for("22")
    logger.info("what a thread of the second job says")
    first, second = (path.read_text() for path in (tmp_path / "pilotlog-11.txt", tmp_path / "pilotlog.txt"))
    for line in ("job 11: from anywhere", "what a thread of the first job says", "what its helper says"):
        assert line in first and line not in second
    for line in ("job 22: from anywhere", "what a thread of the second job says", "named by a thread of the other one"):
        assert line in second and line not in first
    assert "nobody's line" in first and "nobody's line" in second


def test_the_log_of_a_job_that_has_left_grows_no_more_and_no_line_is_lost(tmp_path):
    overlapping(tmp_path)
    before = logging.getLogger().handlers[:]
    logs.end_job_log("11")
    logger.info("job %s: late", "11")
    assert "late" not in (tmp_path / "pilotlog-11.txt").read_text()
    assert "job 11: late" in (tmp_path / "pilotlog.txt").read_text()
    assert len(logging.getLogger().handlers) == len(before) - 1


def test_an_overlapping_job_has_one_name_for_its_log_from_the_beginning(tmp_path):
    overlapping(tmp_path)
    names = [logs.job_log_path(jobid) for jobid in ("11", "22")]
    assert names == [tmp_path / "pilotlog-11.txt", tmp_path / "pilotlog-22.txt"]
    assert os.path.samefile(names[1], tmp_path / "pilotlog.txt")
    logs.end_job_log("11")
    logs.start_job_log("33", overlapping=True)
    assert [logs.job_log_path(jobid) for jobid in ("11", "22")] == names
    assert not os.path.samefile(names[1], tmp_path / "pilotlog.txt")


def test_a_file_system_without_hard_links_keeps_the_logs_apart_too(tmp_path, monkeypatch):
    def no_links(*_args: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    overlapping(tmp_path)
    logger.info("job %s: goes on", "11")
    logger.info("job %s: begins", "22")
    assert "job 11: goes on" in (tmp_path / "pilotlog-11.txt").read_text()
    assert "job 22: begins" in (tmp_path / "pilotlog.txt").read_text()
    logs.end_job_log("11")
    logs.start_job_log("33", overlapping=True)
    assert "job 22: begins" in (tmp_path / "pilotlog-22.txt").read_text()
