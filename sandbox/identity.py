"""Who is asking: certificate, header or token, and which role that gives (server-api.md 3)."""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any, Dict, Literal, Mapping, Optional, Tuple

AuthMode = Literal["none", "cert", "recorded", "token"]

ROBOT_DN = "/DC=example/O=Test/OU=Users/CN=Robot Pilot"
DN_HEADER = "X-Sandbox-DN"
FQAN_HEADER = "X-Sandbox-FQAN"

_SHORT = {"commonName": "CN", "domainComponent": "DC", "organizationName": "O", "organizationalUnitName": "OU",
          "countryName": "C", "stateOrProvinceName": "ST", "localityName": "L", "emailAddress": "emailAddress"}


class TokenError(Exception):
    """The token is refused: HTTP 403."""


@dataclass(frozen=True)
class Identity:
    """dn: raw subject, empty for nobody. production: role for v1; pilot: role for the legacy calls."""

    dn: str = ""
    fqans: Tuple[str, ...] = ()
    production: bool = False
    pilot: bool = False

    @property
    def bare(self) -> str:
        """The DN without proxy parts."""
        return bare_dn(self.dn)

    @property
    def name(self) -> str:
        """The name without DN decoration."""
        return clean_dn(self.dn)

    @property
    def secure(self) -> bool:
        """v1 wants a DN, and refuses limited proxies."""
        return bool(self.dn) and "/CN=limited proxy" not in self.dn


def bare_dn(dn: str) -> str:
    """The DN of the owner of a proxy: /CN=proxy, /CN=limited proxy and RFC 3820 serial numbers removed."""
    return re.sub(r"(/CN=(limited proxy|proxy|\d+))+$", "", dn)


def clean_dn(dn: str) -> str:
    """The name inside a DN: its last common name that is not part of a proxy or a number."""
    names = [part for part in re.findall(r"/CN=([^/]+)", bare_dn(dn)) if not part.isdigit()]
    return names[-1] if names else dn


def dn_of_peer(peercert: Optional[Mapping[str, Any]]) -> str:
    """Subject of ``SSLSocket.getpeercert()`` in the form /DC=../CN=.."""
    if not peercert:
        return ""
    parts = [pair for rdn in peercert.get("subject", ()) for pair in rdn]
    return "".join(f"/{_SHORT.get(key, key)}={value}" for key, value in parts)


@dataclass
class Authenticator:
    """Turns a request into an Identity.

    mode: none (everybody is the robot with the production role), cert (TLS certificate; on plain http the header
    X-Sandbox-DN stands for it, so that tests need no TLS), recorded (the same as cert), token (bearer token).
    production_dns: substrings of DNs with the production role.  fqans: VOMS attributes by bare DN.
    tokens: accepted tokens and the name in them; empty: every token is accepted.  Never written anywhere.
    """

    mode: AuthMode = "none"
    production_dns: Tuple[str, ...] = ("CN=Robot Pilot", "Robot Pilot")
    fqans: Dict[str, Tuple[str, ...]] = field(default_factory=dict)
    tokens: Dict[str, str] = field(default_factory=dict)
    banned: Dict[str, bool] = field(default_factory=dict)

    def identify(self, headers: Mapping[str, str], peercert: Optional[Mapping[str, Any]], tls: bool) -> Identity:
        """The identity behind a request; TokenError when a token is refused."""
        if self.mode == "none":
            return Identity(ROBOT_DN, (), True, True)
        dn, fqans = dn_of_peer(peercert), ()  # type: str, Tuple[str, ...]
        if not dn and not tls:
            dn = headers.get(DN_HEADER, "")
            fqans = tuple(part for part in headers.get(FQAN_HEADER, "").split(",") if part)
        authorization = headers.get("Authorization", "")
        if authorization.startswith("Bearer ") and (self.mode == "token" or self.tokens):
            name, fqan = self._token(authorization[len("Bearer "):].strip(), headers.get("Origin", ""))
            if not dn:  # the identity of a certificate wins
                dn, fqans = name, (fqan,)
        return self._with_roles(dn, fqans + self.fqans.get(bare_dn(dn), ()))

    def _with_roles(self, dn: str, fqans: Tuple[str, ...]) -> Identity:
        listed = bool(dn) and any(part in dn for part in self.production_dns)
        production = listed or any(_is_production(fqan) for fqan in fqans)
        pilot = production or any(_is_pilot(fqan) for fqan in fqans)
        return Identity(dn, fqans, production, pilot)

    def _token(self, token: str, origin: str) -> Tuple[str, str]:
        if not origin:
            raise TokenError("Origin is missing in the HTTP header")
        if not token:
            raise TokenError("token is empty")
        vo, _, role = origin.replace(":", ".").partition(".")
        claims = _claims(token)
        if self.tokens and token not in self.tokens:
            raise TokenError("unknown token")
        if claims and float(claims.get("exp", 1e12)) < time.time():
            raise TokenError("Signature has expired")
        groups = claims.get("wlcg.groups") or claims.get("groups")
        if groups is not None and not {f"{vo}/{role}", f"/{vo}/{role}"} & set(groups):
            raise TokenError(f"User not in {vo}/{role}")
        name = self.tokens.get(token) or str(claims.get("name") or "Robot Pilot")
        return name, f"/{vo}/Role={role}"


def _is_production(fqan: str) -> bool:
    return fqan.startswith(("/atlas/usatlas/Role=production", "/atlas/Role=production")) or bool(
        re.match(r"^/[^/]+/Role=production", fqan))


def _is_pilot(fqan: str) -> bool:
    return fqan.startswith(("/atlas/", "/osg/", "/cms/", "/ams/", "/Engage/LBNE/"))


def _claims(token: str) -> Dict[str, Any]:
    """The claims of a JWT, unverified; empty for any other token."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        data = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
