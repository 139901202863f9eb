"""A failed payload is reported with its cause, and a healthy one is not failed."""

from __future__ import annotations

import json
import os
import random
import struct
from pathlib import Path

import pytest

from pilot.common.errorcodes import ErrorCodes, format_diagnosis
from pilot.common.errors import ErrorList
from pilot.info.diagnosis import Finding
from pilot.info.job import Job
from pilot.payload.cause import find_cause, meaningful_lines, shorten
from pilot.payload.diagnose import Evidence, diagnose, find_core_dumps
from pilot.payload.exitcode import describe, normalise, signal_of
from pilot.util.oomkills import OomKills


class Output:
    """A job with its two output files."""

    def __init__(self, directory: Path) -> None:
        self.job = Job("1", workdir=directory)
        self.stdout = directory / "payload.stdout"
        self.stderr = directory / "payload.stderr"

    def said(self, err: str | bytes = b"", out: str | bytes = b"") -> Output:
        self.stderr.write_bytes(err.encode() if isinstance(err, str) else err)
        self.stdout.write_bytes(out.encode() if isinstance(out, str) else out)
        return self

    def findings(self, code: int, evidence: Evidence | None = None) -> list[Finding]:
        return diagnose(self.job, code, self.stdout, self.stderr, evidence)

    def reported(self, code: int, evidence: Evidence | None = None) -> tuple[int, str]:
        """Return what the error list makes of the findings."""
        errors = ErrorList()
        for finding in self.findings(code, evidence):
            errors.add(finding.code, finding.text, rank=finding.rank)
        primary = errors.primary()
        assert primary is not None
        return primary.code, primary.diagnosis


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path).said()


def test_the_last_meaningful_line_of_stderr_is_the_cause(output: Output) -> None:
    output.said("starting\ngrid.py: cannot open input A.root: No such file\n\n+ exit 3\n", "all is well\n")
    assert output.reported(3) == (
        1305, "Failed to execute payload: exit code 3: grid.py: cannot open input A.root: No such file"
    )


def test_a_python_traceback_becomes_its_last_line(output: Output) -> None:
    output.said(
        "Traceback (most recent call last):\n  File \"a.py\", line 3, in <module>\n    raise KeyError\n"
        "KeyError: 'x'\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n  File \"a.py\", line 5, in f\n    g()\n    ^^^\nValueError: bad events\n"
    )
    code, text = output.reported(1)
    assert code == 1305
    assert text == "Failed to execute payload: exit code 1: KeyError: 'x'; ValueError: bad events"


@pytest.mark.parametrize(
    ("err", "out", "cause"),
    [
        ("", "INFO fine\nERROR: no geometry\nbye\n", "ERROR: no geometry"),
        ("", "one CRITICAL first\nERROR x\nCRITICAL second\n", "one CRITICAL first"),
        ("just a note\n", "ERROR: no geometry\n", "ERROR: no geometry"),
        ("just a note\n", "bye\n", "just a note"),
        ("", "first\nlast words\n---\n\n", "last words"),
        ("", "", ""),
        ("error: real cause\nINFO: cleaning error files\nWARNING failed to smile\n", "", "error: real cause"),
        ("progress 1%\rprogress 99%\rfatal: lost\n", "", "fatal: lost"),
        ("\x1b[31merror: red\x1b[0m\n", "", "error: red"),
        ("error: again\n" * 50, "", "error: again"),
        ("real\t0m1.0s\nuser\t0m1.0s\nsys\t0m0.1s\n", "x\n", "x"),
    ],
)
def test_causes(output: Output, err: str, out: str, cause: str) -> None:
    output.said(err, out)
    assert find_cause(output.stdout, output.stderr) == cause


def test_only_the_end_of_a_huge_output_is_read(output: Output) -> None:
    with open(output.stderr, "wb") as stream:
        stream.write(b"error: old\n")
        stream.seek(2 << 30)
        stream.write(b"\nerror: new\n")
    assert find_cause(output.stdout, output.stderr) == "error: new"
    assert output.reported(1)[1].endswith("exit code 1: error: new")


@pytest.mark.parametrize("seed", range(20))
def test_binary_output_does_not_hide_the_cause_and_nothing_unprintable_is_reported(output: Output, seed: int) -> None:
    noise = random.Random(seed).randbytes
    line = b"\x1b]\nfatal: b\xe9ton \xff\x00 missing\n"
    output.said(noise(50_000) + line + bytes(range(256)) * 10 + noise(999), noise(9999))
    code, text = output.reported(1)
    assert code == 1305
    assert "fatal: b?ton ?? missing" in text
    assert text.isprintable()


def test_long_causes_keep_the_exit_code_and_both_ends(output: Output) -> None:
    output.said("error: begin " + "x" * 5000 + " end\n")
    _, text = output.reported(77)
    assert len(text) <= 256
    assert text.startswith("Failed to execute payload: exit code 77: error: begin x")
    assert text.endswith("x end")


