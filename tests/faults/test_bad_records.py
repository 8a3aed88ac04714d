"""Faults 32-41: bad records change no weight, are never lost, and never come in silence."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

import streamfit as sf
from connectors import JSONDecoder, JSONLinesSource, KafkaSource
from streamfit.errors import (
    BadSampleError,
    ConfigurationError,
    DeadLetterError,
    SourceError,
    TooManyBadSamplesError,
)
from streamfit.testing import LocalKafka

sys.path.insert(0, str(Path(__file__).parent))
from topics import everything, new_topic, produce

MAX_BYTES = 20_000

BAD: dict[str, tuple[bytes | None, str]] = {
    "tombstone": (None, "decode"),
    "empty": (b"", "decode"),
    "not_utf8": (b"\xff\xfe\x00{", "decode"),
    "truncated_json": (b'{"a": 1.0, "y": ', "decode"),
    "nan_inf_1e999_nan": (b'{"a": NaN, "y": 1}', "decode"),
    "nan_inf_1e999_infinity": (b'{"a": 1, "y": Infinity}', "decode"),
    "nan_inf_1e999_overflow": (b'{"a": 1e999, "y": 1}', "decode"),
    "deep_json": (b'{"a": ' + b"[" * 9000 + b"]" * 9000 + b', "y": 1}', "decode"),
    "deep_enough_to_parse": (b'{"a": ' + b"[" * 900 + b"]" * 900 + b', "y": 1}', "learn"),
    "oversize": (b'{"a": 1, "y": 1, "z": "' + b"x" * MAX_BYTES + b'"}', "decode"),
    "too_many_fields": (
        json.dumps({"y": 1, **{f"f{i}": 1 for i in range(60)}}).encode(),
        "decode",
    ),
    "no_object": (b"[1, 2]", "decode"),
    "bad_label_missing": (b'{"a": 1.0}', "decode"),
    "bad_label_null": (b'{"a": 1.0, "y": null}', "decode"),
    "bad_label_class": (b'{"a": 1.0, "y": 3}', "learn"),
    "bad_label_text": (b'{"a": 1.0, "y": "late"}', "learn"),
    "retyped_text": (b'{"a": "1.0", "y": 1}', "learn"),
    "retyped_null": (b'{"a": null, "y": 1}', "learn"),
    "retyped_object": (b'{"a": {"b": 1}, "y": 1}', "learn"),
    "retyped_after_new_feature": (b'{"brand_new": 1.0, "a": "x", "y": 1}', "learn"),
}


def decoder() -> JSONDecoder:
    return JSONDecoder(target="y", max_bytes=MAX_BYTES, max_fields=50)


def model() -> sf.LogisticRegression:
    return sf.LogisticRegression(sf.optim.Adam(0.1), batch_size=3)


def good(n: int) -> list[tuple[dict[str, float], bool]]:
    return [({"a": math.sin(i), "b": i % 3 / 3}, i % 3 == 1) for i in range(n)]


def as_json(sample: tuple[dict[str, float], bool]) -> bytes:
    return json.dumps({**sample[0], "y": sample[1]}).encode()


def digest_of(samples: list[Any]) -> str:
    learner = model()
    for x, y in samples:
        learner.learn_one(x, y)
    learner.flush()
    return learner.digest()


def source(kafka: LocalKafka, topic: str, client: str, **options: Any) -> KafkaSource:
    return KafkaSource(
        topic,
        bootstrap_servers=kafka.bootstrap_servers,
        decoder=decoder(),
        client=client,  # type: ignore[arg-type]
        **options,
    )


def letters(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", BAD)
def test_bad_record(name: str, tmp_path: Path) -> None:
    """32-36, 38, 39: the good ones count, the bad one is put aside with its own bytes."""
    value, stage = BAD[name]
    samples = good(20)

    class OneBad:
        live = False

        def __iter__(self) -> Any:
            values = [as_json(s) for s in samples]
            values.insert(7, value)  # type: ignore[arg-type]
            xs, ys, errors = [], [], {}
            for i, raw in enumerate(values):
                try:
                    x, y, _ = decoder()(raw)
                except BadSampleError as error:
                    errors[i], x, y = error, {}, 0
                xs.append(x)
                ys.append(y)
            yield sf.types.Block(
                x=xs,
                y=ys,
                source="clicks",
                offsets=range(21),
                errors=errors,
                raw=[(raw, b"key") for raw in values],
            )

        def position(self) -> dict[str, int]:
            return {"clicks:0": 0}

        def seek(self, position: dict[str, int]) -> None: ...

        def close(self) -> None: ...

    path = tmp_path / "refused" / "letters.jsonl"
    report = sf.Trainer(model(), OneBad(), on_bad_sample=sf.DeadLetters(path=path)).run()
    assert (report.n_samples, report.n_bad) == (20, 1)
    assert report.digest == digest_of(samples)
    (letter,) = letters(path)
    assert (letter["id"], letter["stage"]) == ("clicks:0:7", stage)
    assert (letter["source"], letter["partition"], letter["offset"]) == ("clicks", 0, 7)
    assert letter["error"] in ("BadSampleError", "DecodeError")
    assert "(source 'clicks', partition 0, offset 7)" in letter["message"]
    if name == "not_utf8":
        assert (letter["encoding"], letter["value"]) == ("base64", "//4Aew==")
    else:
        text = None if value is None else value.decode()
        assert (letter["value"], letter["key"]) == (text, "key")
    with pytest.raises(BadSampleError, match="offset 7"):
        sf.Trainer(model(), OneBad()).run()


def test_every_bad_record_on_a_topic(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    """The same through the broker: bytes, key and headers on the dead-letter topic; W."""
    topic, refused = new_topic(kafka), new_topic(kafka)
    samples = good(100)
    values: list[bytes | None] = [as_json(s) for s in samples]
    places = {}
    for k, (name, (value, stage)) in enumerate(BAD.items()):
        places[5 * (k + 1) + k] = (name, value, stage)
    for place, (_, value, _) in places.items():
        values.insert(place, value)
    produce(kafka, topic, [(0, value) for value in values], key=b"k")
    checkpoint = sf.Checkpointer(tmp_path, every_updates=5)
    report = sf.Trainer(
        model(),
        source(kafka, topic, client, stop_at_end=True),
        checkpoint=checkpoint,
        on_bad_sample=sf.DeadLetters(topic=refused),
    ).run()
    assert (report.n_samples, report.n_bad) == (100, len(BAD))
    assert report.digest == digest_of(samples)
    found = everything(kafka, refused)
    assert len(found) == len(BAD)
    for record, (place, (name, value, stage)) in zip(found, places.items(), strict=True):
        headers = dict(record.headers)
        assert (record.value, record.key) == (value, b"k"), name
        assert headers["id"] == f"{topic}:0:{place}".encode()
        assert headers["offset"] == str(place).encode()
        assert headers["source"] == topic.encode()
        assert headers["stage"] == stage.encode(), name
        assert headers["error"] in (b"BadSampleError", b"DecodeError")
        assert f"offset {place})".encode() in headers["message"]
        assert headers["time"].endswith(b"+00:00")
    skipped = [e for e in sf.journal.entries(tmp_path) if isinstance(e, sf.journal.Skipped)]
    assert [e.offset for e in skipped] == list(places)
    assert all(e.dead_letter for e in skipped)
    again = source(kafka, topic, client, stop_at_end=True)
    assert sf.journal.verify(tmp_path, again).equal


def test_dead_letter_topic_down(
    kafka: LocalKafka, client: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """40: while dead letters cannot be written training pauses; nothing is skipped (L)."""
    if kafka.external:
        pytest.skip("needs a broker that can be stopped")
    topic, refused = new_topic(kafka), new_topic(kafka)
    samples = good(30)
    produce(kafka, topic, [(0, as_json(s)) for s in samples[:10]])
    produce(kafka, topic, [(0, b"garbage")])
    produce(kafka, topic, [(0, as_json(s)) for s in samples[10:]])
    down, waited = threading.Event(), threading.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "event=dead_letters_waiting" in record.getMessage():
                waited.set()

    def stop_the_broker(progress: sf.Progress) -> None:
        if progress.n_bad and not down.is_set():
            down.set()
            kafka.kill()

    def trainer(n: int) -> sf.Trainer:
        return sf.Trainer(
            model(),
            source(kafka, topic, client),
            checkpoint=sf.Checkpointer(tmp_path),
            on_bad_sample=sf.DeadLetters(topic=refused),
            max_samples=n,
            last_batch="carry" if n < 30 else "apply",
            callbacks=[stop_the_broker],
        )

    reports: list[sf.TrainingReport] = []
    assert trainer(10).run().position == {f"{topic}:0": 10}
    watch = Watch()
    logging.getLogger("streamfit").addHandler(watch)
    thread = threading.Thread(target=lambda: reports.append(trainer(30).run()))
    try:
        thread.start()
        assert down.wait(30)
        assert waited.wait(30)
        saved = sf.Checkpointer(tmp_path).latest()
        assert saved is not None
        assert saved.position == {f"{topic}:0": 10}  # never past it
        assert thread.is_alive()
    finally:
        kafka.start()
        logging.getLogger("streamfit").removeHandler(watch)
    thread.join(60)
    assert not thread.is_alive()
    assert (reports[0].n_samples, reports[0].n_bad) == (30, 1)
    assert reports[0].digest == digest_of(samples)
    found = everything(kafka, refused)
    assert {dict(record.headers)["id"] for record in found} == {f"{topic}:0:10".encode()}


def test_dead_letter_topic_missing(kafka: LocalKafka, client: str, tmp_path: Path) -> None:
    """A topic that is not there will not come by waiting: halt, and nothing is saved past it."""
    topic = new_topic(kafka)
    produce(kafka, topic, [(0, as_json(s)) for s in good(3)] + [(0, b"garbage")])
    trainer = sf.Trainer(
        model(),
        source(kafka, topic, client, stop_at_end=True),
        checkpoint=sf.Checkpointer(tmp_path),
        on_bad_sample=sf.DeadLetters(topic=f"none-{uuid.uuid4()}"),
    )
    with pytest.raises(DeadLetterError, match=r"1 dead letters.*does not exist"):
        trainer.run()
    assert sf.Checkpointer(tmp_path).latest() is None


def test_sigterm_while_dead_letters_wait(tmp_path: Path) -> None:
    """Asked to end while the broker is away: at once, and with nothing saved past them."""

    class NoBroker(sf.IterableSource):
        def dead_letters(self, topic: str | None = None) -> Any:
            nowhere = KafkaSource("t", bootstrap_servers="127.0.0.1:1", decoder=decoder())
            return nowhere.dead_letters(topic)

    trainer = sf.Trainer(
        model(),
        NoBroker([*good(5), "garbage"]),
        checkpoint=sf.Checkpointer(tmp_path),
        on_bad_sample=sf.DeadLetters("refused"),
    )
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.start()
    began = time.monotonic()
    with pytest.raises(DeadLetterError, match="SIGTERM while 1 dead letters"):
        trainer.run()
    assert time.monotonic() - began < 15
    assert sf.Checkpointer(tmp_path).latest() is None


def test_a_letter_counts_once_although_a_flush_failed(tmp_path: Path) -> None:
    """The thousandth letter starts a flush that fails; the save after the failure succeeds."""

    class FailsOnce:
        n_flushes = 0

        def send(self, *letter: Any) -> None: ...

        def flush(self, timeout: float) -> None:
            FailsOnce.n_flushes += 1
            if FailsOnce.n_flushes == 1:
                raise SourceError("refused")

        def close(self) -> None: ...

    class Source(sf.IterableSource):
        def dead_letters(self, topic: str | None = None) -> Any:
            return FailsOnce()

    def trainer() -> sf.Trainer:
        source = Source([*good(5), *["garbage"] * 1000, *good(5)])
        checkpoint = sf.Checkpointer(tmp_path)
        return sf.Trainer(
            model(), source, checkpoint=checkpoint, on_bad_sample=sf.DeadLetters("refused")
        )

    with pytest.raises(DeadLetterError, match="1000 dead letters"):
        trainer().run()
    report = trainer().run()
    assert (report.resumed_at, report.n_samples, report.n_bad) == (5, 10, 1000)


def test_dead_letters_need_somewhere_to_go(tmp_path: Path) -> None:
    for letters_ in (sf.DeadLetters(), sf.DeadLetters("topic")):
        with pytest.raises(ConfigurationError, match="KafkaSource"):
            sf.Trainer(model(), good(3), on_bad_sample=letters_)
    no_topic = KafkaSource("t", bootstrap_servers="localhost:1", decoder=decoder())
    with pytest.raises(ConfigurationError, match="dead_letter_topic"):
        sf.Trainer(model(), no_topic, on_bad_sample=sf.DeadLetters())
    for arguments in ({"topic": "t", "path": "p"}, {"topic": ""}, {"path": 3}, {"topic": 3}):
        with pytest.raises(ConfigurationError):
            sf.DeadLetters(**arguments)  # type: ignore[arg-type]


# --- the file


def test_a_line_that_a_crash_cut_short_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"
    samples: list[Any] = [*good(3), "garbage", *good(2)]

    def run() -> None:
        sf.Trainer(model(), samples, on_bad_sample=sf.DeadLetters(path=path)).run()

    run()
    (line,) = path.read_bytes().splitlines(keepends=True)
    for cut in range(len(line)):
        path.write_bytes(line + line[:cut])
        run()
        assert [letter["id"] for letter in letters(path)] == ["samples:0:3"] * 2
    path.write_bytes(b"something of mine")
    with pytest.raises(DeadLetterError, match="does not end like a file of dead letters"):
        run()
    assert path.read_bytes() == b"something of mine"


@pytest.mark.parametrize("cut", [5, 70_000, 600_000, -1])
def test_a_long_line_that_a_crash_cut_short_is_written_again(cut: int, tmp_path: Path) -> None:
    data, path = tmp_path / "clicks.jsonl", tmp_path / "letters.jsonl"
    data.write_bytes(b'{"a": 1.0, "y": 1, "z": "' + b"x" * 900_000 + b'"}\n')

    def run() -> None:
        source = JSONLinesSource(data, decoder())
        sf.Trainer(model(), source, on_bad_sample=sf.DeadLetters(path=path)).run()

    run()
    line = path.read_bytes()
    path.write_bytes(line + line[:cut])
    run()
    assert [letter["id"] for letter in letters(path)] == ["clicks.jsonl:0:0"] * 2


def test_a_disk_that_takes_a_part_loses_no_letter(tmp_path: Path) -> None:
    """The last write before a disk is full succeeds, with fewer bytes than it was given."""
    path = tmp_path / "letters.jsonl"
    path.write_bytes(b'{"id": "somebody else\'s"}\n')
    samples: list[Any] = [*good(3), *["garbage"] * 30]
    checkpoint = sf.Checkpointer(tmp_path / "state")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
    try:
        trainer = sf.Trainer(
            model(), samples, checkpoint=checkpoint, on_bad_sample=sf.DeadLetters(path=path)
        )
        with pytest.raises(DeadLetterError, match=r"30 dead letters.*too large"):
            trainer.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b'{"id": "somebody else\'s"}\n'
    assert checkpoint.latest() is None
    sf.Trainer(model(), samples, on_bad_sample=sf.DeadLetters(path=path)).run()
    assert [letter["id"] for letter in letters(path)[1:]] == [
        f"samples:0:{i}" for i in range(3, 33)
    ]


def test_a_full_disk_halts_before_the_position_passes(tmp_path: Path) -> None:
    """A dead letter that the disk refuses: a clear error, and no checkpoint past the sample."""
    samples: list[Any] = [*good(3), "garbage", *good(2)]
    trainer = sf.Trainer(
        model(),
        samples,
        checkpoint=sf.Checkpointer(tmp_path / "state"),
        on_bad_sample=sf.DeadLetters(path="/dev/full"),
    )
    with pytest.raises(DeadLetterError, match=r"1 dead letters to /dev/full.*No space"):
        trainer.run()
    assert sf.Checkpointer(tmp_path / "state").latest() is None


def test_a_sample_that_never_was_bytes_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"
    samples: list[Any] = [*good(3), ({"a": math.nan, "b": 0.0}, True)]
    sf.Trainer(model(), samples, on_bad_sample=sf.DeadLetters(path=path)).run()
    (letter,) = letters(path)
    assert letter["value"] is None
    assert letter["sample"] == "({'a': nan, 'b': 0.0}, True)"


def test_a_json_lines_file_gives_its_lines(tmp_path: Path) -> None:
    data, path = tmp_path / "clicks.jsonl", tmp_path / "letters.jsonl"
    data.write_bytes(b"".join(as_json(s) + b"\n" for s in good(3)) + b'{"a": \xff}\n')
    report = sf.Trainer(
        model(), JSONLinesSource(data, decoder()), on_bad_sample=sf.DeadLetters(path=path)
    ).run()
    assert (report.n_samples, report.n_bad) == (3, 1)
    assert letters(path)[0]["encoding"] == "base64"


# --- 41


def test_all_bad_storm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A stream that has gone bad halts, with its own exit code, and few lines in the log."""
    samples: list[Any] = [*good(50), *["garbage"] * 10_000]
    path = tmp_path / "letters.jsonl"

    def run() -> None:
        with sf.exit_codes():
            sf.Trainer(
                model(),
                samples,
                checkpoint=sf.Checkpointer(tmp_path / "state"),
                on_bad_sample=sf.DeadLetters(path=path),
                max_bad_ratio=0.2,
                bad_window=100,
            ).run()

    with caplog.at_level(logging.INFO, "streamfit"), pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == TooManyBadSamplesError.exit_code == 11
    assert isinstance(end.value.__cause__, TooManyBadSamplesError)
    assert "21 of the last 71 samples are bad" in str(end.value.__cause__)
    # what was passed is put aside, what was not comes again
    saved = sf.Checkpointer(tmp_path / "state").latest()
    assert saved is not None
    assert saved.position == {"samples:0": 70}
    assert [letter["offset"] for letter in letters(path)] == list(range(50, 70))
    assert len(caplog.records) < 10
    assert "event=halted exit_code=11 error=TooManyBadSamplesError" in caplog.text
    with pytest.raises(SystemExit):
        run()
    assert [letter["offset"] for letter in letters(path)] == list(range(50, 90))


