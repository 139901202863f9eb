"""Proxies, tokens, key pairs: in memory only, never on disk. Refusals are the recorded ones (server-api.md 8.6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Tuple


class CredentialError(Exception):
    """A refusal: legacy StatusCode, text of the legacy API, text of v1."""

    def __init__(self, code: int, legacy: str, v1: str) -> None:
        super().__init__(v1)
        self.code, self.legacy, self.v1 = code, legacy, v1


@dataclass
class Credentials:
    """What the server may give out.

    flags: letters by user name: p (proxies, access tokens), k (key pairs), t (token keys).
    proxies: by role ("" for any).  key_pairs: (public, private) by their names.  access_tokens, token_keys: by client.
    """

    flags: Dict[str, str] = field(default_factory=dict)
    proxies: Dict[str, str] = field(default_factory=dict)
    key_pairs: Dict[Tuple[str, str], Tuple[str, str]] = field(default_factory=dict)
    access_tokens: Dict[str, str] = field(default_factory=dict)
    token_keys: Dict[str, str] = field(default_factory=dict)

    def _allowed(self, user: str, flag: str) -> bool:
        return flag in self.flags.get(user, "")

    def proxy(self, user: str, role: str) -> str:
        """A user proxy (PEM)."""
        if not self._allowed(user, "p"):
            raise CredentialError(
                70, f"failed since '{user}' not in the authorized user list who have 'p' in "
                "DOMA_PANDAMETA.USERS.GRIDPREF to get proxy",
                f"failed: '{user}' not in authorized users with 'p' in DOMA_PANDAMETA.USERS.GRIDPREF to get proxy")
        found = self.proxies.get(role) or self.proxies.get("")
        if not found:
            raise CredentialError(90, "proxy not found", "failed: proxy not found")
        return found

    def access_token(self, user: str, client: str, token_key: str) -> str:
        """A new access token for a client that shows its token key (when one is set for it)."""
        if not self._allowed(user, "p"):
            raise CredentialError(
                70, f"failed since '{user}' not in the authorized user list who have 'p' in "
                "DOMA_PANDAMETA.USERS.GRIDPREF to get access token",
                f"failed: '{user}' not in authorized users with 'p' in DOMA_PANDAMETA.USERS.GRIDPREF to get access "
                "token")
        if client in self.token_keys and self.token_keys[client] != token_key:
            raise CredentialError(50, "failed since token key is invalid", "failed: token key is invalid")
        if client not in self.access_tokens:
            raise CredentialError(90, "failed to get access token", "failed: failed to get access token")
        return self.access_tokens[client]

    def token_key(self, user: str, client: str) -> str:
        """The token key of a client."""
        denied = f"Denied since '{user}' not authorized with 't' in DOMA_PANDAMETA.USERS.GRIDPREF"
        if not self._allowed(user, "t"):
            raise CredentialError(70, denied, denied)
        if client not in self.token_keys:
            raise CredentialError(80, "token key not found", "token key not found")
        return self.token_keys[client]

    def key_pair(self, user: str, public: str, private: str) -> Tuple[str, str]:
        """A key pair of an object store."""
        if not self._allowed(user, "k"):
            raise CredentialError(70, f"failed since '{user}' not authorized with 'k' in DOMA_PANDAMETA.USERS.GRIDPREF",
                                  f"Failed since '{user}' not authorized with 'k' in DOMA_PANDAMETA.USERS.GRIDPREF")
        if (public, private) not in self.key_pairs:
            raise CredentialError(80, f"failed for {public}/{private}: key is missing", "Failed: key is missing")
        return self.key_pairs[public, private]
