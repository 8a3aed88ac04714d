"""Checkpoints, journals and messages are anybody's bytes: refused or right, never anything else.

What is forged here has right checksums, so that the parsers behind them are reached. With
`HYPOTHESIS_PROFILE=nightly` each parser gets 100,000 inputs in its two tests together.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamfit as sf
from connectors import JSONDecoder
from streamfit._checkpoint_file import encode, read
from streamfit._journal_file import _CHECKSUM, _MAGIC, End, _chained
from streamfit._journal_file import decode as decode_journal
from streamfit._journal_file import encode as encode_journal
from streamfit._journal_file import read as read_journal
from streamfit.errors import (
    BadSampleError,
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    DecodeError,
    StreamfitError,
)
from streamfit.journal import Epoch, Flush, Mark, Segment, Skipped
from streamfit.verification import end_of

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


def fuzz(ci: int, nightly: int) -> settings:
    return settings(
        max_examples=nightly if NIGHTLY else ci,
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )


pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Keep the thousands of lines about bad samples out of the report."""
    logger = logging.getLogger("streamfit")
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)


Edit = tuple[str, int, bytes]
edits: st.SearchStrategy[list[Edit]] = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "copy", "cut"]),
        st.integers(0, 2**16),
        st.binary(min_size=1, max_size=8),
    ),
    max_size=5,
)


def edited(content: bytes, steps: list[Edit]) -> bytes:
    """Damage some bytes, as `edits` says."""
    out = bytearray(content)
    for kind, where, some in steps:
        at = where % (len(out) + 1)
        if kind == "flip":
            out[at : at + len(some)] = bytes(
                a ^ b for a, b in zip(out[at : at + len(some)], some, strict=False)
            )
        elif kind == "insert":
            out[at:at] = some
        elif kind == "delete":
            del out[at : at + 8 * len(some)]
        elif kind == "copy":
            out[at:at] = out[: 8 * len(some)]
        else:
            del out[at:]
    return bytes(out)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["features", 1e308, -0.0, 2**63 - 1]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)


# ---- checkpoints


def model() -> sf.LogisticRegression:
    return sf.LogisticRegression(sf.optim.Adam(0.1), batch_size=4)


def trained(folder: Path) -> bytes:
    """Return the file of a run of nine samples, one of them bad."""
    samples: list[Any] = [({"a": i / 9, "b": 1.0}, i % 2 == 0) for i in range(9)]
    samples[5] = "garbage"
    checkpoint = sf.Checkpointer(folder)
    sf.Trainer(
        model(), samples, checkpoint=checkpoint, on_bad_sample="skip", last_batch="carry"
    ).run()
    (file,) = checkpoint.list()
    return file.read_bytes()


def forge(header: bytes, body: bytes) -> bytes:
    """Make a file with any header at all, and a right checksum if it has a place for one."""
    content = len(header).to_bytes(8, "little") + header + body
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], bytes]:
    """Header, with the digest blanked, and body of a good checkpoint."""
    content = trained(tmp_path_factory.mktemp("original"))
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["sha256"] = "0" * 64
    return header, content[8 + size :]


def use(file: Path) -> str:
    """Read a file as far as a resuming trainer would; only the right errors may come."""
    try:
        checkpoint = read(file)
    except (CheckpointCorruptError, CheckpointMismatchError):
        return "refused"
    learner = model()
    before = learner.digest()
    try:
        end_of(checkpoint.trainer.get("journal"))
        learner.load_state_dict(checkpoint.model)
    except CheckpointMismatchError:
        assert learner.digest() == before
        return "mismatch"
    learner.learn_one({"a": 1.0}, True)
    assert np.isfinite([*learner.weights.values()]).all()
    return "loaded"


@fuzz(300, nightly=70_000)
@given(steps=edits, raw=st.none() | st.binary(max_size=200))
def test_checkpoint_of_any_bytes(
    steps: list[Edit], raw: bytes | None, original: tuple[dict[str, Any], bytes], fuzz_file: Path
) -> None:
    """Damaged without care: nothing that differs in a bit is read."""
    header, body = original
    content = forge(json.dumps(header, separators=(",", ":")).encode(), body)
    damaged = edited(content, steps) if raw is None else raw
    fuzz_file.write_bytes(damaged)
    assert use(fuzz_file) == ("loaded" if damaged == content else "refused")


@fuzz(300, nightly=30_000)
@given(
    steps=edits,
    body_steps=edits,
    changes=st.lists(
        st.tuples(
            st.sampled_from(["model", "trainer", "position", "config", "number", "created", "top"]),
            st.integers(0, 30),
            JSON,
        ),
        max_size=3,
    ),
    dtype=st.sampled_from(["F64", "F64", "F32", "I64", "BOOL", "U8", "BF16", "F8_E4M3", "?"]),
)
def test_checkpoint_forged(
    steps: list[Edit],
    body_steps: list[Edit],
    changes: list[tuple[str, int, Any]],
    dtype: str,
    original: tuple[dict[str, Any], bytes],
    fuzz_file: Path,
) -> None:
    """Damaged with care: the checksum is right, the parts are not."""
    header, body = json.loads(json.dumps(original[0])), original[1]
    parts = json.loads(header["__metadata__"]["streamfit"])
    for part, which, value in changes:
        if isinstance(parts.get(part), dict) and parts[part]:
            name = sorted(parts[part])[which % len(parts[part])]
            parts[part][name] = value
        else:
            parts[part] = value
    header["__metadata__"]["streamfit"] = json.dumps(parts)
    header["parameters"]["dtype"] = dtype
    text = edited(
        json.dumps(header, separators=(",", ":")).encode(), steps[:1] if changes else steps
    )
    fuzz_file.write_bytes(forge(text, edited(body, body_steps[:2])))
    use(fuzz_file)


