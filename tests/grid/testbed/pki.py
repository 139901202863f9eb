"""Certificates: an authority, a host, a user, and RFC 3820 proxies of the user, with and without VOMS attributes."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Dict, Optional, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID, ObjectIdentifier

from tests.grid.testbed.service import Service, needs

CA_DN = "/DC=test/O=testbed/CN=Testbed CA"
HOST_DN = "/DC=test/O=testbed/CN=localhost"
USER_DN = "/DC=test/O=testbed/CN=pilot"
VO = "atlas"
FQANS = ("/atlas/Role=pilot/Capability=NULL", "/atlas/Role=NULL/Capability=NULL")
_USAGE = {
    "host": "keyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n"
            "subjectAltName=DNS:localhost,IP:127.0.0.1\n",
    "user": "keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth\n",
}
# Python 3.13 verifies strictly: without the key identifiers it refuses the certificates.
_COMMON = "basicConstraints=CA:FALSE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
_PROXY_INFO = (ObjectIdentifier("1.3.6.1.5.5.7.1.14"), bytes.fromhex("300c300a06082b06010505071501"))
"""RFC 3820: the proxy may do all that its owner may."""
_POLICY = f"""access_id_CA   X509    '{CA_DN}'
pos_rights     globus  CA:sign
cond_subjects  globus  '"/DC=test/O=testbed/*"'
"""


class Pki(Service):
    """Files only; no process runs."""

    name = "pki"
    user_dn = USER_DN
    vo = VO

    def __init__(self, directory: Path, bound: bool = True) -> None:
        super().__init__(directory, bound)
        self.ca = directory / "ca.pem"
        self.certificates = directory / "certificates"
        self.vomsdir = directory / "vomsdir"
        self.host_cert, self.host_key = directory / "host.pem", directory / "host.key"
        self.user_cert, self.user_key = directory / "user.pem", directory / "user.key"
        self.plain_proxy = directory / "proxy_plain.pem"
        self.proxy = directory / "proxy_atlas.pem"

    @property
    def env(self) -> Dict[str, str]:
        """For clients of GSI and HTTPS; the servers are called ``localhost``, as their certificate."""
        return {"X509_CERT_DIR": str(self.certificates), "X509_VOMS_DIR": str(self.vomsdir),
                "X509_USER_PROXY": str(self.proxy), "XrdSecGSISRVNAMES": "localhost"}

    def describe(self) -> Dict[str, str]:
        """Where the files are."""
        return {"authority": str(self.ca), "user certificate": str(self.user_cert),
                "proxy with VOMS attributes": str(self.proxy), "proxy without": str(self.plain_proxy)}

    def _start(self) -> None:
        for program in ("openssl", "voms-proxy-init", "voms-proxy-fake"):
            needs(program)
        self.certificates.mkdir(exist_ok=True)
        (self.vomsdir / VO).mkdir(parents=True, exist_ok=True)
        self._authority()
        self._certificate("host", HOST_DN)
        self._certificate("user", USER_DN)
        (self.vomsdir / VO / "localhost.lsc").write_text(f"{HOST_DN}\n{CA_DN}\n", encoding="ascii")
        self.plain(self.plain_proxy)
        self.voms(self.proxy)

    def plain(self, path: Path, valid: str = "12:00") -> Path:
        """Make a proxy without VOMS attributes; ``valid`` is H:M."""
        self.run(["voms-proxy-init", "-cert", str(self.user_cert), "-key", str(self.user_key), "-out", str(path),
                  "-valid", valid, "-bits", "2048", "-rfc"], self.env)
        path.chmod(0o600)
        return path

    def expired(self, path: Path) -> Path:
        """Make a proxy that ended an hour ago."""
        now = datetime.now(timezone.utc)
        user = x509.load_pem_x509_certificate(self.user_cert.read_bytes())
        signer = serialization.load_pem_private_key(self.user_key.read_bytes(), None)
        key = rsa.generate_private_key(65537, 2048)
        names = [*user.subject.rdns, x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, "4711")])]
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = x509.CertificateBuilder().subject_name(x509.Name(names)).issuer_name(user.subject)
        builder = builder.public_key(key.public_key()).serial_number(4711)
        builder = builder.not_valid_before(now - timedelta(hours=13)).not_valid_after(now - timedelta(hours=1))
        builder = builder.add_extension(x509.UnrecognizedExtension(*_PROXY_INFO), True).add_extension(usage, True)
        proxy = builder.sign(signer, hashes.SHA256())  # type: ignore[arg-type]
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        secret = key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain)
        path.write_bytes(proxy.public_bytes(pem) + secret + user.public_bytes(pem))
        path.chmod(0o600)
        return path

    def voms(self, path: Path, hours: int = 12, vo: str = VO, fqans: Optional[Sequence[str]] = None) -> Path:
        """Make a proxy with VOMS attributes, signed with the host's key instead of by a VOMS server."""
        attributes = [word for fqan in (fqans or FQANS) for word in ("-fqan", fqan)]
        self.run(["voms-proxy-fake", "-cert", str(self.user_cert), "-key", str(self.user_key),
                  "-certdir", str(self.certificates), "-hostcert", str(self.host_cert), "-hostkey", str(self.host_key),
                  "-voms", vo, *attributes, "-uri", "localhost:15000", "-newformat", "-rfc", "-hours", str(hours),
                  "-bits", "2048", "-out", str(path)], self.env)
        path.chmod(0o600)
        return path

    def _authority(self) -> None:
        key = self.directory / "ca.key"
        self.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "30",
                  "-keyout", str(key), "-out", str(self.ca), "-subj", CA_DN,
                  "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"])
        key.chmod(0o600)
        digest = self.run(["openssl", "x509", "-hash", "-noout", "-in", str(self.ca)]).strip()
        link = self.certificates / f"{digest}.0"
        if not link.is_symlink():
            link.symlink_to("../ca.pem")
        (self.certificates / f"{digest}.signing_policy").write_text(_POLICY, encoding="ascii")

    def _certificate(self, name: str, subject: str) -> None:
        key, request, extensions = (self.directory / f"{name}.{end}" for end in ("key", "csr", "ext"))
        extensions.write_text(_COMMON + _USAGE[name], encoding="ascii")
        self.run(["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-sha256", "-keyout", str(key),
                  "-out", str(request), "-subj", subject])
        key.chmod(0o600)
        self.run(["openssl", "x509", "-req", "-in", str(request), "-CA", str(self.ca),
                  "-CAkey", str(self.directory / "ca.key"), "-CAcreateserial", "-days", "20",
                  "-sha256", "-out", str(self.directory / f"{name}.pem"), "-extfile", str(extensions)])