def test_secrets_are_not_reported(output: Output) -> None:
    output.said("error: login with password=SuperSecret123 refused\n")
    assert "SuperSecret123" not in output.reported(1)[1]


@pytest.mark.parametrize("path", ["/dev/zero", "fifo", "directory"])
def test_output_that_is_no_file_is_survived(output: Output, tmp_path: Path, path: str) -> None:
    output.stderr.unlink()
    if path == "fifo":
        os.mkfifo(output.stderr)
    elif path == "directory":
        output.stderr.mkdir()
    else:
        output.stderr.symlink_to(path)
    assert output.reported(9) == (
        1305, "Failed to execute payload: exit code 9: nothing was written to stdout or stderr"
    )


def test_a_removed_work_directory_is_named(tmp_path: Path) -> None:
    output = Output(tmp_path / "gone")
    assert output.reported(1) == (
        1305,
        "Failed to execute payload: exit code 1: no output to quote, the payload removed its work directory",
    )


@pytest.mark.parametrize(("code", "name"), [(137, "SIGKILL"), (-9, "SIGKILL"), (143, "SIGTERM"), (-15, "SIGTERM")])
def test_a_signal_that_the_pilot_did_not_send_is_called_so(output: Output, code: int, name: str) -> None:
    pilot_code, text = output.said("last words\n").reported(code)
    assert pilot_code == 1305
    assert f"exit code {normalise(code)} ({name}): an unknown hand (not the pilot) sent the signal" in text
    assert text.endswith("last words")


def test_a_kill_by_the_pilot_says_so_and_never_hides_the_reason(output: Output) -> None:
    output.job.errors.add(ErrorCodes.LOOPINGJOB, "no file touched")
    for finding in output.findings(137, Evidence(oom=OomKills(0, 1, "memory.events"), killed_by_pilot=True)):
        output.job.errors.add(finding.code, finding.text)
    primary = output.job.errors.primary()
    assert primary is not None
    assert primary.code == 1150
    assert output.job.errors.codes() == [1150, 1305]


def test_memory_evidence(output: Output) -> None:
    oom = Evidence(OomKills(3, 4, "memory.events"), max_memory_kb=2_000_000, memory_limit_kb=2_097_152)
    code, text = output.reported(137, oom)
    assert code == 1212
    assert "the kernel killed 1 process(es)" in text
    assert "limit 2097152 kB" in text
    # A transform that survives its child ends with a code of its own.
    assert output.reported(65, oom)[0] == 1212
    near = Evidence(max_memory_kb=2_000_000, memory_limit_kb=2_097_152)
    code, text = output.reported(137, near)
    assert code == 1212
    assert "inferred" in text
    assert output.reported(137, Evidence(max_memory_kb=1_000_000, memory_limit_kb=2_097_152))[0] == 1305
    assert output.reported(1, near)[0] == 1305


@pytest.mark.parametrize("code", [139, -11])
def test_a_segmentation_fault_is_1328(output: Output, code: int) -> None:
    assert output.reported(code)[0] == 1328


def test_an_abort_is_1305_with_its_name(output: Output) -> None:
    code, text = output.reported(134)
    assert code == 1305
    assert "exit code 134 (SIGABRT: aborted)" in text


@pytest.mark.parametrize("code", [1, 2, 3, 12, 126, 160, 251, 254, 255])
def test_user_exit_codes_mean_nothing_special(output: Output, code: int) -> None:
    reported, text = output.said("something\n").reported(code)
    assert reported == 1305
    assert f"exit code {code}: something" in text


@pytest.mark.parametrize(
    ("err", "out", "exit_code", "pilot_code"),
    [
        ("cp: error writing 'a': No space left on device\n", "", 1, 1098),
        ("", "Disk quota exceeded\n", 1, 1098),
        ("terminate called after throwing an instance of 'std::bad_alloc'\n", "", 134, 1212),
        ("FATAL out of memory: taking the application down\n", "", 1, 1212),
        ("usage: x\nx.py: error: unrecognized arguments: --foo\n", "", 2, 1349),
        ("/bin/bash: line 1: nosuch: command not found\n", "", 127, 1346),
        ("./run.sh: line 8: nosuch: command not found\n", "", 127, 1305),
        ("FATAL:   container creation failed: Failed to mount image\n", "", 255, 1309),
        ("ERROR  : Failed to create user namespace\n", "", 255, 1345),
        ("WARNING: Not mounting requested bind point\n", "", 251, 1308),
        ("ERROR: Apptainer is not installed\n", "", 64, 1372),
        # A user's own line that happens to have the words, or a warning before an ordinary failure.
        ("my tool: Failed to mount image\n", "", 255, 1305),
        ("WARNING: Not mounting requested bind point\nValueError: x\n", "", 1, 1305),
        ("rm: Operation not permitted\n", "", 255, 1305),
        ("ls: a: No such file or directory\n", "", 2, 1305),
    ],
)
def test_known_messages_give_their_code(
    output: Output, err: str, out: str, exit_code: int, pilot_code: int
) -> None:
    assert output.said(err, out).reported(exit_code)[0] == pilot_code
    assert output.findings(exit_code)[-1][0] == 1305


