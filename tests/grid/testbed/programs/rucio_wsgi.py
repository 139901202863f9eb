"""The Rucio server behind gunicorn: hands the client certificate's DN on, as mod_ssl does in production."""

from __future__ import annotations

import re

from rucio.web.rest.flaskapi.v1.main import application as rucio_application

_SHORT = {"domainComponent": "DC", "organizationName": "O", "organizationalUnitName": "OU", "commonName": "CN"}
_PROXY_PARTS = re.compile(r"(/CN=\d+|/CN=(limited )?proxy)+$")


def application(environ, start_response):
    """WSGI entry point."""
    connection = environ.get("gunicorn.socket")
    certificate = connection.getpeercert() if hasattr(connection, "getpeercert") else None
    if certificate:
        name = "".join(f"/{_SHORT.get(key, key)}={value}" for part in certificate["subject"] for key, value in part)
        environ["SSL_CLIENT_VERIFY"] = "SUCCESS"
        environ["SSL_CLIENT_S_DN"] = _PROXY_PARTS.sub("", name)
    return rucio_application(environ, start_response)
