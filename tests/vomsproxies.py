"""Makes proxies with VOMS attributes out of nothing: certificates are real, the attributes' signature is not.

Real ones, of VOMS' own commands: tests/grid.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Optional, Sequence, Tuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier

NOW = datetime.datetime(2026, 11, 21, 12, 0, 0, tzinfo=datetime.timezone.utc)
HOUR = datetime.timedelta(hours=1)
VOMS = ObjectIdentifier("1.3.6.1.4.1.8005.100.100.5")
FQANS = ("/atlas/Role=production/Capability=NULL", "/atlas/Role=NULL/Capability=NULL")
Pair = Tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def attribute_certificate(ends: datetime.datetime, fqans: Sequence[str] = FQANS) -> bytes:
    """The VOMS extension as RFC 5755 and the VOMS profile lay it out, without a real signature."""
    times = [der(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode()) for moment in (ends - 1000 * HOUR, ends)]
    values = der(0x30, *(der(0x04, name.encode()) for name in fqans))
    syntax = der(0x30, der(0xA0, der(0x86, b"atlas://voms.example.org:15000")), values)
    attribute = der(0x30, der(0x06, bytes.fromhex("2b06010401be45646404")), der(0x31, syntax))
    holder = der(0x30, der(0xA0, der(0x02, b"\x01")))
    info = der(0x30, der(0x02, b"\x01"), holder, der(0xA0, b""), der(0x30, b""), der(0x02, b"\x07"),
               der(0x30, *times), der(0x30, attribute))
    return der(0x30, der(0x30, der(0x30, info, der(0x30, b""), der(0x03, b"\x00sig"))))


def issue(name: str, issuer: Optional[Pair], ends: datetime.datetime, voms: Optional[datetime.datetime] = None,
          begins: datetime.datetime = NOW - HOUR, fqans: Sequence[str] = FQANS) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer[0].subject if issuer else subject)
               .public_key(key.public_key()).serial_number(x509.random_serial_number())
               .not_valid_before(begins).not_valid_after(ends))
    if voms is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(VOMS, attribute_certificate(voms, fqans)), False)
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def text_of(*pairs: Pair, key: bool = True) -> bytes:
    """Like a proxy file: first certificate, its key, the other certificates."""
    pem = serialization.Encoding.PEM
    parts = [pair[0].public_bytes(pem) for pair in pairs]
    if key:
        parts.insert(1, pairs[0][1].private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL,
                                                  serialization.NoEncryption()))
    return b"".join(parts)


def living_proxy(hours: float, voms_hours: Optional[float], fqans: Sequence[str] = FQANS) -> str:
    """Return the text of a proxy that lives so long from now on by the real clock; None = no attributes."""
    now = datetime.datetime.now(datetime.timezone.utc)
    user = issue("Jane Doe", None, now + 1000 * HOUR, begins=now - HOUR)
    voms = None if voms_hours is None else now + voms_hours * HOUR
    return text_of(issue("proxy", user, now + hours * HOUR, voms, begins=now - HOUR, fqans=fqans), user).decode()


def write_proxy(path: Path, hours: float, voms_hours: Optional[float], fqans: Sequence[str] = FQANS) -> Path:
    """Write such a proxy, readable for its owner only."""
    path.write_text(living_proxy(hours, voms_hours, fqans))
    path.chmod(0o600)
    return path
