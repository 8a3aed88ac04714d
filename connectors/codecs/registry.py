"""Where the schemas of records are: an interface, and Confluent's HTTP registry behind it."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from streamfit.errors import ConfigurationError, DecodeError, SourceError

__all__ = ["HTTPSchemaRegistry", "SchemaRegistry"]

_MAX_BYTES = 1 << 24


@runtime_checkable
class SchemaRegistry(Protocol):
    """Knows schemas by number."""

    def schema(self, number: int) -> Any:
        """Return a schema.

        Raises
        ------
        DecodeError
            When there is none of this number.
        SourceError
            When the registry cannot be asked.
        """


class HTTPSchemaRegistry:
    """A registry that speaks Confluent's REST protocol.

    Parameters
    ----------
    url
        Its address, `http://host:8081`.
    user, password
        For basic authentication; they are in no description of the decoder.
    seconds
        How long an answer may take.
    """

    def __init__(
        self,
        url: str,
        user: str | None = None,
        password: str | None = None,
        seconds: float = 10.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError("registry must be the URL of one, such as http://host:8081")
        if parts.username is not None or parts.password is not None:
            raise ConfigurationError("give user and password as such, not in the registry's URL")
        self.url = url.rstrip("/")
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if user is not None:
            token = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._seconds = seconds

    def __repr__(self) -> str:
        return f"HTTPSchemaRegistry({self.url!r})"

    def schema(self, number: int) -> Any:
        """Ask for the schema of a number; see `SchemaRegistry`."""
        address = f"{self.url}/schemas/ids/{number}"
        request = urllib.request.Request(address, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=self._seconds) as answer:
                found = json.loads(answer.read(_MAX_BYTES))
            if found.get("schemaType", "AVRO") != "AVRO":
                raise DecodeError(f"it is of type {found['schemaType']}, not Avro")
            return json.loads(found["schema"])
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise DecodeError(f"{self.url} knows no such schema") from None
            raise SourceError(f"the schema registry answers {error.code} for {address}") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            if isinstance(error, DecodeError):
                raise
            raise SourceError(f"the schema registry cannot be asked: {address}: {error}") from error
