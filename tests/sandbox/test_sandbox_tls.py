"""https with client certificates: the identity comes from the certificate, RFC 3820 proxies included."""

from __future__ import annotations

import datetime
import http.client
import json
import ssl
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID, ObjectIdentifier
from sandbox_client import JANE, ROBOT

from sandbox import Sandbox, TLSFiles

OIDS = {"DC": NameOID.DOMAIN_COMPONENT, "O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
        "CN": NameOID.COMMON_NAME}
# ProxyCertInfo: path length absent, policy language 'inherit all' (1.3.6.1.5.5.7.21.1)
PROXY_CERT_INFO = (ObjectIdentifier("1.3.6.1.5.5.7.1.14"), bytes.fromhex("300c300a06082b06010505071501"))


class Pair(NamedTuple):
    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def name_of(dn: str) -> x509.Name:
    pairs = [part.split("=", 1) for part in dn.split("/")[1:]]
    return x509.Name([x509.NameAttribute(OIDS[key], value) for key, value in pairs])


CA_USAGE = x509.KeyUsage(digital_signature=False, content_commitment=False, key_encipherment=False,
                         data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                         encipher_only=False, decipher_only=False)


def issue(dn: str, issuer: Optional[Pair], *extensions: Tuple[x509.ExtensionType, bool]) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = (
        x509.CertificateBuilder().subject_name(name_of(dn)).issuer_name(issuer.cert.subject if issuer else name_of(dn))
        .public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1)))
    # without the key identifiers Python 3.13 refuses the chain (VERIFY_X509_STRICT)
    authority_key = (issuer.key if issuer else key).public_key()
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key), False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Pair(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def pem(path: Path, *pairs: Pair) -> Path:
    """Like a proxy file: the first certificate, its key, the other certificates."""
    pieces: List[bytes] = [pairs[0].cert.public_bytes(serialization.Encoding.PEM), pairs[0].key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())]
    path.write_bytes(b"".join(pieces + [pair.cert.public_bytes(serialization.Encoding.PEM) for pair in pairs[1:]]))
    return path


class World(NamedTuple):
    box: Sandbox
    directory: Path
    authority: Pair


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    authority = issue("/O=Test/CN=Test CA", None, (x509.BasicConstraints(True, None), True), (CA_USAGE, True))
    import ipaddress

    host = issue("/O=Test/CN=localhost", authority,
                 (x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False))
    certificate = pem(tmp_path / "host.pem", host)
    with Sandbox(auth="cert", tls=TLSFiles(certificate, certificate, pem(tmp_path / "ca.pem", authority))) as box:
        yield World(box, tmp_path, authority)


def attributes(world: World, credential: Optional[Path]) -> Any:
    context = ssl.create_default_context(cafile=str(world.directory / "ca.pem"))
    if credential:
        context.load_cert_chain(str(credential))
    connection = http.client.HTTPSConnection("127.0.0.1", world.box.https_port, context=context, timeout=30)
    try:
        connection.request("GET", "/api/v1/system/get_user_attributes",
                           headers={"Accept": "application/json", "X-Sandbox-DN": ROBOT})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def test_certificate_gives_the_identity(world: World) -> None:
    credential = pem(world.directory / "jane.pem", issue(JANE, world.authority))
    data = attributes(world, credential)["data"]
    assert (data["user_dn_raw"], data["is_production_user"]) == (JANE, False)
    credential = pem(world.directory / "robot.pem", issue(ROBOT, world.authority))
    assert attributes(world, credential)["data"]["is_production_user"] is True


def test_proxy_certificate_gives_its_owner(world: World) -> None:
    owner = issue(ROBOT, world.authority)
    info = x509.UnrecognizedExtension(*PROXY_CERT_INFO)
    proxy = issue(ROBOT + "/CN=123456", owner, (info, True))
    data = attributes(world, pem(world.directory / "proxy.pem", proxy, owner))["data"]
    assert (data["user_dn_raw"], data["user_dn_clean"]) == (ROBOT + "/CN=123456", "Robot Pilot")
    assert data["is_production_user"] is True


def test_the_header_does_not_stand_for_a_certificate_on_https(world: World) -> None:
    assert attributes(world, None)["message"] == "SSL secure connection is required"


def test_a_certificate_of_a_stranger_is_refused(world: World) -> None:
    other = issue("/O=Other/CN=Other CA", None, (x509.BasicConstraints(True, None), True), (CA_USAGE, True))
    stranger = issue(ROBOT, other)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        attributes(world, pem(world.directory / "stranger.pem", stranger))
