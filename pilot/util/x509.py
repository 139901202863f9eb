"""Reads subject and end of a certificate or proxy file."""

from __future__ import annotations

import logging
from typing import Any, Optional

logger = logging.getLogger(__name__)

_SHORT = {
    "countryName": "C", "stateOrProvinceName": "ST", "localityName": "L", "organizationName": "O",
    "organizationalUnitName": "OU", "commonName": "CN", "domainComponent": "DC", "emailAddress": "emailAddress",
    "userId": "UID",
}


def subject_dn(path: str) -> str:
    """Return the subject of the first certificate in a PEM file in the form ``/DC=org/CN=name``, '' when unreadable."""
    names = [pair for group in _decoded(path).get("subject", ()) for pair in group]
    return "".join(f"/{_SHORT.get(kind, kind)}={value}" for kind, value in names)


def valid_until(path: str) -> Optional[float]:
    """Return when the first certificate in a PEM file ends (s since 1970), None when unreadable.

    That of a proxy never ends later than the certificates behind it.
    """
    import ssl

    end = _decoded(path).get("notAfter")
    return float(ssl.cert_time_to_seconds(end)) if end else None


def _decoded(path: str) -> dict[str, Any]:
    import ssl

    try:
        # The only certificate parser in the standard library; it has no public name outside of a TLS connection.
        decode = ssl._ssl._test_decode_cert  # type: ignore[attr-defined]
        return dict(decode(path))
    except (AttributeError, OSError, ValueError, ssl.SSLError) as exc:
        logger.warning("the certificate in %s cannot be read: %s", path, exc)
        return {}
