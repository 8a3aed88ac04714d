"""Sources from text: a URL that a user typed, or the configuration that a source gave of itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from connectors.codecs import JSONDecoder, NumpyDecoder
from connectors.files import CSVSource, JSONLinesSource, LibSVMSource
from connectors.kafka import KafkaSource, Security
from connectors.windows import Windows
from streamfit.errors import ConfigurationError
from streamfit.sources import SourceList
from streamfit.types import Source

__all__ = ["source_from_config", "source_from_url"]


def source_from_url(url: Any, **options: Any) -> Source:
    """Make a source that ends where its data end, unless `stop_at_end=False` is among `options`.

    Parameters
    ----------
    url
        `kafka://host:port/topic?target=late`, `flights.csv?target=late`,
        `flights.jsonl?target=late`, `flights.parquet?target=late` or `flights.svm`; files of
        lines also packed, `.gz` or `.zst`; or `-?target=late`, the standard input, JSON Lines or
        what `&format=` (`csv`, `libsvm`) says. All but `.svm` take `&weight=column` and
        `&features=a,b,c`; Kafka takes `&client=` and `&isolation_level=` as well, and several
        brokers: `kafka://one:9092,two:9092/topic`, and `&decoder=ArrowDecoder`. Or a data frame
        (pandas, polars, Arrow), with `target=` among the `options`.
    options
        The same by keyword, before what the URL says; `features` is a list. Kafka and JSON Lines
        take a `decoder` too, described as its `get_config` does, and Kafka `security`.
        `labelled=False` is for predicting: label and weight are left out, and need not be there.

    Raises
    ------
    ConfigurationError
        When the text is none of these.

    Examples
    --------
    >>> source_from_url("kafka://localhost:9092/flights?target=late")
    KafkaSource('flights', bootstrap_servers='localhost:9092')
    """
    if not isinstance(url, str):
        source: Source = _imported("connectors.frames", "FrameSource")(frame=url, **options)
        return source
    address, _, query = url.partition("?")
    options = {**dict(parse_qsl(query, keep_blank_values=True)), **options}
    kind = "kafka" if address.startswith("kafka://") else _format(address, options)
    if "target" not in options and kind != "libsvm" and options.get("labelled", True):
        raise ConfigurationError(
            f"target: {url!r} does not say which field is the label: add ?target=name"
        )
    if isinstance(options.get("features"), str):
        options["features"] = options["features"].split(",")
    if isinstance(options.get("decoder"), str):
        options["decoder"] = {"id": options["decoder"]}
    fields = {name: options.pop(name) for name in _FIELDS if name in options}
    if kind == "libsvm":
        fields.pop("labelled", None)
    elif not fields.get("labelled", True):
        fields.setdefault("target", None)
    if kind == "kafka":
        try:
            parts = urlsplit(address)
        except ValueError as error:
            raise ConfigurationError(f"{address!r} is no address: {error}") from None
        config = {
            "id": "KafkaSource",
            "topic": unquote(parts.path.strip("/")),
            "bootstrap_servers": parts.netloc,
            "decoder": {**options.pop("decoder", _JSON), **fields},
            **options,
        }
    elif kind == "jsonl":
        decoder = {**options.pop("decoder", _JSON), **fields}
        config = {"id": "JSONLinesSource", "path": address, "decoder": decoder, **options}
    else:
        name = _FILES[kind]
        config = {"id": name, "path": address, **fields, **options}
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
        if kind == "SourceList":
            return SourceList([source_from_config(each) for each in options["sources"]])
        if "source" in options:
            options["source"] = source_from_config(options["source"])
        if kind == "KafkaSource":
            options.setdefault("stop_at_end", True)
            if options.get("security") is not None:
                options["security"] = Security(**options["security"])
        return _SOURCES[kind](**options)
    except (KeyError, TypeError) as error:
        raise ConfigurationError(f"not the configuration of a source: {error}") from None


def _format(address: str, options: dict[str, Any]) -> str:
    """Say of which format a file is, by its name; the standard input has none and is told."""
    if address == "-":
        name = str(options.pop("format", "jsonl"))
    else:
        name = address.removesuffix(".gz").removesuffix(".zst").rpartition(".")[2]
    if name not in _FORMATS:
        raise ConfigurationError(
            f"{address!r} is no source; expected kafka://host:port/topic, - or a file .csv, "
            ".jsonl or .svm, which may be packed as .gz or .zst"
        )
    return _FORMATS[name]


def _imported(module: str, name: str) -> Callable[..., Any]:
    """Make what needs an extra, which is imported only then."""

    def make(**options: Any) -> Any:
        return getattr(importlib.import_module(module), name)(**options)

    return make


_JSON = {"id": "JSONDecoder"}
_FORMATS = {
    "csv": "csv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "svm": "libsvm",
    "libsvm": "libsvm",
    "parquet": "parquet",
}
_FILES = {"csv": "CSVSource", "libsvm": "LibSVMSource", "parquet": "ParquetSource"}
_FIELDS = ("target", "weight", "features", "labelled")
_SOURCES: dict[object, Callable[..., Source]] = {
    "CSVSource": CSVSource,
    "JSONLinesSource": JSONLinesSource,
    "KafkaSource": KafkaSource,
    "LibSVMSource": LibSVMSource,
    "ParquetSource": _imported("connectors.parquet", "ParquetSource"),
    "Windows": Windows,
}
_DECODERS: dict[object, Callable[..., Any]] = {
    "ArrowDecoder": _imported("connectors.codecs.arrow", "ArrowDecoder"),
    "AvroDecoder": _imported("connectors.codecs.avro", "AvroDecoder"),
    "JSONDecoder": JSONDecoder,
    "NumpyDecoder": NumpyDecoder,
}
