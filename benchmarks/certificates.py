"""Certificates for the https benchmark: an authority, a host, a client, a hashed CA directory and a large CA file."""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID


class Files(NamedTuple):
    """Paths. host, client: certificate and key in one PEM file; directory: OpenSSL's hash names; bundle: 140 CAs."""

    authority: Path
    host: Path
    client: Path
    directory: Path
    bundle: Path


Pair = Tuple[x509.Certificate, rsa.RSAPrivateKey]


def _issue(name: str, issuer: Optional[Pair], extensions: List[x509.ExtensionType]) -> Pair:
    key = rsa.generate_private_key(65537, 2048)
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Bench"), x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(issuer[1] if issuer else key, hashes.SHA256()), key


def _write(path: Path, pair: Pair) -> Path:
    path.write_bytes(
        pair[0].public_bytes(serialization.Encoding.PEM)
        + pair[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    path.chmod(0o600)
    return path


def make_certificates(directory: Path) -> Files:
    """Write all files below ``directory``."""
    import certifi

    authority = _issue("CA", None, [x509.BasicConstraints(True, None)])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    public = authority[0].public_bytes(serialization.Encoding.PEM)
    hashed = directory / "authorities"
    hashed.mkdir()
    (hashed / "bench.pem").write_bytes(public)
    number = subprocess.run(
        ["openssl", "x509", "-hash", "-noout", "-in", str(hashed / "bench.pem")],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout.strip()
    (hashed / f"{number}.0").write_bytes(public)
    bundle = directory / "bundle.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes() + b"\n" + public)
    return Files(
        hashed / "bench.pem",
        _write(directory / "host.pem", _issue("localhost", authority, [address])),
        _write(directory / "client.pem", _issue("Robot", authority, [])),
        hashed,
        bundle,
    )
