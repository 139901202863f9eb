"""Who the pilot is for the server: X509 proxy, CA directory, OIDC token and origin; looked at anew for each request."""

from __future__ import annotations

import json
import logging
import os
import time
from base64 import urlsafe_b64decode
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Optional, Protocol
from urllib.parse import urlsplit

from pilot.common.exception import FileHandlingFailure

logger = logging.getLogger(__name__)

TOKEN_CLIENT = "pilot_server"
"""``client_name`` that the server's token cache knows for pilots (server-api.md 3.3)."""

_DEFAULT_CA = "/etc/grid-security/certificates"


class TokenSource(Protocol):
    """The call of PandaServer that renews tokens."""

    def get_access_token(self, client_name: str, token_key: str) -> str:
        """Return a new token."""


class _Paths(Protocol):
    @property
    def cacert(self) -> Optional[str]: ...

    @property
    def capath(self) -> Optional[str]: ...


class Credentials:
    """The pilot's identity. Every question reads the environment and the files again: both change while a pilot runs.

    Args:
        cacert: option ``--cacert``, the proxy file; "" = not given.
        capath: option ``--capath``, the CA directory (a CA file is taken as well); "" = not given.
        environ: the live environment; ``OIDC_REFRESHED_AUTH_TOKEN`` is set in it after a renewal.
    """

    def __init__(self, cacert: str = "", capath: str = "", environ: MutableMapping[str, str] | None = None) -> None:
        self._cacert = cacert
        self._capath = capath
        self._environ = os.environ if environ is None else environ
        self._warned: set[str] = set()
        self._token_cache: tuple[tuple[object, ...], str] = ((), "")

    @classmethod
    def from_environment(cls, options: _Paths, environ: MutableMapping[str, str] | None = None) -> Credentials:
        """Return the credentials of a pilot that was started with ``options`` (``cacert``, ``capath``)."""
        return cls(options.cacert or "", options.capath or "", environ)

    # --- X509 --------------------------------------------------------------------------------------------------------

    def proxy(self) -> str:
        """Return the first existing file of ``--cacert``, X509_USER_PROXY, /tmp/x509up_u<uid>; "" = there is none."""
        candidates = (self._cacert, self._environ.get("X509_USER_PROXY", ""), f"/tmp/x509up_u{os.getuid()}")
        return next((path for path in candidates if path and os.path.isfile(path)), "")

    def ca_path(self) -> str:
        """Return the first existing CA directory (or file) of ``--capath``, X509_CERT_DIR, grid default; "" = none."""
        candidates = (self._capath, self._environ.get("X509_CERT_DIR", ""), _DEFAULT_CA)
        return next((path for path in candidates if path and os.path.exists(path)), "")

    def client_certificate(self) -> str:
        """Return the file to present in TLS; "" with a token, whose identity a certificate would override."""
        return "" if self.token() else self.proxy()

    # --- OIDC token --------------------------------------------------------------------------------------------------

    def origin(self) -> str:
        """Return ``<vo>.<role>`` from OIDC_AUTH_ORIGIN or PANDA_AUTH_ORIGIN, "" when unset."""
        return self._environ.get("OIDC_AUTH_ORIGIN") or self._environ.get("PANDA_AUTH_ORIGIN") or ""

    def token_name(self) -> str:
        """Return the token file's name (not its content) from OIDC_AUTH_TOKEN or PANDA_AUTH_TOKEN."""
        return self._environ.get("OIDC_AUTH_TOKEN") or self._environ.get("PANDA_AUTH_TOKEN") or ""

    def token(self) -> str:
        """Return the bearer token, "" when tokens are not configured (name and origin) or the file is not there.

        The renewed token is preferred until it expires; then the primary one is back in use.
        """
        if not (self.token_name() and self.origin()):
            return ""
        renewed = self._environ.get("OIDC_REFRESHED_AUTH_TOKEN", "")
        if renewed and os.path.isfile(renewed):
            token = self._read_token(renewed)
            expiry = token_expiry(token)
            if token and (expiry is None or expiry > time.time()):
                return token
        path = self._find(self.token_name())
        if not path:
            if len(self.token_name()) > 40:  # perhaps the token itself, where its file's name belongs
                _register_secret(self.token_name())
            self._warn(
                "token", "token file %s was not found in any of its places, the X509 proxy is used", self.token_name()
            )
            return ""
        return self._read_token(path)

    def token_path(self) -> str:
        """Return the path of the primary token file, "" when it is nowhere."""
        return self._find(self.token_name()) if self.token_name() else ""

    def headers(self, url: str) -> dict[str, str]:
        """Return the identity headers for a request to ``url``: token and origin, both or none.

        A token is never sent in the clear, except to this machine itself (tests).
        """
        token = self.token()
        if not token:
            return {}
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            self._warn("clear", "no token is sent to %s: the connection is not encrypted", parts.netloc)
            return {}
        return {"Authorization": f"Bearer {token}", "Origin": self.origin()}

    def fingerprint(self) -> tuple[object, ...]:
        """Return a value that changes when connections must be opened anew: other proxy, CA, or kind of identity."""
        certificate = self.client_certificate()
        try:
            state = os.stat(certificate) if certificate else None
        except OSError:
            state = None
        return (certificate, state and (state.st_mtime_ns, state.st_size, state.st_ino), self.ca_path())

    def _find(self, name: str) -> str:
        """Return the path of a token or key file, "" when it is nowhere; the order is that of server-api.md 3.2."""
        get = self._environ.get
        first = get("OIDC_AUTH_DIR") or get("PANDA_AUTH_DIR") or get("X509_USER_PROXY") or ""
        places = (os.path.dirname(first), get("PILOT_SOURCE_DIR", ""), get("PILOT_WORK_DIR", ""), get("HOME", ""))
        if os.path.isabs(name):
            return name if os.path.isfile(name) else ""
        paths = (os.path.join(place, name) for place in places if place)
        return next((path for path in paths if os.path.isfile(path)), "")

    def _read_token(self, path: str) -> str:
        try:
            state = os.stat(path)
            key = (path, state.st_mtime_ns, state.st_size, state.st_ino)
            if self._token_cache[0] == key:
                return self._token_cache[1]
            token = Path(path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            self._warn(path, "token file %s cannot be read: %s", path, type(exc).__name__)
            return ""
        if token:
            _register_secret(token)
        self._token_cache = (key, token)
        return token

    def _warn(self, topic: str, text: str, *values: object) -> None:
        """Say it once; requests repeat."""
        if topic not in self._warned:
            self._warned.add(topic)
            logger.warning(text, *values)

    # --- renewal -----------------------------------------------------------------------------------------------------

    def renewal_due(self, now: float | None = None) -> bool:
        """Return True when less than a third of the token's life is left, or when its life cannot be read."""
        token = self.token()
        if not token:
            return False
        claims = token_claims(token)
        expiry, issued = _time_claim(claims, "exp"), _time_claim(claims, "iat")
        if expiry is None:
            return True
        now = time.time() if now is None else now
        return expiry - now < (expiry - issued if issued is not None else 3600.0) / 3

    def can_renew(self) -> bool:
        """Return True when a token is in use, and the key file to renew it with is there."""
        return bool(self.token()) and bool(self._find(self._environ.get("PANDA_AUTH_TOKEN_KEY", "")))

    def use_proxy(self, path: str) -> None:
        """Use another file as the pilot's proxy from now on (a renewed one, where the old place is read-only)."""
        self._environ["X509_USER_PROXY"] = path
        if self._cacert:
            self._cacert = path

    def renew_token(self, server: TokenSource, home: Path) -> bool:
        """Fetch a new token and keep it in ``home``; the primary token file stays as it is.

        Returns:
            False when there is nothing to renew with (no token in use, or no PANDA_AUTH_TOKEN_KEY file).

        Raises:
            TransportError: no usable answer.
            ServerRefusal: the server does not give one (StatusCode 50, 70, 90).
            FileHandlingFailure: it could not be written.
        """
        key_path = self._find(self._environ.get("PANDA_AUTH_TOKEN_KEY", "")) if self.token() else ""
        if not key_path:
            return False
        try:
            key = Path(key_path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise FileHandlingFailure(f"token key file {key_path} cannot be read: {type(exc).__name__}") from exc
        _register_secret(key)
        token = server.get_access_token(TOKEN_CLIENT, key).strip()
        _register_secret(token)
        path = home / f"refreshed_{os.path.basename(self.token_name())}"
        write_secret(path, token)
        self._environ["OIDC_REFRESHED_AUTH_TOKEN"] = str(path)
        expiry = token_expiry(token)
        until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(expiry)) if expiry is not None else "an unknown time"
        logger.info("the token was renewed, it is valid until %s", until)
        return True


def token_claims(token: str) -> Mapping[str, object]:
    """Return the claims of a JWT without verifying it (for scheduling only); {} when it is no JWT."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def token_expiry(token: str) -> float | None:
    """Return when the JWT expires (epoch s), None when it does not say."""
    return _time_claim(token_claims(token), "exp")


def _time_claim(claims: Mapping[str, object], name: str) -> float | None:
    value = claims.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def write_secret(path: Path, text: str) -> None:
    """Write ``text`` so that nobody else can ever read it: a new 0600 file, renamed onto ``path`` when complete.

    Raises:
        FileHandlingFailure: the directory is read-only or full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # O_EXCL: never write a secret through a link or into a file that somebody else has open.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.rename(temporary, path)
        except OSError:
            temporary.unlink()
            raise
    except OSError as exc:
        raise FileHandlingFailure(f"{path} could not be written: {exc.strerror}") from exc


def store_user_proxy(proxy: str, path: Path, home: Path) -> Path:
    """Store a downloaded proxy at ``path``, or in ``home`` if that directory cannot be written; returns the place."""
    try:
        write_secret(path, proxy)
    except FileHandlingFailure:
        if path.parent == home:
            raise
        path = home / path.name
        write_secret(path, proxy)
    return path


def _register_secret(value: str) -> None:
    from pilot.util.redact import register_secret

    register_secret(value)
