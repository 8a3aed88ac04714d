"""How to prove who we are to a broker, and how it proves who it is."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from streamfit.errors import ConfigurationError

__all__ = ["Security"]

Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


@dataclass(frozen=True, slots=True)
class Security:
    """TLS and SASL for `KafkaSource`.

    It holds no secret, only where the secret is: so it may be printed, logged and written into a
    checkpoint. The password is read whenever a connection is opened; a new one needs no restart.

    Parameters
    ----------
    mechanism
        `"PLAIN"`, `"SCRAM-SHA-256"` or `"SCRAM-SHA-512"`; None: no name and password.
    username
        Name to log in with.
    password_env, password_file
        One of them: the environment variable, or the file, that holds the password. A line break
        at the end of the file does not count.
    tls
        Encrypt, and verify the broker's certificate and that it is of the host connected to.
        There is no way to encrypt without verifying.
    ca_file
        Certificates to trust, as PEM; by default those that the system trusts.

    Raises
    ------
    ConfigurationError
        When these do not fit together, or the password or the file is not there.

    Examples
    --------
    >>> import os
    >>> from connectors.kafka import Security
    >>> os.environ["KAFKA_PASSWORD"] = "quite secret"
    >>> Security("SCRAM-SHA-512", "trainer", password_env="KAFKA_PASSWORD").protocol
    'SASL_SSL'
    >>> Security("PLAIN", "trainer")
    Traceback (most recent call last):
        ...
    streamfit.errors.ConfigurationError: security: PLAIN needs password_env or password_file
    """

    mechanism: Mechanism | None = None
    username: str | None = None
    password_env: str | None = None
    password_file: str | os.PathLike[str] | None = None
    tls: bool = True
    ca_file: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        secrets = [name for name in ("password_env", "password_file") if getattr(self, name)]
        if type(self.tls) is not bool:
            raise ConfigurationError(f"security: tls must be True or False, not {self.tls!r}")
        if self.mechanism is None:
            if self.username is not None or secrets:
                raise ConfigurationError("security: a name or password needs a mechanism")
            if not self.tls:
                raise ConfigurationError(
                    "security: neither a mechanism nor tls; pass security=None for no security"
                )
        elif self.mechanism not in get_args(Mechanism):
            mechanisms = ", ".join(get_args(Mechanism))
            raise ConfigurationError(
                f"security: mechanism must be one of {mechanisms}, not {self.mechanism!r}"
            )
        else:
            if not isinstance(self.username, str) or not self.username:
                raise ConfigurationError(f"security: {self.mechanism} needs a username")
            if not secrets:
                raise ConfigurationError(
                    f"security: {self.mechanism} needs password_env or password_file"
                )
            if len(secrets) > 1:
                raise ConfigurationError("security: password_env or password_file, not both")
            self.password()
        if self.ca_file is not None:
            if not self.tls:
                raise ConfigurationError("security: ca_file without tls")
            if not Path(self.ca_file).is_file():
                raise ConfigurationError(
                    f"security: there is no ca_file {os.fspath(self.ca_file)!r}"
                )

    @property
    def protocol(self) -> str:
        """Kafka's name of the combination: `SSL`, `SASL_SSL` or `SASL_PLAINTEXT`."""
        if self.mechanism is None:
            return "SSL"
        return "SASL_SSL" if self.tls else "SASL_PLAINTEXT"

    def password(self) -> str:
        """Read the password from where it is now."""
        if self.password_env is not None:
            password = os.environ.get(self.password_env, "")
            place = f"environment variable {self.password_env}"
        else:
            assert self.password_file is not None
            place = f"password_file {os.fspath(self.password_file)!r}"
            try:
                password = Path(self.password_file).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, ValueError) as error:
                # Not the text of a ValueError, which may quote what was read.
                why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
                raise ConfigurationError(f"security: cannot read {place}: {why}") from None
        if not password:
            raise ConfigurationError(f"security: {place} holds no password")
        return password

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, JSON-safe; there is no secret among them."""
        return {
            name: os.fspath(value) if isinstance(value, os.PathLike) else value
            for name, value in asdict(self).items()
        }
