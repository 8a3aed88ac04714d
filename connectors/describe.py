"""Sources from text: a URL that a user typed, or the configuration that a source gave of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from connectors.codecs import JSONDecoder
from connectors.files import CSVSource, JSONLinesSource
from connectors.kafka import KafkaSource, Security
from connectors.windows import Windows
from streamfit.errors import ConfigurationError
from streamfit.types import Source

__all__ = ["source_from_config", "source_from_url"]


def source_from_url(url: str) -> Source:
    """Make a source that ends where its data end.

    Parameters
    ----------
    url
        `kafka://host:port/topic?target=late`, `flights.csv?target=late` or
        `flights.jsonl?target=late`. Every kind takes `&weight=column` and `&features=a,b,c`;
        Kafka takes `&client=` and `&isolation_level=` as well, and several brokers:
        `kafka://one:9092,two:9092/topic`.

    Raises
    ------
    ConfigurationError
        When the text is none of these.

    Examples
    --------
    >>> source_from_url("kafka://localhost:9092/flights?target=late")
    KafkaSource('flights', bootstrap_servers='localhost:9092')
    """
    address, _, query = url.partition("?")
    options: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    if "target" not in options:
        raise ConfigurationError(f"{url!r} does not say which field is the label: add ?target=name")
    if "features" in options:
        options["features"] = options["features"].split(",")
    fields = {name: options.pop(name) for name in _FIELDS if name in options}
    if address.startswith("kafka://"):
        parts = urlsplit(address)
        config = {
            "id": "KafkaSource",
            "topic": unquote(parts.path.strip("/")),
            "bootstrap_servers": parts.netloc,
            "decoder": {"id": "JSONDecoder", **fields},
            **options,
        }
    elif address.endswith(".csv"):
        config = {"id": "CSVSource", "path": address, **fields, **options}
    elif address.endswith((".jsonl", ".ndjson")):
        decoder = {"id": "JSONDecoder", **fields}
        config = {"id": "JSONLinesSource", "path": address, "decoder": decoder, **options}
    else:
        raise ConfigurationError(
            f"{address!r} is no source; expected kafka://host:port/topic, a .csv or a .jsonl file"
        )
    return source_from_config(config)


def source_from_config(config: dict[str, Any]) -> Source:
    """Make the source whose `get_config` returned `config`, to be read from start to end.

    Examples
    --------
    >>> decoder = JSONDecoder(target="late")
    >>> source = KafkaSource("flights", bootstrap_servers="localhost:9092", decoder=decoder)
    >>> source_from_config(source.get_config())
    KafkaSource('flights', bootstrap_servers='localhost:9092')
    """
    options = dict(config)
    kind = options.pop("id", None)
    try:
        if "decoder" in options:
            decoder = dict(options["decoder"])
            options["decoder"] = _DECODERS[decoder.pop("id")](**decoder)
        if "source" in options:
            options["source"] = source_from_config(options["source"])
        if kind == "KafkaSource":
            options["stop_at_end"] = True
            if options.get("security") is not None:
                options["security"] = Security(**options["security"])
        return _SOURCES[kind](**options)
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"not the configuration of a source: {error}") from None


_FIELDS = ("target", "weight", "features")
_SOURCES: dict[object, Callable[..., Source]] = {
    "CSVSource": CSVSource,
    "JSONLinesSource": JSONLinesSource,
    "KafkaSource": KafkaSource,
    "Windows": Windows,
}
_DECODERS: dict[object, Callable[..., Any]] = {"JSONDecoder": JSONDecoder}
