"""Reads the subject of a certificate or proxy file."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

_SHORT = {
    "countryName": "C", "stateOrProvinceName": "ST", "localityName": "L", "organizationName": "O",
    "organizationalUnitName": "OU", "commonName": "CN", "domainComponent": "DC", "emailAddress": "emailAddress",
    "userId": "UID",
}


def subject_dn(path: str) -> str:
    """Return the subject of the first certificate in a PEM file in the form ``/DC=org/CN=name``, '' when unreadable."""
    import ssl

    try:
        # The only certificate parser in the standard library; it has no public name outside of a TLS connection.
        decode = ssl._ssl._test_decode_cert  # type: ignore[attr-defined]
        certificate = decode(path)
    except (AttributeError, OSError, ValueError, ssl.SSLError) as exc:
        logger.warning("the subject of %s cannot be read: %s", path, exc)
        return ""
    names = [pair for group in certificate.get("subject", ()) for pair in group]
    return "".join(f"/{_SHORT.get(kind, kind)}={value}" for kind, value in names)
