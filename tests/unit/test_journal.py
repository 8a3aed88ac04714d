"""The journal's bytes: what is written is read, and what was damaged is refused."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streamfit as sf
from streamfit import _journal_file
from streamfit._journal_file import (
    FLUSHES,
    REASONS,
    End,
    Entry,
    Epoch,
    Files,
    Flush,
    Mark,
    Segment,
    Skipped,
    decode,
    encode,
    read,
)
from streamfit.errors import CheckpointCorruptError, CheckpointMismatchError, StreamfitError
from streamfit.journal import Journal, entries
from streamfit.types import Action, Block

sources = st.text(max_size=8)
partitions = st.integers(-3, 300)
offsets = st.integers(0, 2**62)
segments = st.builds(
    lambda source, partition, start, n, holes: Segment(
        source, partition, start, start + n + holes, n
    ),
    *(sources, partitions, offsets, st.integers(1, 2**40), st.integers(0, 3)),
)
any_entry: st.SearchStrategy[Entry] = st.one_of(
    segments,
    st.builds(Skipped, sources, partitions, offsets, st.sampled_from(REASONS), st.booleans()),
    st.sampled_from([Flush(*flush) for flush in FLUSHES]),
    st.just(Epoch()),
    st.builds(
        Action,
        st.text(max_size=8),
        st.dictionaries(
            st.text(max_size=4),
            st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
            max_size=3,
        ),
    ),
    st.binary(min_size=4, max_size=4).map(lambda b: Mark(b.hex())),
)


@given(st.lists(any_entry, max_size=30))
def test_round_trip(written: list[Entry]) -> None:
    assert decode(encode(written)) == written


@given(st.binary(max_size=60))
def test_any_bytes_are_entries_or_refused(payload: bytes) -> None:
    try:
        found = decode(payload)
    except CheckpointCorruptError:
        return
    assert len(found) <= len(payload)


def test_a_segment_that_follows_on_takes_three_bytes() -> None:
    one = Segment("clicks", 0, 0, 500, 500)
    follows = Segment("clicks", 0, 500, 1000, 500)
    assert len(encode([one, follows])) - len(encode([one])) == 3


# ---- files


def write(folder: Path, payloads: list[bytes], max_bytes: int) -> list[End]:
    """Write payloads; return where the journal ended after each."""
    files = Files(folder, None, max_bytes)
    ends = []
    for payload in payloads:
        files.append(payload)
        ends.append(files.sync())
    files.close()
    return ends


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@given(
    payloads=st.lists(st.binary(max_size=40), min_size=1, max_size=8),
    max_bytes=st.integers(1, 120),
    data=st.data(),
)
def test_rotation_and_cutting_back(
    folder: Path, payloads: list[bytes], max_bytes: int, data: st.DataObject
) -> None:
    ends = write(emptied(folder), payloads, max_bytes)
    for end, n in zip(ends, range(1, len(payloads) + 1), strict=True):
        assert list(read(folder, end)) == payloads[:n]
    assert all(p.stat().st_size < max_bytes + 24 + 12 + 40 for p in folder.iterdir())
    kept = data.draw(st.integers(1, len(payloads)))
    files = Files(folder, ends[kept - 1], max_bytes)
    for payload in [b"other", *payloads]:
        files.append(payload)
    end = files.sync()
    files.close()
    assert list(read(folder, end)) == [*payloads[:kept], b"other", *payloads]
    for later in ends[kept:]:  # what was cut off does not come back
        with pytest.raises(CheckpointCorruptError):
            list(read(folder, later))


PAYLOADS = [b"first", b"second", b"", b"fourth frame"]


def damaged(folder: Path) -> Iterator[str]:
    """Damage the journal in every way, one after the other; say how."""
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for n in range(len(content)):
            path.write_bytes(content[:n])
            yield f"{path.name} cut to {n}"
        for bit in range(8 * len(content)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            yield f"{path.name} bit {bit}"
        path.unlink()
        yield f"{path.name} missing"
        path.write_bytes(content)
    first, second, *_ = sorted(folder.iterdir())
    contents = first.read_bytes(), second.read_bytes()
    first.write_bytes(contents[1])
    second.write_bytes(contents[0])
    yield "exchanged"


def test_every_truncation_and_every_flipped_bit_is_found(tmp_path: Path) -> None:
    end = write(tmp_path, PAYLOADS, 50)[-1]
    assert end.file == 2
    for how in damaged(tmp_path):
        try:
            list(read(tmp_path, end))
        except CheckpointCorruptError:
            continue
        pytest.fail(how)


def test_what_follows_the_end_does_not_matter(tmp_path: Path) -> None:
    end = write(tmp_path, PAYLOADS, 1000)[-1]
    with next(tmp_path.iterdir()).open("ab") as file:
        file.write(b"torn")
    assert list(read(tmp_path, end)) == PAYLOADS
    Files(tmp_path, end, 1000).close()
    assert next(tmp_path.iterdir()).stat().st_size == end.length


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"file": 0, "length": 1, "checksum": "00" * 8},
        {"file": 1, "length": "1", "checksum": "00" * 8},
        {"file": 1, "length": 1, "checksum": "00"},
        {"file": 1, "length": 1, "checksum": "zz" * 8},
    ],
)
def test_a_checkpoint_without_a_journal_is_refused(tmp_path: Path, state: Any) -> None:
    with pytest.raises(CheckpointMismatchError, match="no journal"):
        Journal(tmp_path, sf.LinearRegression()).resume(state)


# ---- the writer


def test_blocks_of_one_partition_are_one_segment(tmp_path: Path) -> None:
    model = sf.LinearRegression()
    journal = Journal(tmp_path, model)
    journal.begin()
    for partition, start, stop in [(0, 0, 5), (0, 5, 9), (1, 0, 3), (0, 9, 10), (0, 12, 14)]:
        block = Block([{}] * 20, [0.0] * 20, source="t", partition=partition, offsets=range(20))
        journal.before(block)
        journal.learned(block, start, stop)
    end = End.from_state(journal.save())
    journal.close()
    found = [entry for payload in read(tmp_path, end) for entry in decode(payload)]
    assert [entry for entry in found if isinstance(entry, Segment)] == [
        Segment("t", 0, 0, 9, 9),
        Segment("t", 1, 0, 3, 3),
        Segment("t", 0, 9, 14, 3),
    ]
    assert isinstance(found[0], Mark)
    assert isinstance(found[-1], Mark)


def test_nothing_is_recorded_without_a_directory() -> None:
    journal = Journal(None, sf.LinearRegression())
    journal.begin()
    journal.flush("max_wait", "apply")
    journal.epoch()
    assert journal.save() is None
    journal.close()


SAMPLES = [({"x": i / 50}, i % 3 == 0) for i in range(50)]


def train(state: Path, n: int | None = None, **options: Any) -> sf.TrainingReport:
    model = sf.LogisticRegression(batch_size=3)
    checkpoint = sf.Checkpointer(state, **options)
    return sf.Trainer(model, SAMPLES, checkpoint=checkpoint, max_samples=n).run()


def test_a_fallback_to_an_older_checkpoint_cuts_the_journal_back(tmp_path: Path) -> None:
    train(tmp_path, 20)
    train(tmp_path, 40)
    newest = sf.Checkpointer(tmp_path).list()[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    assert sum(e.n for e in entries(tmp_path) if isinstance(e, Segment)) == 20
    report = train(tmp_path)
    assert report.resumed_at == 20
    found = sf.journal.verify(tmp_path, SAMPLES)
    assert (found.equal, found.n_samples) == (True, 50)


@pytest.mark.parametrize("damage", ["short", "flipped", "missing"])
def test_a_damaged_journal_stops_the_resuming_run(tmp_path: Path, damage: str) -> None:
    train(tmp_path, 20)
    (file,) = tmp_path.glob("journal-*.bin")
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        last = content[-1] ^ 1
        file.write_bytes(content[:-1] + (bytes([last]) if damage == "flipped" else b""))
    for attempt in (train, lambda state: sf.journal.verify(state, SAMPLES)):
        with pytest.raises(CheckpointCorruptError, match="the journal .* is corrupt"):
            attempt(tmp_path)


def test_a_journal_that_no_checkpoint_knows_is_begun_again(tmp_path: Path) -> None:
    end = write(tmp_path, [b"left by a run that died before its first checkpoint"], 10)[-1]
    assert asdict(end)["file"] == 1
    train(tmp_path)
    assert sf.journal.verify(tmp_path, SAMPLES).equal


def test_every_file_of_a_hostile_directory_is_refused_or_read(tmp_path: Path) -> None:
    header = b"streamfit journal 1\n" + (1).to_bytes(4, "little")
    for tail in (b"\xff" * 12, b"\xff\xff\xff\x00" + bytes(8), bytes(12), b"\x01"):
        (tmp_path / "journal-00000001.bin").write_bytes(header + tail)
        with pytest.raises(StreamfitError):
            list(read(tmp_path, End(1, len(header) + len(tail), "00" * 8)))


def test_a_journal_of_format_1_goes_on_in_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as old:
        old.setattr(_journal_file, "_MAGIC", b"streamfit journal 1\n")
        train(tmp_path, 20)
    assert sf.journal.verify(tmp_path, SAMPLES).n_samples == 20
    train(tmp_path)
    files = sorted(tmp_path.glob("journal-*.bin"))
    assert [file.read_bytes()[:20] for file in files] == [
        b"streamfit journal 1\n",
        b"streamfit journal 2\n",
    ]
    found = sf.journal.verify(tmp_path, SAMPLES)
    assert (found.equal, found.n_samples) == (True, 50)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x16\x02[]",  # a third kind of epoch
        b"\x0e\x02[]",
        b"\x0e\x05[1,2]",
        b'\x0e\x06["a",]',
        b'\x0e\x0a["a",{}]',
        b"\x0e\x7f" + b"[" * 0x7F,
        b"\x0e\xa0\x8d\x06" + b"[" * 100_000,
    ],
)
def test_what_is_no_action_is_refused(payload: bytes) -> None:
    with pytest.raises(CheckpointCorruptError):
        decode(payload)
