"""What a transfer tool says becomes the same code and trace state in every copytool (error codes 9)."""

from __future__ import annotations

import pytest

from pilot.common.errorcodes import ERROR_TABLE
from pilot.copytool.base import Direction
from pilot.copytool.causes import transfer_failure

# text, code at stage-in, at stage-out, clientState
TEXTS = [
    ("something else", 1099, 1137, "COPY_ERROR"),
    ("", 1099, 1137, "COPY_ERROR"),
    ("command timeout after 600 s", 1151, 1152, "CP_TIMEOUT"),
    ("failed xrdadler32", 1171, 1172, "AD_MISMATCH"),
    ("adler32 does not match the checksum", 1171, 1172, "AD_MISMATCH"),
    ("it does not match the checksum", 1145, 1141, "MD5_MISMATCH"),
    ("globus_xio: System error in open", 1180, 1181, "GLOBUS_FAIL"),
    ("File exists", 1221, 1221, "FILE_EXISTS"),
    ("SRM_FILE_BUSY", 1221, 1221, "FILE_EXISTS"),
    ("No such file or directory", 1331, 1103, None),
    ("query chksum is not supported", 1242, 1242, "CHKSUM_NOTSUP"),
    ("Unable to checksum", 1242, 1242, "CHKSUM_NOTSUP"),
    ("Could not establish context", 1163, 1163, "CONTEXT_FAIL"),
    ("No space left on device", 1098, 1333, "NO_SPACE"),
    ("service is not available at the moment", 1324, 1324, "SERVICE_ERROR"),
    ("Network is unreachable", 1327, 1327, "NETWORK_UNREACHABLE"),
    ("Run: [ERROR] Server responded with an error", 1362, 1362, "XRDCP_ERROR"),
    ("Unable to locate credentials", 1364, 1364, "S3_ERROR"),
    ("Details: service_unavailable", 1316, 1316, None),
    ("Cannot authenticate", 1338, 1383, None),
]


@pytest.mark.parametrize(("text", "code_in", "code_out", "state"), TEXTS)
def test_texts_of_transfer_tools(text: str, code_in: int, code_out: int, state: str | None) -> None:
    for direction, code in ((Direction.IN, code_in), (Direction.OUT, code_out)):
        failure = transfer_failure(direction, text, about="7f.root")
        assert failure.code == code, direction
        assert state is None or failure.state == state
        assert code in ERROR_TABLE and "7f.root" in failure.detail
