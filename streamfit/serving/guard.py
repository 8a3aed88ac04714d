"""Who may ask: the name of the host, the token, and what a browser may do with an answer."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from streamfit.serving.address import Address

__all__ = ["SECURITY_HEADERS", "Guard"]

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Lets requests in.

    With a token: programs send it as `Authorization: Bearer TOKEN`; a browser opens
    `/?token=TOKEN` once and has a cookie from then on, which says that it knew the token and
    not what it is. Without one: only requests that name this machine as their host, so that
    no page of another site can ask through a name that it made point here.

    Parameters
    ----------
    address
        Where the server listens.
    token
        The secret, or None.
    """

    def __init__(self, address: Address, token: str | None) -> None:
        self._token = None if token is None else token.encode()
        self._hosts = {address.host, "localhost", "127.0.0.1", "::1"}
        self.cookie_name = f"streamfit_{address.port}"  # cookies do not know of ports

    @property
    def cookie(self) -> str:
        """What a browser that knew the token brings along."""
        return hmac.new(self._token or b"", b"streamfit page", hashlib.sha256).hexdigest()

    def knows_host(self, host: str) -> bool:
        """Say whether a request that names `host` is meant for this server."""
        name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
        return self._token is not None or name.strip("[]").lower() in self._hosts

    def is_token(self, given: str) -> bool:
        """Compare with the token, in a time that says nothing about it."""
        return self._token is not None and hmac.compare_digest(given.encode(), self._token)

    def lets_in(self, headers: Mapping[str, str], cookies: Mapping[str, str], method: str) -> bool:
        """Say whether a request may be answered; a cookie is good for looking only."""
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        cookie = cookies.get(self.cookie_name, "")
        return method in ("GET", "HEAD") and hmac.compare_digest(
            cookie.encode(), self.cookie.encode()
        )