@pytest.mark.parametrize(
    "err",
    [
        "",
        "chown: Operation not permitted\n",
        "ERROR: Operation not permitted\n",
        "WARNING: Failed to create user namespace\n",
        "FATAL:   Failed to mount image\nfalling back to another image\ndone\n",
        "mkdir: cannot create directory '/scratch/x': No space left on device\nusing . in place of it\n",
        "cat: /proc/self/mem: Input/output error\n",
        "No such file or directory\nERROR something\nTraceback (most recent call last):\nValueError: caught\n",
        "St9bad_alloc\n",
    ],
)
def test_exit_code_zero_with_harmless_words_is_success(output: Output, err: str) -> None:
    assert output.said(err, err).findings(0) == []


@pytest.mark.parametrize(
    ("line", "pilot_code"),
    [
        ("SysError in <TFile::WriteBuffer>: error writing to file o.root (-1) (No space left on device)", 1098),
        ("SysError in <TFile::Flush>: error flushing file o.root (Disk quota exceeded)", 1098),
        ("OSError: [Errno 28] No space left on device", 1098),
        ("echo: write error: Input/output error", 1305),
        ("FATAL:   Failed to mount image", 1309),
    ],
)
def test_exit_code_zero_with_a_failed_write_is_a_failure(output: Output, line: str, pilot_code: int) -> None:
    code, text = output.said(f"hello\n{line}\n").reported(0)
    assert code == pilot_code
    assert line.split(": ", 1)[1].strip() in text


def test_messages_between_head_and_tail_windows_are_found_at_both_ends(output: Output) -> None:
    with open(output.stdout, "wb") as stream:
        stream.write(b"x" * 100 + b"\nwrite error: No space left on device\n")
        stream.truncate(3 << 30)
    assert output.reported(0)[0] == 1098
    with open(output.stdout, "wb") as stream:
        stream.seek(3 << 30)
        stream.write(b"\nwrite error: No space left on device\n")
    assert output.reported(0)[0] == 1098


def test_the_payloads_own_error_report_wins(output: Output, tmp_path: Path) -> None:
    report = {"error_code": 5318, "error_diag": "payload execution failed with 1"}
    (tmp_path / "payload_error_report.json").write_text(json.dumps(report))
    assert output.said("noise\n").reported(18) == (
        1305, "Failed to execute payload: exit code 18: payload execution failed with 1"
    )
    assert (output.job.exe_error_code, output.job.exe_error_diag) == (5318, "payload execution failed with 1")
    assert output.reported(0)[0] == 1305


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"error_code": 0}', '{"error_code": null}', '{"error_code": "x"}'])
def test_a_useless_error_report_is_ignored(output: Output, tmp_path: Path, text: str) -> None:
    (tmp_path / "payload_error_report.json").write_text(text)
    assert output.findings(0) == []
    assert output.job.exe_error_code == 0


def test_the_whole_text_fits_and_starts_with_the_default_text(output: Output) -> None:
    output.said("/bin/bash: line 1: " + "n" * 900 + ": command not found\n")
    for finding in output.findings(127):
        whole = format_diagnosis(finding.code, finding.text)
        assert len(whole) <= 256
        assert "..." not in whole[:40]


def test_core_dumps_are_recognised_by_content(tmp_path: Path) -> None:
    elf = bytearray(64)
    elf[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<H", elf, 16, 4)
    (tmp_path / "core.4711").write_bytes(elf)
    (tmp_path / "core").write_text("my core results")
    (tmp_path / "core.dir").mkdir()
    (tmp_path / "core.py").write_text("x = 1")
    assert find_core_dumps(tmp_path, remove=False) == ["core.4711"]
    assert (tmp_path / "core.4711").exists()
    assert find_core_dumps(tmp_path, remove=True) == ["core.4711"]
    assert not (tmp_path / "core.4711").exists()
    assert (tmp_path / "core").exists()
    assert find_core_dumps(tmp_path / "gone", remove=True) == []


def test_exit_code_forms() -> None:
    assert [normalise(code) for code in (0, 255, -9, 137)] == [0, 255, 137, 137]
    assert signal_of(128) is None
    assert signal_of(160) is None
    assert signal_of(255) is None
    assert signal_of(3) is None
    assert describe(139) == "exit code 139 (SIGSEGV: segmentation fault)"
    assert describe(143) == "exit code 143 (SIGTERM)"
    assert describe(255) == "exit code 255"


def test_helpers_of_the_text() -> None:
    assert shorten("abc", 3) == "abc"
    assert shorten("a" * 50 + "b" * 50, 21) == "aaaaaaaa ... bbbbbbbb"
    assert meaningful_lines("a\nb\na\n") == ["b", "a"]
