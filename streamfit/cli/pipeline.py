"""The description of a training pipeline: what its flags and its TOML file may say.

The dataclasses below are all there is: the flags of `streamfit train` are made from them
(`flags.py`), a TOML file is checked against them (`toml.py`), and the objects that train are made
from them (`build.py`). A section of the file is a class, a key is a field, a flag is the field's
name with dashes, unless it says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import Field, dataclass, field, fields
from typing import Any

from streamfit.cli.values import (
    Choice,
    ChoiceKind,
    ChoicesKind,
    FlagKind,
    IntegerKind,
    Kind,
    LabelsKind,
    NamesKind,
    NumberKind,
    TextKind,
)
from streamfit.errors import ConfigurationError

__all__ = ["InvalidOptionError", "Option", "Pipeline", "options"]


@dataclass(frozen=True)
class Option:
    """What there is to know about one option besides its name and default.

    Parameters
    ----------
    kind
        What values it takes.
    help
        One or two sentences.
    flag
        The flag, where it is not the field's name with dashes; SOURCE is an argument.
    registry
        Which names of `build.py` it chooses from, for completion.
    """

    kind: Kind
    help: str
    flag: str | None = None
    registry: str | None = None


class InvalidOptionError(ConfigurationError):
    """A value was refused: `reason` says why, `section` and `name` say whose it is."""

    def __init__(self, section: str, name: str, reason: str) -> None:
        # messages of the library begin with the argument's name, which is told already
        self.reason = re.sub(rf"^{name}(: | (?=must))", "", reason) if name else reason
        self.section, self.name = section, name
        super().__init__(f"{section}.{name}: {self.reason}")


def _option(
    default: Any, kind: Kind, text: str, flag: str | None = None, registry: str | None = None
) -> Any:
    return field(default=default, metadata={"option": Option(kind, text, flag, registry)})


_FILE = TextKind("PATH")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where the samples come from."""

    location: str = _option(
        "",
        TextKind("SOURCE"),
        "kafka://host:port/topic, a file .csv, .jsonl, .parquet or .svm (also packed, .gz or "
        ".zst), or - for the standard input. Options may follow as ?target=y&weight=w.",
        "SOURCE",
    )
    target: str | None = _option(None, TextKind("FIELD"), "The field that is the label.")
    weight: str | None = _option(None, TextKind("FIELD"), "The field that is the sample's weight.")
    features: tuple[str, ...] | None = _option(
        None, NamesKind(), "The fields to learn from; by default all but target and weight."
    )
    format: str | None = _option(
        None, TextKind("NAME"), "What the standard input is: jsonl (the default), csv or libsvm."
    )
    decoder: Choice | None = _option(
        None,
        ChoiceKind(),
        "What a record is: json (the default), avro:schema=flights.avsc, numpy:....",
        registry="decoders",
    )
    client: str | None = _option(
        None, TextKind("NAME"), "Kafka: kafka-python (the default) or confluent-kafka (faster)."
    )
    start: str | None = _option(
        None, TextKind("earliest|latest"), "Kafka: where to begin without a checkpoint."
    )
    group_id: str | None = _option(
        None, TextKind("GROUP"), "Kafka: publish offsets under this group, for dashboards only."
    )
    isolation_level: str | None = _option(
        None, TextKind("NAME"), "Kafka: read_committed (the default) or read_uncommitted."
    )
    security: Choice | None = _option(
        None,
        ChoiceKind(),
        "Kafka: TLS and login, such as "
        "SCRAM-SHA-512:username=me,password_env=KAFKA_PASSWORD,ca_file=ca.pem; tls is TLS alone.",
    )
    stop_at_end: bool = _option(
        False, FlagKind(), "Kafka: end where the topic ends now, instead of waiting for more."
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What is learned, and how."""

    kind: Choice = _option(
        Choice("logistic"),
        ChoiceKind(metavar="linear|logistic|softmax"),
        "linear: numbers; logistic: yes or no; softmax: one of several classes.",
        "--model",
        "models",
    )
    batch_size: int | Choice = _option(
        1,
        ChoiceKind(int, metavar="INTEGER|full|SCHEDULE"),
        "Samples of one update. full: one update an epoch; or a schedule, such as "
        "geometric:initial=1,factor=2,every=100,maximum=256. Schedules: {batch_sizes}.",
        registry="batch_sizes",
    )
    optimizer: Choice = _option(
        Choice("sgd"),
        ChoiceKind(),
        "How a gradient becomes a step, such as sgd:momentum=0.9: {optimizers}.",
        registry="optimizers",
    )
    lr: float | Choice | None = _option(
        None,
        ChoiceKind(float, metavar="NUMBER|SCHEDULE"),
        "Learning rate: a number, or a schedule that counts updates, such as "
        "inverse_scaling:lr=0.5,power=0.5; by default the optimizer's own. Schedules: {schedules}.",
        registry="schedules",
    )
    loss: Choice | None = _option(
        None,
        ChoiceKind(),
        "By default the model's own; huber:epsilon=0.5 has an option. Losses: {losses}.",
        registry="losses",
    )
    l1: float = _option(0.0, NumberKind(), "Strength of the L1 penalty.")
    l2: float = _option(0.0, NumberKind(), "Strength of the L2 penalty.")
    reduction: str = _option(
        "mean", TextKind("mean|sum"), "Divide a micro-batch's gradient by its samples, or not."
    )
    scaler: Choice | None = _option(
        None,
        ChoiceKind(metavar="standard"),
        "standard: scale each feature by its running mean and variance.",
        registry="scalers",
    )
    feature_index: Choice = _option(
        Choice("grow"),
        ChoiceKind(),
        "grow: a feature gets a weight when it first appears (grow:maximum=1000); fixed: those of "
        "the first sample; hashed:bits=18: for names without bound.",
        registry="feature_indexes",
    )
    classes: tuple[Any, ...] | None = _option(
        None, LabelsKind(), "softmax: the labels there are; by default as they come."
    )
    fit_intercept: bool = _option(True, FlagKind(), "Whether there is an intercept.")
    intercept_lr: float | None = _option(
        None, NumberKind(), "Train the intercept by plain SGD at this rate, as River does."
    )
    clip_gradient: float | None = _option(
        None, NumberKind(), "Bound on each sample's loss gradient."
    )
    max_weight: float | None = _option(
        None, NumberKind(), "Refuse an update that would leave a weight beyond this."
    )
    dtype: str = _option("float64", TextKind("float64|float32"), "float32 halves the memory.")


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How long to train, and what to measure."""

    epochs: int = _option(1, IntegerKind(), "Passes over the source.")
    last_batch: str = _option(
        "apply",
        TextKind("apply|scale|drop|carry"),
        "What becomes of a partial micro-batch at the end of an epoch.",
    )
    max_samples: int | None = _option(
        None, IntegerKind(), "Stop after so many samples, those before a resume included."
    )
    max_wait: float | None = _option(
        None, NumberKind("SECONDS"), "Apply a partial micro-batch of a live stream after so long."
    )
    metrics: tuple[Choice, ...] = _option(
        (),
        ChoicesKind(),
        "A metric of River, taken before each sample is learned: LogLoss, Accuracy, or "
        "Accuracy:rolling=1000 over the last thousand. May be repeated. Metrics: {metrics}.",
        "--metric",
        "metrics",
    )


@dataclass(frozen=True, kw_only=True)
class BadSampleOptions:
    """What becomes of samples that cannot be learned."""

    on_bad_sample: Choice = _option(
        Choice("raise"),
        ChoiceKind(metavar="raise|skip|dead_letters:..."),
        "raise: stop; skip: count it and go on; dead_letters:path=bad.jsonl or "
        "dead_letters:topic=refused: put it aside and go on.",
        registry="bad_samples",
    )
    max_bad_ratio: float | None = _option(
        None, NumberKind(), "Stop when more of the last samples than this share are bad."
    )
    bad_window: int = _option(1000, IntegerKind(), "How many samples these last ones are.")


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Where the state is kept; run the same command again and it goes on from there."""

    directory: str | None = _option(
        None, _FILE, "The directory of checkpoints; without it nothing is kept.", "--checkpoint"
    )
    every_seconds: float | None = _option(
        None, NumberKind("SECONDS"), "Save as often; without either, at the end only."
    )
    every_updates: int | None = _option(None, IntegerKind(), "Save after so many updates.")
    keep: int = _option(3, IntegerKind(), "How many checkpoints stay on disk.")


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """A whole pipeline; its fields are the sections of the file."""

    source: SourceOptions = SourceOptions()
    model: ModelOptions = ModelOptions()
    training: TrainingOptions = TrainingOptions()
    bad_samples: BadSampleOptions = BadSampleOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()

    @classmethod
    def of_values(cls, values: dict[tuple[str, str], Any]) -> Pipeline:
        """Make a pipeline of values by section and key, each of the type that TOML gives it.

        Raises
        ------
        InvalidOptionError
            When a value is not what its option takes.
        """
        given: dict[str, dict[str, Any]] = {section.name: {} for section in fields(cls)}
        for section, item, option in options():
            if (section, item.name) in values:
                try:
                    value = option.kind.check(values[section, item.name])
                except ConfigurationError as error:
                    raise InvalidOptionError(section, item.name, str(error)) from None
                given[section][item.name] = value
        defaults = cls()
        return cls(
            **{name: type(getattr(defaults, name))(**options) for name, options in given.items()}
        )

    def given(self) -> Iterator[tuple[str, str, Any]]:
        """Tell section, key and value of what is not at its default."""
        for section, item, _ in options():
            value = getattr(getattr(self, section), item.name)
            if value != item.default:
                yield section, item.name, value


def options() -> Iterator[tuple[str, Field[Any], Option]]:
    """Tell section, field and description of every option there is."""
    defaults = Pipeline()
    for section in fields(Pipeline):
        for item in fields(getattr(defaults, section.name)):
            yield section.name, item, item.metadata["option"]
