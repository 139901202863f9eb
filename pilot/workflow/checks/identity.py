"""Who the pilot is for the server and for storages: proxy, token, CA directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from pilot.common.exception import PilotException
from pilot.panda.credentials import token_expiry
from pilot.util.proxyfile import ProxyUnreadable, check_pair_and_chain, read_proxy
from pilot.workflow.checks.base import Finding, Scene, fail, ok, skip, span, warn

_SHORT = 3600.0
_NEW_PROXY = "make a new one (voms-proxy-init, arcproxy), and let X509_USER_PROXY or --cacert name its file"


def proxy(scene: Scene) -> Iterator[Finding]:
    """Present, readable, private, key and chain fit, life time and VOMS attributes as the experiment wants."""
    name, path = "proxy", scene.credentials.proxy()
    named = scene.options.cacert or scene.environ.get("X509_USER_PROXY", "")
    if not path:
        yield from _no_proxy(scene, named)
        return
    try:
        facts = read_proxy(path)
    except ProxyUnreadable as exc:
        yield fail(name, 1163, f"{path}: {exc}", _NEW_PROXY)
        return
    now = scene.now()
    left = facts.ends - now
    found = f"{path}, {span(left)} left" if left > 0 else f"{path} has ended {span(-left)} ago"
    if facts.voms_ends is not None:
        voms = facts.voms_ends - now
        found += f", {facts.attributes[0] if facts.attributes else 'VOMS attributes'} " + (
            f"{span(voms)} left" if voms > 0 else f"ended {span(-voms)} ago")
    else:
        found += ", no VOMS attributes"
    if left <= 0:
        yield fail(name, 1373, found, _NEW_PROXY)
        return
    if facts.begins > now:
        yield fail(name, 1163, f"{found}, valid in {span(facts.begins - now)} only",
                   "set this node's clock (see the row 'clock'), or make a new proxy")
        return
    trouble = check_pair_and_chain(path) if facts.has_key else "there is no private key in it"
    if trouble:
        yield fail(name, 1163, f"{path}: {trouble}", _NEW_PROXY)
        return
    yield from _judged(scene, path, found, left)


def _no_proxy(scene: Scene, named: str) -> Iterator[Finding]:
    where = f"{named} does not exist" if named else f"neither --cacert, X509_USER_PROXY nor /tmp/x509up_u{os.getuid()}"
    code = _verdict(scene, "")[0] if scene.options.verify_proxy and scene.experiment is not None else 0
    if code:
        yield fail("proxy", code, where, f"{_NEW_PROXY}; sites that work with tokens only: -t")
    elif scene.credentials.token():
        yield skip("proxy", f"{where}; there is a token")
    elif named:
        yield warn("proxy", where, _NEW_PROXY)
    else:
        yield skip("proxy", f"{where}: plain http or anonymous TLS only")


def _judged(scene: Scene, path: str, found: str, left: float) -> Iterator[Finding]:
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if scene.options.verify_proxy and scene.experiment is not None:
        code, text = _verdict(scene, path)
        if code:
            yield fail("proxy", code, f"{found}: {text}", f"{_NEW_PROXY}; -t switches this check off")
            return
    if mode & 0o077:
        yield warn("proxy", f"{found}; its mode is {mode:04o}: others on this node may take it", f"chmod 600 {path}")
    elif left < _SHORT:
        yield warn("proxy", found, _NEW_PROXY)
    else:
        yield ok("proxy", found)


def _verdict(scene: Scene, path: str) -> tuple[int, str]:
    assert scene.experiment is not None
    try:
        return scene.experiment.verify_proxy(path, at_start=True)
    except PilotException as exc:
        return exc.code, exc.detail


def token(scene: Scene) -> Iterator[Finding]:
    """Name and origin belong together; the file is there, private, and the token has not expired."""
    name, credentials = "token", scene.credentials
    wanted, origin = credentials.token_name(), credentials.origin()
    if not (wanted or origin):
        yield skip(name, "none configured (OIDC_AUTH_TOKEN, PANDA_AUTH_TOKEN)")
        return
    if not (wanted and origin):
        missing = "PANDA_AUTH_ORIGIN (or OIDC_AUTH_ORIGIN)" if wanted else "PANDA_AUTH_TOKEN (or OIDC_AUTH_TOKEN)"
        yield fail(name, 1163, f"{missing} is not set: the token is not used", f"set {missing}")
        return
    content = credentials.token()
    path = credentials.token_path()
    if not content:
        yield fail(name, 1163, "its file is empty, unreadable, or in none of its places",
                   "put it where OIDC_AUTH_DIR, X509_USER_PROXY's directory or PILOT_SOURCE_DIR point")
        return
    expiry = token_expiry(content)
    if expiry is None:
        yield warn(name, f"origin {origin}; it does not say when it ends", "is it a JSON web token?")
        return
    left = expiry - scene.now()
    found = f"origin {origin}, " + (f"{span(left)} left" if left > 0 else f"has ended {span(-left)} ago")
    cure = "let the submitter send a fresh one, or a key to renew it with (PANDA_AUTH_TOKEN_KEY)"
    if left <= 0:
        yield fail(name, 1163, found, cure)
    elif path and os.path.exists(path) and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        yield warn(name, f"{found}; its file can be read by others on this node", f"chmod 600 {path}")
    elif left < _SHORT:
        yield warn(name, found, cure)
    else:
        yield ok(name, found)


def authorities(scene: Scene) -> Iterator[Finding]:
    """Whom the pilot believes: the CA directory."""
    name, place = "CA directory", scene.credentials.ca_path()
    if not place:
        yield ok(name, "none: the certificates of the Python installation")
        return
    if not os.path.isdir(place):
        yield ok(name, f"file {place}") if os.access(place, os.R_OK) else warn(
            name, f"{place} cannot be read", "let X509_CERT_DIR or --capath name a readable directory")
        return
    try:
        hashed = sum(len(entry) == 10 and entry.endswith(".0") for entry in os.listdir(place))
    except OSError as exc:
        yield warn(name, f"{place}: {exc.strerror}", "let X509_CERT_DIR or --capath name a readable directory")
        return
    if not hashed:
        yield warn(name, f"{place} has no certificates with hashed names (01234567.0)",
                   "install the CA packages (ca-policy-egi-core), or openssl rehash the directory")
    else:
        yield ok(name, f"{place}, {hashed} CAs")
