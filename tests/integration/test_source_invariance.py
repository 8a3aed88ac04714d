"""P1: what a model learns does not depend on the kind of source: the same bits from each.

One table: learner x optimizer x precision, with and without a scaler, each trained from a list, a
generator, an array, a frame, a sparse matrix, two kinds of files, and a topic of the broker read by
both clients.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from confluent_kafka import Producer
from scipy import sparse

import streamfit as sf
from connectors import CSVSource, JSONDecoder, JSONLinesSource, KafkaSource
from streamfit.testing import LocalKafka
from streamfit.testing.strategies import every_optimizer
from streamfit.types import Block, Source

N, NAMES = 230, ["a", "b", "c", "d"]
RNG = np.random.default_rng(11)
X = RNG.normal(size=(N, 4)) * RNG.choice([1.0, 1.0, 0.0], size=(N, 4))
Z = X @ [1.0, -0.5, 0.2, 0.0] + 0.3 * RNG.normal(size=N)
W = RNG.uniform(0.0, 2.0, size=N)
LABELS = {
    sf.LinearRegression: ("real", Z),
    sf.LogisticRegression: ("binary", (Z > 0).astype(int)),
    sf.SoftmaxRegression: ("classes", np.digitize(Z, [-0.5, 0.5])),
}
COLUMNS: dict[str, Any] = {
    **dict(zip(NAMES, X.T.tolist(), strict=True)),
    "w": W.tolist(),
    **{name: y.tolist() for name, y in LABELS.values()},
}
RECORDS = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)]
OPTIMIZERS = {
    "SGD": sf.optim.SGD(sf.schedules.InverseScaling(0.05)),
    "momentum": sf.optim.SGD(0.01, momentum=0.9),
    "nesterov": sf.optim.SGD(0.01, momentum=0.9, nesterov=True),
    "AdaGrad": sf.optim.AdaGrad(0.05),
    "AdaDelta": sf.optim.AdaDelta(),
    "RMSProp": sf.optim.RMSProp(0.01),
    "Adam": sf.optim.Adam(0.01),
    "AdamW": sf.optim.AdamW(0.01),
    "AMSGrad": sf.optim.AMSGrad(0.01),
    "FTRLProximal": sf.optim.FTRLProximal(0.1, l1=0.01),
    "Auto": sf.optim.Auto(),  # without a scaler it brings one of its own
}
Sources = dict[str, Callable[[], Any]]


@pytest.fixture(scope="module")
def topic(kafka: LocalKafka) -> str:
    name = f"invariance-{time.time_ns()}"
    kafka.create_topic(name)
    settings = {"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0}
    producer = Producer({**settings, "enable.idempotence": True})
    for record in RECORDS:
        producer.produce(name, json.dumps(record).encode())
    assert producer.flush(30) == 0
    return name


def blocks(source: Source) -> list[Block]:
    """Read a topic once for all combinations: the blocks as they came."""
    return [block for block in source if len(block)]


class Replay:
    """Hands out the blocks of a source again."""

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks, self.taken = blocks, 0

    def __iter__(self) -> Iterator[Block]:
        for block in self.blocks:
            self.taken = block.offsets[-1] + 1
            yield block

    def position(self) -> dict[str, int]:
        return {self.blocks[0].key: self.taken}

    def seek(self, position: dict[str, int]) -> None:
        (self.taken,) = position.values()

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def sources(
    kafka: LocalKafka, topic: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[type], Sources]:
    folder: Path = tmp_path_factory.mktemp("invariance")
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(COLUMNS))
        writer.writeheader()
        writer.writerows(RECORDS)
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    (folder / "data.jsonl").write_text(lines)
    replays: dict[tuple[str, str], list[Block]] = {}
    for client in ("kafka-python", "confluent-kafka"):
        for target, _ in LABELS.values():
            source = KafkaSource(
                topic,
                bootstrap_servers=kafka.bootstrap_servers,
                decoder=JSONDecoder(target, weight="w", features=NAMES),
                client=client,  # type: ignore[arg-type]
                stop_at_end=True,
            )
            replays[client, target] = blocks(source)
            source.close()

    def sources(kind: type) -> Sources:
        target, y = LABELS[kind]
        rows = [dict(zip(NAMES, row, strict=True)) for row in X.tolist()]
        triples = list(zip(rows, y.tolist(), W.tolist(), strict=True))
        frame = pd.DataFrame(X, columns=NAMES)
        decoder = JSONDecoder(target, weight="w", features=NAMES)
        return {
            "list": lambda: triples,
            "generator": lambda: (triple for triple in triples),
            "live": lambda: sf.IterableSource(lambda: iter(triples), live=True),
            "array": lambda: sf.ArraySource(X, y, W, features=NAMES),
            "frame": lambda: sf.ArraySource(frame, y, W),
            "sparse": lambda: Replay([Block(sparse.csr_array(X), y, W, offsets=range(N))]),
            "CSV": lambda: CSVSource(folder / "data.csv", target, weight="w", features=NAMES),
            "JSON Lines": lambda: JSONLinesSource(folder / "data.jsonl", decoder),
            "kafka-python": lambda: Replay(replays["kafka-python", target]),
            "confluent-kafka": lambda: Replay(replays["confluent-kafka", target]),
        }

    return sources


def test_every_optimizer_is_in_the_table() -> None:
    assert {type(optimizer) for optimizer in OPTIMIZERS.values()} == every_optimizer()


@pytest.mark.parametrize("scaler", [None, sf.StandardScaler()], ids=["", "scaled"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", LABELS, ids=lambda kind: kind.__name__)
def test_every_source_gives_the_same_bits(
    sources: Callable[[type], Sources], kind: type, optimizer: str, dtype: str, scaler: Any
) -> None:
    digests = {}
    for name, source in sources(kind).items():
        model = kind(
            OPTIMIZERS[optimizer],
            batch_size=7,
            l2=0.01,
            dtype=dtype,
            scaler=scaler,
            features=sf.FeatureIndex(NAMES),
        )
        report = sf.Trainer(model, source()).run()
        assert (report.n_samples, report.n_updates) == (N, 33)
        digests[name] = report.digest
    assert len(set(digests.values())) == 1, digests
