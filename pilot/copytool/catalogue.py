"""The Rucio catalogue as the pilot sees it: where the replicas of the inputs are, and which of them are bad.

The client library runs in a helper process (``pilot.copytool.worker.rucio``), the same one that moves files, so that
all of them share one login.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Mapping, Optional, Sequence

from pilot.common.exception import MiddlewareImportFailure, PilotException
from pilot.copytool.base import Direction
from pilot.util import helperprocess
from pilot.util.cancel import CancelToken
from pilot.util.helper import HelperFailure, HelperLost, HelperPool
from pilot.util.redact import redact

LIBRARY = "rucio"
TIMEOUT = 60.0
"""Seconds that the server may be silent, per attempt; there are three."""
_DETAILS = re.compile(r"\s*\bDetails\s*:\s*", re.IGNORECASE)
_WRAPPERS = ("The requested service is not available at the moment.", "An unknown exception occurred.")


def client_environ(environ: Mapping[str, str], rucio_host: str = "") -> dict[str, str]:
    """Return the environment for the client library: equal ones share a helper process.

    ``SITE_NAME`` is what an upload compares with the RSE's attribute ``site`` to take the door of the LAN.

    Args:
        environ: of the direction.
        rucio_host: URL of the server, when not the one of ``rucio.cfg``; it is then asked for logins as well.
    """
    env = {**environ, "RUCIO_LOGGING_FORMAT": "%(asctime)s %(levelname)s [%(message)s]"}
    site = environ.get("PILOT_RUCIO_SITENAME", "")
    if site and not env.get("SITE_NAME"):
        env["SITE_NAME"] = site
    if rucio_host:
        env["PILOT_RUCIO_HOST"] = rucio_host
    if logging.getLogger(helperprocess.__name__).isEnabledFor(logging.DEBUG):
        env["PILOT_RUCIO_VERBOSE"] = "1"
    return env


def library_missing(problem: str) -> MiddlewareImportFailure:
    """Say what to install (1342)."""
    return MiddlewareImportFailure(
        f"the Rucio client library is not here ({problem}): install panda-pilot[rucio], or set it up with lsetup rucio"
    )


def login_failure(facts: Mapping[str, Any], direction: Direction) -> Optional[tuple[int, str]]:
    """Return code and text when the client could not log in to the Rucio server, else None.

    Args:
        facts: of the helper: ``kind`` is ``proxy`` (none, unreadable or expired: 1163) or ``login`` (refused: 1338 at
            stage-in, 1383 at stage-out).
        direction: which way the files were to go.
    """
    text = " ".join(redact(str(facts.get("text", ""))).split())
    if facts.get("kind") == "proxy":
        return 1163, text
    if facts.get("kind") == "login":
        return (1338 if direction is Direction.IN else 1383), text
    return None


def innermost(text: str) -> str:
    """Take the library's wrapping off: each layer says ``<something general> Details: <what was inside>``."""
    parts = [part.strip() for part in _DETAILS.split(" ".join(text.split()))]
    kept = [part for part in parts if part and part not in _WRAPPERS]
    return kept[-1] if kept else (parts[-1] or parts[0] or "no text")


class Catalogue:
    """Questions and messages to the catalogue.

    Args:
        helpers: processes for client libraries.
        environ: complete environment of the client: RUCIO_*, X509_*; see ``client_environ``.
        rucio_host: URL of the server, when not the one of ``rucio.cfg``.
    """

    def __init__(self, helpers: HelperPool, environ: Mapping[str, str], rucio_host: str = "") -> None:
        self._helpers = helpers
        self._environ = client_environ(environ, rucio_host)

    def list_replicas(
        self,
        dids: Sequence[Mapping[str, str]],
        *,
        schemes: Sequence[str],
        client_location: Mapping[str, object],
        token: CancelToken,
        rse_expression: Optional[str] = None,
        ignore_availability: Optional[bool] = None,
        lifetime: int = 86400,
        timeout: float = TIMEOUT,
    ) -> list[dict[str, Any]]:
        """Look all files up in one call; three attempts when the server does not answer or cannot just now.

        Args:
            dids: ``{"scope": ..., "name": ...}`` of each file.
            schemes: of the wanted URLs.
            client_location: ``ip``, ``site`` and what else Rucio knows of places.
            token: breaks the wait off.
            rse_expression: only replicas on these RSEs.
            ignore_availability: also those on blocked RSEs; None = the server's default.
            lifetime: of signed URLs, seconds.
            timeout: seconds that the server may be silent, per attempt.

        Returns:
            One dict per file that the catalogue knows, in its order: ``scope``, ``name``, ``bytes``, ``adler32``,
            ``md5`` (None = unknown) and ``pfns``, URL -> ``rse``, ``type``, ``domain``, ``priority``,
            ``client_extract``. A file without a replica has no ``pfns``, or is missing altogether.

        Raises:
            PilotException: 1322 look-up failed; 1163 or 1338 no login; 1342 no library.
            CancelledError: the token was cancelled.
        """
        if not dids:
            return []
        args = {
            "dids": [{"scope": did["scope"], "name": did["name"]} for did in dids],
            "schemes": list(schemes),
            "client_location": dict(client_location),
            "rse_expression": rse_expression,
            "ignore_availability": ignore_availability,
            "signature_lifetime": lifetime,
        }
        try:
            return list(self._ask("list_replicas", args, token, timeout)["replicas"])
        except HelperLost as exc:
            raise PilotException(f"Failed to get replicas from Rucio: {exc.detail}", code=1322) from exc
        except HelperFailure as exc:
            code, text = login_failure(exc.facts, Direction.IN) or (1322, redact(innermost(exc.text)))
            raise PilotException(f"Failed to get replicas from Rucio: {text}", code=code) from exc

    def declare_suspicious(self, pfns: Sequence[str], reason: str, token: CancelToken) -> None:
        """Tell that these replicas gave wrong content.

        Raises:
            PilotException: 1316, not told; 1342 no library. Never a reason to fail a job.
        """
        self._tell("declare_suspicious", {"pfns": list(pfns), "reason": reason}, token)

    def declare_bad(self, pfns: Sequence[str], reason: str, token: CancelToken) -> None:
        """Tell that these replicas are lost or corrupt; takes an account with that right.

        Raises:
            PilotException: 1316, not told; 1342 no library.
        """
        self._tell("declare_bad", {"pfns": list(pfns), "reason": reason}, token)

    def _tell(self, op: str, args: Mapping[str, Any], token: CancelToken) -> None:
        try:
            refused = self._ask(op, args, token, TIMEOUT).get("refused") or {}
        except (HelperFailure, HelperLost) as exc:
            text = exc.text if isinstance(exc, HelperFailure) else exc.detail
            raise PilotException(f"Rucio did not take {op}: {redact(innermost(text))}", code=1316) from exc
        if refused:
            raise PilotException(f"Rucio did not take {op}: {redact(str(refused))}", code=1316)

    def _ask(self, op: str, args: Mapping[str, Any], token: CancelToken, timeout: float) -> dict[str, Any]:
        order = {**args, "timeout": timeout}
        try:
            return self._helpers.call(LIBRARY, op, order, env=self._environ, token=token)
        except MiddlewareImportFailure as exc:
            raise library_missing(exc.detail) from exc
