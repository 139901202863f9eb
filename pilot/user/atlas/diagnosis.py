"""What the set-up of ATLAS software says when it fails (payload document 14.2)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pilot.common.errorcodes import ErrorCodes
from pilot.info.diagnosis import Case, Finding, Line, Rule

_NO_INSTALLATION = re.compile(r"^(?:/bin/)?(?:ba)?sh: .*setup\.sh\b.*No such file or directory")


class SetupRule(Rule):
    """A text of the set-up: at the beginning of the output, or at its end when nothing came after it.

    The whole file is not searched: the log of a good job may quote such lines.
    """

    code = 0
    limit = 2048
    """Bytes of the last 10 lines, and of the first 50."""

    def fits(self, text: str) -> bool:
        """True for the line that says it."""
        raise NotImplementedError

    def look(self, case: Case) -> Iterable[Finding]:
        """The first such line in stdout, else stderr."""
        for output in (case.stdout, case.stderr):
            for text, place in ((output.head(4 * self.limit), "beginning"), (output.tail(self.limit), "end")):
                lines = text.split("\n")
                for line in lines[:50] if place == "beginning" else lines[-10:]:
                    if self.fits(line.strip()):
                        where = Line(line.strip(), f"{place} of {output.path.name}")
                        yield Finding(self.code, f"{case.ending}: {where.text}", where.place)
                        return


class MissingInstallation(SetupRule):
    """The set-up script of the software is not there."""

    name = "atlas-installation"
    code = ErrorCodes.MISSINGINSTALLATION

    def fits(self, text: str) -> bool:
        """The shell's words."""
        return bool(_NO_INSTALLATION.match(text))


class SetupFatal(SetupRule):
    """AtlasSetup has given up."""

    name = "atlas-setup"
    code = ErrorCodes.SETUPFATAL

    def fits(self, text: str) -> bool:
        """AtlasSetup's words."""
        return "AtlasSetup(FATAL): Fatal exception" in text


class NoRelease(SetupRule):
    """asetup does not know the release."""

    name = "atlas-release"
    code = ErrorCodes.NORELEASEFOUND

    def fits(self, text: str) -> bool:
        """asetup's words."""
        return "No release candidates found" in text


RULES = (MissingInstallation(), NoRelease(), SetupFatal())
