"""The process that is killed again and again: trains from a topic until it is told to stop."""

from __future__ import annotations

import argparse
import logging
from typing import Any

import streamfit as sf
from connectors import JSONDecoder, KafkaSource

N_COUNTERS = 97


def learner(kind: str) -> Any:
    """Make the model of one kind.

    `logistic` depends on the order of the samples in every bit. `counting` adds exactly 1 to the
    weight of each sample's only feature, so that its weights are counts.
    """
    if kind == "logistic":
        return sf.LogisticRegression(sf.optim.Adam(0.01), batch_size=7, l2=0.001)
    return sf.LinearRegression(
        sf.optim.SGD(1.0),
        loss=sf.losses.Absolute(),
        batch_size=7,
        reduction="sum",
        fit_intercept=False,
    )


def source(kind: str, topic: str, servers: str, client: Any, stop_at_end: bool) -> KafkaSource:
    """Read the fields of one kind of model."""
    decoder = (
        JSONDecoder(target="y", features=["u", "v"])
        if kind == "logistic"
        else JSONDecoder(target="far", features=[f"c{i}" for i in range(N_COUNTERS)])
    )
    return KafkaSource(
        topic,
        bootstrap_servers=servers,
        decoder=decoder,
        client=client,
        stop_at_end=stop_at_end,
        group_id=f"soak-{kind}",
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("state")
    for name in ("--kind", "--topic", "--servers", "--client", "--letters"):
        parser.add_argument(name, required=True)
    parser.add_argument("--stop-at-end", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with sf.exit_codes():
        sf.Trainer(
            learner(options.kind),
            source(
                options.kind, options.topic, options.servers, options.client, options.stop_at_end
            ),
            checkpoint=sf.Checkpointer(options.state, every_seconds=1.0),
            on_bad_sample=sf.DeadLetters(options.letters),
            max_bad_ratio=0.9,
        ).run()


if __name__ == "__main__":
    main()
