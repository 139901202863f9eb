"""Makes the tables of exit codes, error codes and signals from ``pilot.common.errorcodes``."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from provoked_codes import NEVER, PROVOKED

from pilot.common.errorcodes import ERROR_TABLE, SIGNAL_CODES, error_code_translation_dictionary, message_of

_RANKS = {
    1: "killed by the server", 2: "killed by a signal or the batch system", 3: "a limit, or the identity",
    4: "stage-in", 5: "set-up of the payload", 6: "the payload, with a known cause",
    7: "outputs that the payload did not make", 8: "other failures", 9: "stage-out and log", 10: "inside the pilot",
}

_EXIT_INTRODUCTION = """# Exit codes

The exit code speaks of the pilot, not of the jobs: it is 0 once every job that the pilot took has its final report
acknowledged by the server (with `-z`: written), whatever became of the job. 79 means that a final report is still in
the outbox. After a signal it is 128 + the signal's number. 1 is never chosen: it belongs to the wrapper. 2 is a wrong
command line, 65 unusable settings, 70 an error inside the pilot.

| exit code | pilot error code | meaning |
|---|---|---|
| 0 | 0 | all is well |
| 2 | | wrong command line |
"""

_ERROR_INTRODUCTION = """# Error codes

These reach the server as `pilotErrorCode` and `pilotErrorDiag`; the text below always comes first in the diagnosis,
behind it what happened, where, and which limit. When a job has several errors, the one with the lowest rank is
reported, the older one when ranks are equal; the log lists all. A stage-out error of a payload that succeeded counts as
rank 7.

The reported text ends with whose turn it is, the advice for another attempt, and the codes of the other errors, as far
as 256 characters allow: `Failed to execute payload: exit code 139 (SIGSEGV) ... [user; retry: never; also 1355]`. The
table has the usual values; what the pilot has seen may say more (`with 500 MB more`, the site, not the user). The
evidence (which rule of `pilot/payload/rules`, file and line, a counter before and after) is in the log, in the
PilotDB (`--status`, `--report`), and in `pilot_errors.json` of the job's log archive.

| who | |
|---|---|
| user | who has submitted the job |
| site | administrators of the queue: nodes, set-up, network |
| storage | administrators of storage or catalogue |
| release | makers of the experiment's software |
| pilot | makers of the pilot |
| nobody | the job was ended on purpose |

1387 and 1388 are codes of this pilot; existing ones do not have them.

"""

_SIGNALS_INTRODUCTION = """# Signals

The pilot traps the signals below, ends its jobs through the same tail as always (what exists and may leave, log, final
report) within `shutdown.deadline` seconds (`shutdown.pod_deadline` with `--pod`), and exits with 128 + n. Later signals
neither extend nor shorten that deadline. SIGCONT and SIGUSR2 end nothing.

SIGUSR1 is 1206 and SIGBUS 1207, as in the published signal table; existing pilots have the two swapped. The text names
the signal. In a Kubernetes pod (`K8S_JOB_ID` is set) SIGTERM is reported as 1379, a preemption.

| signal | number | pilot error code | exit code | text |
|---|---|---|---|---|
"""

_OTHERS = ("SIGINT", "SIGHUP", "SIGALRM", "SIGVTALRM", "SIGXFSZ", "SIGABRT", "SIGFPE", "SIGILL", "SIGPROF")


def exit_codes_page() -> str:
    """Return the page of the exit codes, in their order."""
    rows = sorted((shell, code, text) for code, (shell, text) in _translations().items())
    lines = [f"| {shell} | {'' if code < 0 else code} | {text} |" for shell, code, text in rows]
    return _EXIT_INTRODUCTION + "\n".join(lines) + "\n"


def error_codes_page() -> str:
    """Return the page of the error codes: ranks, then codes, then why some cannot occur."""
    ranks = "".join(f"| {rank} | {text} |\n" for rank, text in _RANKS.items())
    translations = _translations()
    lines, never = [], []
    for entry in sorted(ERROR_TABLE.values()):
        shell = translations[entry.code][0] if entry.code in translations else ""
        test = f"`{PROVOKED[entry.code]}`" if entry.code in PROVOKED else "does not occur, see below"
        lines.append(f"| {entry.code} | `{entry.name}` | {entry.text} | {entry.rank} | {shell} | {entry.who} "
                     f"| {entry.retry} | {test} |")
        if entry.code in NEVER:
            never.append(f"| {entry.code} | {NEVER[entry.code]} |")
    head = ("\n## Codes\n\n| code | name | text | rank | exit code | who must act | retry | provoked by the test |\n"
            "|---|---|---|---|---|---|---|---|\n")
    last = "\n\n## Codes that do not occur\n\n| code | why |\n|---|---|\n"
    return (f"{_ERROR_INTRODUCTION}## Ranks\n\n| rank | about |\n|---|---|\n{ranks}{head}" + "\n".join(lines)
            + last + "\n".join(never) + "\n")


def signals_page() -> str:
    """Return the page of the signals."""
    lines = []
    for name in (*SIGNAL_CODES, *_OTHERS):
        number, code = int(getattr(signal, name)), SIGNAL_CODES.get(name, 1200)
        lines.append(f"| {name} | {number} | {code} | {128 + number} | {message_of(code)} |")
    return _SIGNALS_INTRODUCTION + "\n".join(lines) + "\n"


def _translations() -> dict[int, tuple[int, str]]:
    return {code: (int(str(row[0])), str(row[1])) for code, row in error_code_translation_dictionary().items()}
