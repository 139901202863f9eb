"""Credentials: what is found where, what is sent where, and files that nobody else can read."""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import pytest

from pilot.common.exception import FileHandlingFailure
from pilot.panda.credentials import Credentials, store_user_proxy, token_claims, write_secret


def jwt(**claims: Any) -> str:
    body = urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJub25lIn0.{body}.sig"


@pytest.fixture
def places(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("auth", "source", "work", "home")}
    for path in found.values():
        path.mkdir()
    return found


def environ(places: dict[str, Path], **more: str) -> dict[str, str]:
    return {
        "PANDA_AUTH_TOKEN": "token",
        "PANDA_AUTH_ORIGIN": "panda_dev.pilot",
        "PANDA_AUTH_DIR": str(places["auth"] / "x"),
        "PILOT_SOURCE_DIR": str(places["source"]),
        "PILOT_WORK_DIR": str(places["work"]),
        "HOME": str(places["home"]),
        **more,
    }


def test_proxy_option_then_environment_and_a_change_is_seen(tmp_path: Path) -> None:
    option, variable = tmp_path / "option", tmp_path / "variable"
    variable.write_text("v")
    env = {"X509_USER_PROXY": str(variable)}
    credentials = Credentials(cacert=str(option), environ=env)
    assert credentials.proxy() == str(variable)
    before = credentials.fingerprint()
    option.write_text("o")
    assert credentials.proxy() == str(option) and credentials.fingerprint() != before
    before = credentials.fingerprint()
    os.replace(variable, option)
    assert credentials.fingerprint() != before
    env["X509_USER_PROXY"] = str(tmp_path)
    option.unlink()
    assert credentials.proxy() != str(tmp_path)


def test_ca_directory_or_file_in_order(tmp_path: Path) -> None:
    directory, other = tmp_path / "cas", tmp_path / "other"
    other.mkdir()
    credentials = Credentials(capath=str(directory), environ={"X509_CERT_DIR": str(other)})
    assert credentials.ca_path() == str(other)
    directory.mkdir()
    assert credentials.ca_path() == str(directory)
    bundle = tmp_path / "ca.pem"
    bundle.write_text("x")
    assert Credentials(capath=str(bundle), environ={}).ca_path() == str(bundle)


def test_the_token_is_searched_in_order_and_read_anew(places: dict[str, Path]) -> None:
    credentials = Credentials(environ=environ(places))
    for number, place in enumerate(reversed(list(places.values()))):
        (place / "token").write_text(f"tok-{number}-abcdef\n")
        assert credentials.token() == f"tok-{number}-abcdef"
    assert credentials.headers("https://h") == {"Authorization": "Bearer tok-3-abcdef", "Origin": "panda_dev.pilot"}
    assert credentials.client_certificate() == ""


def test_oidc_names_have_priority(places: dict[str, Path]) -> None:
    (places["home"] / "other").write_text("oidc-token")
    credentials = Credentials(environ=environ(places, OIDC_AUTH_TOKEN="other", OIDC_AUTH_ORIGIN="atlas.pilot"))
    assert credentials.headers("https://h") == {"Authorization": "Bearer oidc-token", "Origin": "atlas.pilot"}


@pytest.mark.parametrize("missing", ["PANDA_AUTH_ORIGIN", "PANDA_AUTH_TOKEN"])
def test_token_and_origin_or_neither(missing: str, places: dict[str, Path]) -> None:
    (places["home"] / "token").write_text("tok-abcdef")
    env = environ(places)
    del env[missing]
    assert Credentials(environ=env).headers("https://h") == {}


def test_a_lost_token_file_is_said_once_and_the_proxy_is_used(
    places: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    proxy = places["home"] / "proxy"
    proxy.write_text("p")
    credentials = Credentials(cacert=str(proxy), environ=environ(places))
    assert credentials.client_certificate() == str(proxy) and credentials.client_certificate() == str(proxy)
    assert caplog.text.count("was not found") == 1


def test_a_token_is_not_sent_in_the_clear_to_other_machines(places: dict[str, Path]) -> None:
    (places["home"] / "token").write_text("tok-abcdef")
    credentials = Credentials(environ=environ(places))
    assert credentials.headers("http://panda.example:25080/x") == {}
    assert "Authorization" in credentials.headers("http://127.0.0.1:25080/x")


class Issuer:
    """A server that gives out one token."""

    def __init__(self, token: str) -> None:
        self.token, self.asked = token, ("", "")

    def get_access_token(self, client_name: str, token_key: str) -> str:
        self.asked = (client_name, token_key)
        return self.token


def test_a_renewed_token_is_kept_private_preferred_and_left_when_it_expires(
    places: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    primary, renewed = jwt(exp=time.time() + 50, iat=time.time() - 1000), jwt(exp=time.time() + 3600, iat=time.time())
    (places["home"] / "token").write_text(primary)
    (places["work"] / "key").write_text("the-token-key\n")
    env = environ(places, PANDA_AUTH_TOKEN_KEY="key")
    credentials, issuer = Credentials(environ=env), Issuer(renewed)
    assert credentials.renewal_due()
    with caplog.at_level(logging.DEBUG):
        assert credentials.renew_token(issuer, places["work"])
    assert issuer.asked == ("pilot_server", "the-token-key")
    path = Path(env["OIDC_REFRESHED_AUTH_TOKEN"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.parent == places["work"]
    assert credentials.token() == renewed and not credentials.renewal_due()
    assert renewed not in caplog.text and "the-token-key" not in caplog.text
    assert (places["home"] / "token").read_text() == primary
    path.write_text(jwt(exp=time.time() - 1))
    assert credentials.token() == primary


def test_without_a_key_there_is_nothing_to_renew(places: dict[str, Path]) -> None:
    (places["home"] / "token").write_text("tok-abcdef")
    assert Credentials(environ=environ(places)).renew_token(Issuer("x"), places["work"]) is False
    assert Credentials(environ={}).renewal_due() is False


@pytest.mark.parametrize(("left", "due"), [(3000, False), (1000, True)])
def test_renewal_is_due_in_the_last_third_of_life(left: float, due: bool, places: dict[str, Path]) -> None:
    now = 1_800_000_000.0
    (places["home"] / "token").write_text(jwt(iat=now + left - 3600, exp=now + left))
    assert Credentials(environ=environ(places)).renewal_due(now) is due


@pytest.mark.parametrize("token", ["", "abc", "a.b.c", "a.%%%.c", "x" * 5000])
def test_claims_of_something_else_are_empty(token: str) -> None:
    assert token_claims(token) == {}


def test_a_secret_file_is_private_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "proxy"
    path.write_text("old")
    path.chmod(0o644)
    old = path.open()
    write_secret(path, "new")
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert old.read() == "old"
    old.close()
    assert os.listdir(tmp_path) == ["proxy"]


def test_a_user_proxy_goes_home_when_its_directory_cannot_be_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert store_user_proxy("pem", tmp_path / "missing" / "x509up", home) == home / "x509up"
    with pytest.raises(FileHandlingFailure):
        store_user_proxy("pem", tmp_path / "missing" / "x", tmp_path / "missing")