@pytest.mark.parametrize(
    ("bad_every", "ratio", "window", "halts"),
    [(10, 0.1, 100, False), (10, 0.09, 100, True), (2, 0.5, 10, False), (50, 0.0, 1, True)],
)
def test_the_circuit_breaker_counts_over_its_window(
    bad_every: int, ratio: float, window: int, halts: bool
) -> None:
    samples: list[Any] = [
        "garbage" if i % bad_every == bad_every - 1 else sample
        for i, sample in enumerate(good(1000))
    ]
    trainer = sf.Trainer(
        model(), samples, on_bad_sample="skip", max_bad_ratio=ratio, bad_window=window
    )
    if halts:
        with pytest.raises(TooManyBadSamplesError):
            trainer.run()
    else:
        assert trainer.run().n_bad == 1000 // bad_every


def test_exactly_the_ratio_is_allowed() -> None:
    for n in range(100):
        samples: list[Any] = [*["garbage"] * n, *good(100 - n)] * 2
        policy = {"on_bad_sample": "skip", "max_bad_ratio": n / 100, "bad_window": 100}
        assert sf.Trainer(model(), samples, **policy).run().n_bad == 2 * n
        with pytest.raises(TooManyBadSamplesError):
            sf.Trainer(model(), ["garbage", *samples], **policy).run()


def test_a_storm_of_dead_letters_is_fast(tmp_path: Path) -> None:
    """They are acknowledged together, not one fsync each."""
    samples: list[Any] = ["garbage"] * 20_000
    path = tmp_path / "letters.jsonl"
    began = time.process_time()
    report = sf.Trainer(model(), samples, on_bad_sample=sf.DeadLetters(path=path)).run()
    assert time.process_time() - began < 5
    assert report.n_bad == len(letters(path)) == 20_000
