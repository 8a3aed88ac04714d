"""From the description of a pipeline to the objects that train."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from connectors.describe import source_from_url
from streamfit.checkpoint import Checkpointer
from streamfit.cli.pipeline import InvalidOptionError, ModelOptions, Pipeline, SourceOptions
from streamfit.cli.registries import make
from streamfit.cli.values import Choice
from streamfit.errors import ConfigurationError
from streamfit.report import Progress
from streamfit.trainer import Trainer
from streamfit.types import Learner, Source

__all__ = ["build"]

_OF_KAFKA = ("client", "start", "group_id", "isolation_level", "security")
_ARGUMENTS = (
    *("reduction", "l1", "l2", "fit_intercept", "intercept_lr", "clip_gradient"),
    *("max_weight", "dtype"),
)


def build(
    pipeline: Pipeline,
    *,
    callbacks: Iterable[Callable[[Progress], object]] = (),
    progress: bool = False,
) -> Trainer:
    """Make the trainer that a pipeline describes; nothing is read or written yet.

    Raises
    ------
    InvalidOptionError
        When an option is refused, with the section and key of the first.
    """
    training, bad, state = pipeline.training, pipeline.bad_samples, pipeline.checkpoint
    model = _model(pipeline.model)
    with _of(pipeline, "checkpoint"):
        checkpoint = None
        if state.directory is not None:
            checkpoint = Checkpointer(
                state.directory, state.every_seconds, state.every_updates, state.keep
            )
        elif state.every_seconds is not None or state.every_updates is not None:
            raise InvalidOptionError("checkpoint", "directory", "there is none to save to")
    metrics = [_made("training", "metrics", "metrics", metric) for metric in training.metrics]
    on_bad_sample = _made("bad_samples", "on_bad_sample", "bad_samples", bad.on_bad_sample)
    source = _source(pipeline.source)
    with _of(pipeline, "training", "bad_samples"):
        return Trainer(
            model,
            source,
            epochs=training.epochs,
            last_batch=training.last_batch,
            metrics=metrics,
            checkpoint=checkpoint,
            max_wait=training.max_wait,
            on_bad_sample=on_bad_sample,
            max_bad_ratio=bad.max_bad_ratio,
            bad_window=bad.bad_window,
            max_samples=training.max_samples,
            callbacks=callbacks,
            progress=progress,
        )


def _model(options: ModelOptions) -> Learner:
    if options.kind.options:
        raise InvalidOptionError("model", "kind", f"{options.kind.kind} takes no options here")
    _made("model", "kind", "models", options.kind)
    loss = None if options.loss is None else _made("model", "loss", "losses", options.loss)
    scaler = None if options.scaler is None else _made("model", "scaler", "scalers", options.scaler)
    batch_size = options.batch_size
    if isinstance(batch_size, Choice):
        batch_size = _made("model", "batch_size", "batch_sizes", batch_size)
    arguments = {
        "optimizer": _optimizer(options),
        "loss": loss,
        "batch_size": batch_size,
        "features": _made("model", "feature_index", "feature_indexes", options.feature_index),
        "scaler": scaler,
        **{name: getattr(options, name) for name in _ARGUMENTS},
    }
    if options.classes is not None:
        if options.kind.kind != "softmax":
            raise InvalidOptionError(
                "model", "classes", f"only softmax has them, not {options.kind}"
            )
        arguments["classes"] = options.classes
    with _of(Pipeline(model=options), "model"):
        model: Learner = make("models", Choice(options.kind.kind, arguments))
        return model
    raise AssertionError


def _optimizer(options: ModelOptions) -> Any:
    chosen = options.optimizer
    if options.lr is None:
        return _made("model", "optimizer", "optimizers", chosen)
    if "lr" in chosen.options:
        raise InvalidOptionError("model", "lr", f"it is there twice: {chosen} has one")
    lr = options.lr
    if isinstance(lr, Choice):
        lr = _made("model", "lr", "schedules", lr)
    _made("model", "optimizer", "optimizers", chosen)  # so that what is left is about lr
    return _made("model", "lr", "optimizers", Choice(chosen.kind, {**chosen.options, "lr": lr}))


def _source(options: SourceOptions) -> Source:
    if not options.location:
        raise InvalidOptionError(
            "source", "location", "there is none: say where the samples come from"
        )
    given = {
        name: value
        for name in ("target", "weight", "features", "format", *_OF_KAFKA)
        if (value := getattr(options, name)) is not None
    }
    if options.location.startswith("kafka://"):
        given["stop_at_end"] = options.stop_at_end
    else:
        for name in _OF_KAFKA:
            if name in given:
                raise InvalidOptionError(
                    "source", name, f"it is Kafka's, and {options.location} is not"
                )
    if options.security is not None:
        mechanism = options.security.kind
        given["security"] = {
            "mechanism": None if mechanism == "tls" else mechanism,
            **options.security.options,
        }
    if options.decoder is not None:
        given["decoder"] = _made("source", "decoder", "decoders", options.decoder)
    with _of(Pipeline(source=options), "source"):
        return source_from_url(options.location, **given)
    raise AssertionError


def _made(section: str, name: str, registry: str, choice: Choice) -> Any:
    try:
        return make(registry, choice)
    except ConfigurationError as error:
        raise InvalidOptionError(section, name, str(error)) from None


@contextmanager
def _of(pipeline: Pipeline, *sections: str) -> Iterator[None]:
    """Say of an error which option of the sections it is about."""
    try:
        yield
    except InvalidOptionError:
        raise
    except ConfigurationError as error:
        message = str(error)
        places = {
            (section, item.name): _place(message, item.name, getattr(options, item.name))
            for section in sections
            for options in (getattr(pipeline, section),)
            for item in fields(options)
        }
        section, name = min(places, key=places.__getitem__)
        if places[section, name] == math.inf:
            section, name = sections[-1], ""
        raise InvalidOptionError(section, name, message) from None


def _place(message: str, name: str, value: Any) -> float:
    """Say where in a message an option is told of: its name at the beginning, or its value."""
    if re.match(rf"{name}\b", message):
        return -1
    values = value if isinstance(value, tuple) else (value,)
    places = [message.find(repr(text)) for text in values if isinstance(text, str) and text]
    return min((place for place in places if place >= 0), default=math.inf)
