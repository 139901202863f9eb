"""The tree of exceptions: each class carries a pilot error code and a diagnosis that a shifter can act on.

``str(exc)`` keeps the form ``error code: <n>, message: <default text>`` + ``\\ndetails: <text>``, which logs and other
tools parse.
"""

from __future__ import annotations

from pilot.common.errorcodes import format_diagnosis, message_of


class PilotException(Exception):
    """Base of all errors that the pilot raises on purpose.

    Args:
        *details: what happened, where, which limit, what to do; joined by blanks.
        code: pilot error code; default is the class's own.
    """

    default_code = 1301

    def __init__(self, *details: object, code: int | None = None) -> None:
        super().__init__(*details)
        self.code = self.default_code if code is None else code
        self.detail = " ".join(str(item) for item in details)
        self.who = self.retry = ""

    def advise(self, who: str, retry: str) -> PilotException:
        """Say who must act and what to try where that differs from the code's row in the table; returns itself."""
        self.who, self.retry = who, retry
        return self

    @property
    def diagnosis(self) -> str:
        """Default text of the code, then the detail; at most 256 characters, one line."""
        return format_diagnosis(self.code, self.detail)

    @property
    def full_text(self) -> str:
        """The diagnosis uncut, in one line: for people at a terminal and for the log."""
        return " ".join(f"{message_of(self.code)}{': ' if self.detail else ''}{self.detail}".split())

    def get_error_code(self) -> int:
        """Return the pilot error code (name that older tools use)."""
        return self.code

    def get_detail(self) -> str:
        """Return the detail text (name that older tools use)."""
        return self.detail

    def get_last_error(self) -> str:
        """Return the detail, or the default text of the code when there is none."""
        return self.detail or message_of(self.code)

    def __str__(self) -> str:
        text = f"error code: {self.code}, message: {message_of(self.code)}"
        return f"{text}\ndetails: {self.detail}" if self.detail else text


class UnknownException(PilotException):
    """Something that no other class describes."""


class NoLocalSpace(PilotException):
    """Not enough local space."""

    default_code = 1098


class SizeTooLarge(PilotException):
    """Total file size too large."""

    default_code = 1168


class StageInFailure(PilotException):
    """Failed to stage-in file."""

    default_code = 1099


class StageOutFailure(PilotException):
    """Failed to stage-out file."""

    default_code = 1137


class SetupFailure(PilotException):
    """Failed during payload setup."""

    default_code = 1110


class RunPayloadFailure(PilotException):
    """Failed to execute payload."""

    default_code = 1305


class MessageFailure(PilotException):
    """Failed to handle message from payload."""

    default_code = 1240


class CommunicationFailure(PilotException):
    """Failed to communicate with server."""

    default_code = 1318


class FileHandlingFailure(PilotException):
    """Failed during file handling."""

    default_code = 1303


class NoSuchFile(PilotException):
    """No such file or directory."""

    default_code = 1103


class ConversionFailure(PilotException):
    """Failed to convert object data."""

    default_code = 1302


class MKDirFailure(PilotException):
    """Failed to create directory."""

    default_code = 1199


class NoGridProxy(PilotException):
    """Grid proxy not valid."""

    default_code = 1163


class NoVomsProxy(PilotException):
    """Voms proxy not valid."""

    default_code = 1177


class TrfDownloadFailure(PilotException):
    """Transform could not be downloaded."""

    default_code = 1149


class NotDefined(PilotException):
    """Not defined."""

    default_code = 1311


class NotSameLength(PilotException):
    """Not same length."""

    default_code = 1312


class ESRecoverable(PilotException):
    """Event service: recoverable error."""

    default_code = 1224


class ESFatal(PilotException):
    """Event service: fatal error."""

    default_code = 1228


class ExecutedCloneJob(PilotException):
    """Clone job is already executed."""

    default_code = 1234


class ESNoEvents(PilotException):
    """Event service: no events."""

    default_code = 1238


class ExceededMaxWaitTime(PilotException):
    """Exceeded maximum waiting time."""

    default_code = 1317


class BadXML(PilotException):
    """Badly formed XML."""

    default_code = 1247


class NoSoftwareDir(PilotException):
    """Software directory does not exist."""

    default_code = 1186


class LogFileCreationFailure(PilotException):
    """Failed during creation of log file."""

    default_code = 1320


class QueuedataFailure(PilotException):
    """Pilot could not download queuedata."""

    default_code = 1116


class QueuedataNotOK(PilotException):
    """Pilot found non-valid queuedata."""

    default_code = 1117


class ReplicasNotFound(PilotException):
    """No matching replicas were found in list_replicas() output."""

    default_code = 1326


class MiddlewareImportFailure(PilotException):
    """Failed to import middleware."""

    default_code = 1342


class JobAlreadyRunning(PilotException):
    """Job is already running elsewhere."""

    default_code = 1336
