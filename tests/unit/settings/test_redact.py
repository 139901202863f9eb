"""Secrets are masked in whatever form they reach a log line; ordinary text stays as it is."""

from __future__ import annotations

import json
import logging
from urllib.parse import quote, urlencode

import pytest

from pilot.util import redact as module
from pilot.util.redact import MASK, RedactingFilter, redact, register_secret

S = "5ecr3tV4lue/+x=="
W = "5ecr3tV4lue"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwaWxvdCJ9.c2lnbmF0dXJl"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\nMIIE{S}\n{S}\n-----END RSA PRIVATE KEY-----"


@pytest.fixture(autouse=True)
def no_registered_secrets(monkeypatch):
    monkeypatch.setattr(module, "_registered", {})
    monkeypatch.setattr(module, "_registered_pattern", None)


SECRET_TEXTS = [
    f"Authorization: Bearer {S}",
    f"authorization: bearer {W}",
    f"{{'Authorization': 'Bearer {S}', 'Origin': 'panda_dev.pilot'}}",
    f"Cookie: session={W}; other={W}",
    f"Bearer {W}",
    f"GET /server/panda/get_access_token?client_name=pilot_server&token_key={W}",
    f"get_access_token?token_key={quote(S, safe='')}&client_name=pilot_server",
    json.dumps({"userProxy": f"line {S}", "StatusCode": 0}),
    json.dumps({"pilotSecrets": json.dumps({"A": S, "B": [S]}), "PandaID": 1}),
    json.dumps({"data": json.dumps({"pilotSecrets": json.dumps({"A": S})})}),
    json.dumps({"pilotSecrets": {"A": S, "B": {"C": [S, "]"]}}, "PandaID": 1}),
    json.dumps({"secrets": {"brace }": S}, "after": 1}),
    str({"secrets": {"it's": S}, "jobId": 1}),
    str({"pandaSecrets": [S, {"x": S}]}),
    str({"S3_SECRET_KEY": S, "S3_IS_SECURE": "False"}),
    str({b"token": S.encode()}),
    f"export S3_SECRET_KEY={S}; export S3_IS_SECURE=False",
    f"S3_SECRET_KEY='{S} with blank' next",
    f"AWS_SECRET_ACCESS_KEY={S}",
    f"aws_session_token = x AWS_SESSION_TOKEN={S}",
    urlencode({"StatusCode": 0, "secrets": json.dumps({"A": W}), "jobId": 5}),
    f"https://s3.example.org/b/o?X-Amz-Algorithm=A&X-Amz-Signature={W}&X-Amz-Expires=3600",
    f"https://s3.example.org/b/o?AWSAccessKeyId={W}&Signature={quote(S, safe='')}&Expires=1",
    f"https://blob.example.org/o?sv=1&sig={quote(S, safe='')}&se=2",
    f"https://storage.googleapis.com/o?X-Goog-Signature={W}&X-Goog-Credential={W}",
    f"root://host//f?authz=Bearer%20{W}&x=1",
    f"X-Amz-Security-Token: {W}",
    f"apptainer remote login -u user -p {W} docker://reg.example.org",
    f"singularity remote login --username u -p{W} docker://reg",
    f"apptainer registry login --username u --password '{W} x' docker://reg",
    f"tool --password={W} go",
    f"https://user:{W}@host.example.org/path",
    f"token={W}",
    f"Namespace(token='{W}', queue='Q')",
    f"token_key: {W}",
    f"use {JWT} here",
    f"access_token={JWT}",
    PEM,
    json.dumps({"cert": PEM}),
    f"-----BEGIN CERTIFICATE-----\n{S} cut off",
    f"password: {W}",
    f'{{"privateKey": "{S}", "publicKey": "{S}"}}',
]


@pytest.mark.parametrize("text", SECRET_TEXTS)
def test_secret_is_masked(text):
    masked = redact(text)
    assert W not in masked and JWT not in masked
    assert MASK in masked
    assert redact(masked) == masked, "masking twice changes nothing"


