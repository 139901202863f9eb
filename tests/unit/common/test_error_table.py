"""The table of error codes is protocol: every number, acronym and text is compared with the published table."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilot.common import exception
from pilot.common.errorcodes import (
    ERROR_TABLE,
    RETRY,
    SIGNAL_CODES,
    WHO,
    ErrorCodes,
    format_diagnosis,
    message_of,
    shell_exit_code,
)
from pilot.common.exception import PilotException

PUBLISHED_FILE = Path(__file__).parents[2] / "data" / "error_codes.tsv"
PUBLISHED = {
    int(code): (name, text)
    for code, name, text in (
        line.split("\t") for line in PUBLISHED_FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    )
}

# Ours: existing pilots have no such codes.
OWN = {
    1387: ("FORBIDDENCONNECTION", "Outbound connection not allowed"),
    1388: ("WRONGARCHITECTURE", "Payload was built for another architecture or operating system"),
}
PUBLISHED.update(OWN)

# Priorities of error-codes section 7: rank -> codes.
RANKS = {
    1: [1144],
    2: [1213, *range(1200, 1209), 1379],
    3: [1150, 1235, 1104, 1106, 1124, 1350, 1098, 1177, 1163, 1373, 1332],
    4: [1099, 1103, 1145, 1151, 1168, 1171, 1180, 1326, 1331, 1322, 1338],
    5: [1149, 1143, 1360, 1384, 1339, 1110, 1244, 1334, 1211, 1346, 1186, *range(1306, 1310), 1325, 1340, 1345,
        1348, 1372, 1358, 1361, 1368, 1378],
    6: [1212, 1223, 1328, 1115, 1335, 1246, 1369, 1347, 1349, 1355, 1356, 1357],
    7: [1165, 1187, 1191, 1190, 1371, 1343],
    8: [1305, 1315, 1310, 1220, 1351],
    9: [1137, 1141, 1152, 1172, 1181, 1333, 1383, 1221, 1320, 1376, 1303],
    10: [1301, 1319, 1318, 1008, 1337, 1352, 1353, 1354, 1344],
}

# cli-config 7.2, the table that Harvester imports: pilot code -> shell exit code.
SHELL_CODES = {
    0: 0, -1: 64, 1377: 64, 1008: 65, 1199: 66, 1103: 67, 1177: 68, 1163: 68, 1373: 68, 1098: 69, 1301: 70, 1116: 71,
    1117: 72, 1186: 73, 1330: 74, 1332: 75, 1342: 76, 1331: 77, 1359: 78, 1318: 79, 1382: 80, 1213: 81, 1385: 82,
    1386: 83, 1200: 137, 1201: 143, 1202: 131, 1203: 139, 1204: 152, 1206: 138, 1207: 135, 1208: 130,
}

# error-codes section 5: exception class -> code.
EXCEPTIONS = {
    "UnknownException": 1301, "NoLocalSpace": 1098, "SizeTooLarge": 1168, "StageInFailure": 1099,
    "StageOutFailure": 1137, "SetupFailure": 1110, "RunPayloadFailure": 1305, "MessageFailure": 1240,
    "CommunicationFailure": 1318, "FileHandlingFailure": 1303, "NoSuchFile": 1103, "ConversionFailure": 1302,
    "MKDirFailure": 1199, "NoGridProxy": 1163, "NoVomsProxy": 1177, "TrfDownloadFailure": 1149,
    "NotDefined": 1311, "NotSameLength": 1312, "ESRecoverable": 1224,
    "ESFatal": 1228, "ExecutedCloneJob": 1234, "ESNoEvents": 1238, "ExceededMaxWaitTime": 1317, "BadXML": 1247,
    "NoSoftwareDir": 1186, "LogFileCreationFailure": 1320, "QueuedataFailure": 1116, "QueuedataNotOK": 1117,
    "ReplicasNotFound": 1326, "MiddlewareImportFailure": 1342, "JobAlreadyRunning": 1336,
}


def test_the_table_is_the_published_one() -> None:
    assert {code: (entry.name, entry.text) for code, entry in ERROR_TABLE.items()} == PUBLISHED


def test_every_acronym_is_a_class_constant_and_every_text_is_in_the_dictionary_that_harvester_copies() -> None:
    for code, (name, _) in PUBLISHED.items():
        assert getattr(ErrorCodes, name) == code
    assert ErrorCodes._error_messages == {code: text for code, (_, text) in PUBLISHED.items()}


@pytest.mark.parametrize(("rank", "codes"), RANKS.items())
def test_ranks_are_those_of_the_priority_table(rank: int, codes: list[int]) -> None:
    assert {code: ERROR_TABLE[code].rank for code in codes} == dict.fromkeys(codes, rank)


def test_shell_exit_codes_are_those_of_the_translation_table_and_1_for_all_others() -> None:
    for code in (0, -1, *PUBLISHED, 4711):
        assert shell_exit_code(code) == SHELL_CODES.get(code, 1), code


def test_signals_have_the_codes_of_the_published_signal_table() -> None:
    assert SIGNAL_CODES == {
        "SIGTERM": 1201, "SIGQUIT": 1202, "SIGSEGV": 1203, "SIGXCPU": 1204, "SIGUSR1": 1206, "SIGBUS": 1207,
    }
    for name, code in SIGNAL_CODES.items():
        assert message_of(code) == f"Job killed by signal: {name}"


def test_recoverable_codes() -> None:
    assert [code for code in range(2000) if ErrorCodes.is_recoverable(code)] == [0, 1135, 1136, 1137, 1141, 1152, 1181]


@pytest.mark.parametrize("size", [0, 1, 150, 190, 256, 257, 1000, 100_000])
def test_a_diagnosis_starts_with_the_default_text_keeps_the_tail_and_has_at_most_256_characters(size: int) -> None:
    detail = ("é" * size)[:-4] + "tail" if size > 4 else "x" * size
    for code in (*PUBLISHED, 4711, 0):
        text = format_diagnosis(code, detail)
        assert len(text) <= 256
        assert text.startswith(PUBLISHED[code][1] if code in PUBLISHED else "")
        assert text.endswith(detail[-4:])


def test_the_default_text_is_not_repeated_and_lines_are_joined() -> None:
    text = "Failed to stage-in file"
    assert format_diagnosis(1099, f"{text}: disk\n  on  fire") == f"{text}: disk on fire"
    assert format_diagnosis(1099, text) == text
    assert format_diagnosis(1099, "") == text


@pytest.mark.parametrize(("name", "code"), EXCEPTIONS.items())
def test_exceptions_carry_their_code_and_the_form_that_tools_parse(name: str, code: int) -> None:
    cls = getattr(exception, name)
    exc = cls("file", "x", "is gone")
    assert isinstance(exc, PilotException)
    assert exc.get_error_code() == code
    assert str(exc) == f"error code: {code}, message: {PUBLISHED[code][1]}\ndetails: file x is gone"
    assert str(cls()) == f"error code: {code}, message: {PUBLISHED[code][1]}"
    assert cls("a", code=1008).get_error_code() == 1008
    assert (exc.get_last_error(), cls().get_last_error()) == ("file x is gone", PUBLISHED[code][1])


def test_every_code_says_who_must_act_and_whether_to_try_again() -> None:
    for entry in ERROR_TABLE.values():
        assert entry.who in WHO and entry.retry in RETRY, entry.name
