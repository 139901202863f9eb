"""The rules of diagnosis for every payload, in the order in which they are asked.

Of findings with the same rank the first one is reported, so what is more specific stands first. Source: payload
document 14 and 15, error codes document 7 and 8.
"""

from __future__ import annotations

from pilot.info.diagnosis import Rule
from pilot.payload.rules.container import CommandNotFound, ContainerLastWords, ContainerRuntime
from pilot.payload.rules.ending import Ending, PayloadsOwnError
from pilot.payload.rules.jobreport import JobReportFailure
from pilot.payload.rules.kernel import CoreDump, OomKill, OomSuspected, SegmentationFault, UnknownInstruction
from pilot.payload.rules.texts import (
    MissingUserCode,
    NoSpace,
    OutOfMemoryText,
    SqliteLocks,
    UnrecognizedArguments,
    UnsupportedSystem,
    UserTarball,
    WriteFailed,
    WrongArchitecture,
)

RULES: tuple[Rule, ...] = (
    PayloadsOwnError(),
    OomKill(),
    ContainerRuntime(),
    CommandNotFound(),
    WrongArchitecture(),
    UnknownInstruction(),
    UnsupportedSystem(),
    OutOfMemoryText(),
    JobReportFailure(),
    SegmentationFault(),
    OomSuspected(),
    NoSpace(),
    WriteFailed(),
    SqliteLocks(),
    MissingUserCode(),
    UserTarball(),
    UnrecognizedArguments(),
    CoreDump(),
    ContainerLastWords(),
    Ending(),
)