@pytest.mark.parametrize(("text", "expected"), [
    (json.dumps({"pilotSecrets": {"A": S}, "PandaID": 1}), '{"pilotSecrets": ********, "PandaID": 1}'),
    (f"?token_key={W}&client_name=p", "?token_key=********&client_name=p"),
    (f"export S3_SECRET_KEY={W}; export A=False", "export S3_SECRET_KEY=********; export A=False"),
    (f"https://u:{W}@h/p", "https://u:********@h/p"),
    (f"apptainer remote login -p {W} docker://r", "apptainer remote login -p ******** docker://r"),
    (f"Authorization: Bearer {W}, next", "Authorization: Bearer ********, next"),
    (json.dumps({"token": 'a"b' + W, "x": 1}), '{"token": "********", "x": 1}'),
])
def test_what_is_around_a_secret_stays(text, expected):
    assert redact(text) == expected


@pytest.mark.parametrize("text", [
    "",
    "job 123 has finished (exit code=0)",
    "PANDA_AUTH_TOKEN=/scratch/token.file PANDA_AUTH_TOKEN_KEY=/scratch/key",
    "X509_USER_PROXY=/tmp/x509up_u1000",
    "the token has expired: renew it",
    "token file: /scratch/panda_token, origin panda_dev.pilot",
    "job has no secrets",
    '{"secrets": null, "pilotSecrets": None, "token": false}',
    "could not verify the proxy: userproxy missing",
    "slot1@node.example.org uses mail a@b.org",
    "signature of function f(sigma=3, design=4, tokens=5)",
    "privateKeyName=atlas.key&publicKeyName=atlas.pub",
    "GOOGLE_APPLICATION_CREDENTIALS=/etc/key.json",
    "root://user@host:1094//path?x=1",
    "the bearer was here",
])
def test_ordinary_text_is_untouched(text):
    assert redact(text) is text or redact(text) == text


def test_registered_value_is_masked_in_every_form():
    register_secret("odd value/&\"\n$%")
    for form in ("odd value/&\"\n$%", quote("odd value/&\"\n$%"), quote("odd value/&\"\n$%", safe=""),
                 json.dumps("odd value/&\"\n$%")):
        assert "odd" not in redact(f"x {form} y")
    assert redact("odd values stay") == "odd values stay"


def test_registered_longer_value_wins_and_lines_are_masked_too():
    register_secret("abcdefgh")
    register_secret("abcdefghijkl")
    assert redact("<abcdefghijkl>") == f"<{MASK}>"
    line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC"
    register_secret(f"first line of a private thing\n{line}\nend")
    assert redact(f"line: {line}") == f"line: {MASK}"


def test_short_or_empty_value_is_not_registered():
    register_secret("")
    register_secret("yes")
    assert redact("yes, it is") == "yes, it is"


def test_filter_masks_arguments_and_exception_text():
    register_secret("a-very-odd-value")
    try:
        raise RuntimeError(f"token={W}")
    except RuntimeError as exc:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "%s %s", ("a-very-odd-value", f"secret={W}"),
                                   (type(exc), exc, exc.__traceback__))
    assert RedactingFilter().filter(record)
    text = logging.Formatter().format(record)
    assert W not in text and "a-very-odd-value" not in text and "RuntimeError" in text


@pytest.mark.parametrize("text", [
    "_" * 50_000 + "token=", "-eyJ" * 20_000, "a.b-" * 20_000 + "password", '"token": {' * 5_000,
    "\\" * 50_000 + '"secret"',
    "remote login " * 2_000, "-----BEGIN A-----" * 5_000, "secret='" * 5_000,
])
def test_hostile_text_does_not_take_long(text):
    redact(text)  # pytest-timeout is the limit: quadratic behaviour takes minutes


def test_filter_survives_arguments_that_do_not_fit():
    record = logging.LogRecord("n", logging.INFO, "f", 1, "%d", (f"token={W}",), None)
    assert RedactingFilter().filter(record)
    assert W not in record.getMessage()
