"""What Harvester imports from this package on its edge nodes: exact names and values, and no side effects."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pilot.util.auxiliary import convert_to_pilot_error_code, get_error_code_translation_dictionary

ROOT = Path(__file__).parents[3]

TRANSLATION = {
    -1: [64, "Site offline"],
    1377: [64, "CVMFS is not responding"],
    1008: [65, "General pilot error, consult batch log"],
    1199: [66, "Could not create directory"],
    1103: [67, "No such file or directory"],
    1177: [68, "Voms proxy not valid"],
    1163: [68, "Proxy not valid"],
    1373: [68, "Proxy not valid"],
    1098: [69, "No space left on local disk"],
    1301: [70, "Exception caught by pilot"],
    1116: [71, "Pilot could not download queuedata"],
    1117: [72, "Pilot found non-valid queuedata"],
    1186: [73, "Software directory does not exist"],
    1330: [74, "JSON retrieval timed out"],
    1332: [75, "Black hole detected in file system"],
    1342: [76, "Failed to import middleware module"],
    1331: [77, "Missing input file in SE"],
    1359: [78, "PanDA queue is not active"],
    1318: [79, "PanDA server communication failure"],
    1382: [80, "Proxy too short"],
    1213: [81, "Reached maximum time limit"],
    1385: [82, "No jobs in PanDA"],
    1386: [83, "Site offline"],
    1200: [137, "General kill signal"],
    1201: [143, "Job killed by signal: SIGTERM"],
    1202: [131, "Job killed by signal: SIGQUIT"],
    1203: [139, "Job killed by signal: SIGSEGV"],
    1204: [152, "Job killed by signal: SIGXCPU"],
    1206: [138, "Job killed by signal: SIGUSR1"],
    1208: [130, "Job killed by signal: SIGINT"],
    1207: [135, "Job killed by signal: SIGBUS"],
}

# What Harvester does, in a Python that finds nothing but the standard library and this checkout.
SCRIPT = """
import json, logging, os, sys
from pilot.common.errorcodes import ErrorCodes
from pilot.util import auxiliary
from pilot.info import FileSpec, InfoService, JobData, JobInfoProvider, QueueData, StorageData, infosys
from pilot.common.exception import PilotException
import pilot.api.data
third_party = sorted(name for name in ("requests", "psutil", "yaml", "urllib3") if name in sys.modules)
print(json.dumps({
    "table": len(ErrorCodes._error_messages), "dictionary": len(auxiliary.get_error_code_translation_dictionary()),
    "names": [ErrorCodes.GENERALERROR, ErrorCodes.PANDAKILL, ErrorCodes.FAILEDBYSERVER, ErrorCodes.STAGEOUTFAILED,
              ErrorCodes.STAGEINFAILED, ErrorCodes.SETUPFAILURE],
    "handlers": len(logging.getLogger().handlers), "third_party": third_party, "files": os.listdir("."),
}))
"""


def test_the_translation_dictionary_has_the_exact_codes_texts_and_order() -> None:
    assert list(get_error_code_translation_dictionary().items()) == list(TRANSLATION.items())


def test_the_caller_may_change_what_it_got() -> None:
    get_error_code_translation_dictionary()[1008][0] = 99
    assert get_error_code_translation_dictionary()[1008][0] == 65


@pytest.mark.parametrize(
    ("shell", "code"),
    [(64, -1), (65, 1008), (68, 1177), (69, 1098), (79, 1318), (130, 1208), (135, 1207), (137, 1200), (138, 1206),
     (143, 1201)],
)
def test_a_shell_code_gives_the_first_pilot_code_of_the_table(shell: int, code: int) -> None:
    assert convert_to_pilot_error_code(shell) == code


@pytest.mark.parametrize("shell", [0, 1, 2, 63, 84, 255, -15])
def test_an_unknown_shell_code_gives_minus_one_and_is_printed_not_logged(
    shell: int, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert convert_to_pilot_error_code(shell) == -1
    assert str(shell) in capsys.readouterr().out
    assert caplog.records == []


def test_the_imports_need_no_third_party_package_and_leave_no_trace(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-S", "-c", SCRIPT], cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, timeout=60,
        check=True)
    assert json.loads(run.stdout) == {
        "table": 149, "dictionary": 31, "names": [1008, 1144, 1236, 1137, 1099, 1110], "handlers": 0, "third_party": [],
        "files": [],
    }
    assert run.stderr == ""