@settings(max_examples=10_000 if NIGHTLY else 40, suppress_health_check=list(HealthCheck))
@given(
    part=st.sampled_from(["model", "trainer", "position", "config"]),
    which=st.integers(0, 30),
    value=JSON,
)
def test_a_trainer_resumes_from_a_forged_checkpoint_or_says_why_not(
    part: str, which: int, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("forged")
    trained(folder)
    (file,) = folder.glob("checkpoint-*")
    checkpoint = read(file)
    target = getattr(checkpoint, part)
    target[sorted(target)[which % len(target)]] = value
    try:
        file.write_bytes(encode(checkpoint))
    except CheckpointError:
        return
    samples = [({"a": i / 9, "b": 1.0}, i % 2 == 0) for i in range(20)]
    trainer = sf.Trainer(model(), samples, checkpoint=sf.Checkpointer(folder), on_bad_sample="skip")
    try:
        trainer.run()
    except StreamfitError:
        return
    assert np.isfinite([*trainer.model.weights.values()]).all()  # type: ignore[attr-defined]


# ---- journals

ENTRIES = [
    Mark("00000000"),
    Segment("samples", 0, 0, 5, 5),
    Skipped("samples", 0, 5, "BadSampleError", True),
    Segment("samples", 0, 6, 9, 3),
    Flush("epoch end", "apply"),
    Epoch(),
    Segment("clicks", 3, 10, 30, 12),
    Mark("0a0b0c0d"),
]


def forge_journal(folder: Path, payloads: list[bytes]) -> End:
    """Write a journal with any payloads at all, and right checksums."""
    header = _MAGIC + (1).to_bytes(4, "little")
    chain, content = _chained(bytes(_CHECKSUM), header), header
    for payload in payloads:
        chain = _chained(chain, payload)
        content += len(payload).to_bytes(4, "little") + chain + payload
    (folder / "journal-00000001.bin").write_bytes(content)
    return End(1, len(content), chain.hex())


@fuzz(300, nightly=50_000)
@given(steps=edits, raw=st.none() | st.binary(max_size=200))
def test_journal_of_any_bytes(steps: list[Edit], raw: bytes | None) -> None:
    """Whatever the payload says, it is entries or refused, in memory no larger than itself."""
    payload = edited(encode_journal(ENTRIES), steps) if raw is None else raw
    try:
        found = decode_journal(payload)
    except CheckpointCorruptError:
        return
    assert len(found) <= len(payload)
    assert decode_journal(encode_journal(found)) == found


@fuzz(300, nightly=50_000)
@given(steps=edits)
def test_journal_file_of_any_bytes(steps: list[Edit], fuzz_file: Path) -> None:
    end = forge_journal(fuzz_file.parent, [encode_journal(ENTRIES), encode_journal(ENTRIES[:4])])
    file = fuzz_file.parent / "journal-00000001.bin"
    content = file.read_bytes()
    damaged = edited(content, steps)
    file.write_bytes(damaged)
    try:
        found = [decode_journal(payload) for payload in read_journal(fuzz_file.parent, end)]
    except CheckpointCorruptError:
        assert damaged[: end.length] != content
        return
    assert found == [ENTRIES, ENTRIES[:4]]


@settings(max_examples=10_000 if NIGHTLY else 60, suppress_health_check=list(HealthCheck))
@given(steps=edits, first=st.booleans())
def test_a_forged_journal_is_verified_or_refused(
    steps: list[Edit], first: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A journal may tell of samples and epochs that never were; the replay ends all the same."""
    folder = tmp_path_factory.mktemp("forged")
    trained(folder)
    (file,) = folder.glob("checkpoint-*")
    checkpoint = read(file)
    mark = Mark.of(model().digest())
    payload = edited(encode_journal(ENTRIES[1:]), steps)
    end = forge_journal(folder, [encode_journal([mark]) if first else b"", payload])
    checkpoint.trainer["journal"] = {"file": 1, "length": end.length, "checksum": end.checksum}
    file.write_bytes(encode(checkpoint))
    samples = [({"a": i / 9, "b": 1.0}, i % 2 == 0) for i in range(9)]
    try:
        sf.journal.verify(folder, samples)
    except StreamfitError:
        return


# ---- messages

MESSAGE = b'{"a": 1.5, "b": -2, "c": true, "label": 1, "weight": 0.5}'


@fuzz(300, nightly=80_000)
@given(steps=edits, raw=st.none() | st.binary(max_size=100))
def test_message_of_any_bytes(steps: list[Edit], raw: bytes | None) -> None:
    take(edited(MESSAGE, steps) if raw is None else raw)


@fuzz(200, nightly=20_000)
@given(JSON | st.dictionaries(st.sampled_from(["a", "b", "label", "weight"]), JSON))
def test_message_of_any_json(value: Any) -> None:
    take(json.dumps(value).encode())


def take(value: bytes) -> None:
    """Check that a sample comes out which the learner takes or refuses by name; nothing else."""
    decoder = JSONDecoder("label", weight="weight", max_bytes=150, max_fields=6)
    learner = model()
    before = learner.digest()
    try:
        x, y, w = decoder(value)
    except DecodeError:
        return
    assert len(value) <= 150
    assert len(x) <= 6
    try:
        learner.learn_one(x, y, 1.0 if w is None else w)
    except BadSampleError:
        assert learner.digest() == before
    else:
        assert np.isfinite([*learner.weights.values()]).all()


@pytest.fixture(scope="module")
def fuzz_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file.safetensors"
