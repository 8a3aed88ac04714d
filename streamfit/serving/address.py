"""`host:port`: where to listen, and who could reach it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from streamfit.errors import ConfigurationError, shown

__all__ = ["Address"]


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port.

    Examples
    --------
    >>> from streamfit.serving.address import Address
    >>> Address.parse("127.0.0.1:8765")
    Address(host='127.0.0.1', port=8765)
    >>> Address.parse("[::1]:8765").is_local, Address.parse("0.0.0.0:8765").is_local
    (True, False)
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: object) -> Address:
        """Take a text apart.

        Raises
        ------
        ConfigurationError
            When it is not of the form.
        """
        host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
        host = host.removeprefix("[").removesuffix("]")
        if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise ConfigurationError(
                f"an address is 'host:port', such as '127.0.0.1:8765', not {shown(text)}"
            )
        return cls(host, int(port))

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name may lead anywhere
            return self.host == "localhost"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
