"""Decoding, or splitting, samples together gives what one by one gives, errors included."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors import JSONDecoder, KafkaSource
from connectors.kafka.protocol import Records
from streamfit._kernels import split_tuples
from streamfit.errors import DecodeError
from streamfit.sources import _split
from streamfit.types import Block, DecodesMany

FIELDS = ["a", "b", "label", "weight"]

numbers = st.one_of(
    st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False)
)
samples = st.fixed_dictionaries(
    {"label": st.one_of(numbers, st.text("xyz"))},
    optional={"a": numbers, "b": numbers, "weight": st.integers(0, 3) | st.floats(0, 3)},
).map(lambda x: json.dumps(x).encode())
broken = st.one_of(
    st.none(),
    st.binary(max_size=20),
    st.sampled_from([b"[1]", b"{}", b'{"label": null}', b'{"label": 1}, {"label": 2}', b'{"a": 1']),
    st.dictionaries(
        st.sampled_from(FIELDS), st.none() | st.lists(numbers, max_size=1) | numbers
    ).map(lambda x: json.dumps(x).encode()),
)
decoders = st.builds(
    JSONDecoder,
    target=st.just("label"),
    weight=st.sampled_from([None, "weight"]),
    features=st.sampled_from([None, ["a"], ["b", "a"]]),
    max_bytes=st.sampled_from([30, 10_000]),
    max_fields=st.sampled_from([2, 100]),
)


class OneByOne:
    """The same decoder without its fast path."""

    def __init__(self, decoder: JSONDecoder) -> None:
        self.decoder = decoder

    def __call__(self, value: bytes | None) -> tuple[Any, Any, float | None]:
        return self.decoder(value)


def block_of(decoder: Any, values: list[bytes | None]) -> Block:
    """Return what `KafkaSource` makes of records that a poll has brought."""
    source = KafkaSource("topic", bootstrap_servers="127.0.0.1:1", decoder=decoder)
    source._feed.next = {3: 10}
    source._feed._moved_at = {3: 0.0}
    n = len(values)
    block = source._block(Records(3, list(range(10, 10 + n)), values, [None] * n), None)
    assert block is not None
    assert source.position() == {"topic:3": 10 + n}
    return block


def told(block: Block) -> Any:
    """Return all of a block, types and errors included, in a comparable form."""
    errors = {i: (type(error), str(error)) for i, error in block.errors.items()}
    return repr((block.x, block.y, block.w, block.offsets, errors, list(block.raw or ())))


@given(decoders, st.lists(samples | broken, min_size=1, max_size=6))
@example(JSONDecoder("label"), [b'{"label": 1},{"label": 2}', b'{"label": 3', b'"b": 4}'])
def test_a_block_decoded_together_is_the_block_decoded_one_by_one(
    decoder: JSONDecoder, values: list[bytes | None]
) -> None:
    assert told(block_of(decoder, values)) == told(block_of(OneByOne(decoder), values))


@given(decoders, st.lists(samples, min_size=1, max_size=6))
def test_decoding_together_is_used_for_good_records(
    decoder: JSONDecoder, values: list[bytes | None]
) -> None:
    assert isinstance(decoder, DecodesMany)
    try:
        each = [decoder(value) for value in values]
    except DecodeError:  # a sample without the weight
        assert decoder.decode_many(values) is None
        return
    xs, ys, ws = decoder.decode_many(values) or ([], [], None)
    weights = [None] * len(xs) if ws is None else ws
    assert repr(list(zip(xs, ys, weights, strict=True))) == repr(each)


def test_a_decoder_that_overrides_decoding_is_asked_for_each_record() -> None:
    class Doubling(JSONDecoder):
        def __call__(self, value: bytes | None) -> tuple[dict[str, Any], Any, float | None]:
            x, y, w = super().__call__(value)
            return {name: 2 * number for name, number in x.items()}, y, w

    assert block_of(Doubling("label"), [b'{"a": 1, "label": 0}']).x == [{"a": 2}]


@pytest.mark.parametrize("bad", [None, b"", b'{"label": []}'])
def test_one_bad_record_among_good_ones_is_named(bad: bytes | None) -> None:
    good: bytes = b'{"a": 1, "label": 0}'
    block = block_of(JSONDecoder("label"), [good, bad, good])
    assert list(block.errors) == [1]
    assert (block.errors[1].partition, block.errors[1].offset) == (3, 11)
    assert block.x == [{"a": 1}, {}, {"a": 1}]


@given(
    st.lists(
        st.tuples(st.dictionaries(st.sampled_from("ab"), numbers), numbers)
        | st.tuples(st.none(), numbers, numbers)
        | st.lists(numbers, max_size=3)
        | st.sampled_from([None, 7, "xy", ()]),
        min_size=1,
        max_size=5,
    )
)
def test_tuples_are_split_as_other_samples_are(batch: list[Any]) -> None:
    errors: dict[int, Any] = {}
    xs, ys, ws = _split(batch, 0, errors)
    together = split_tuples(batch)
    if together is None:
        lengths = {len(sample) if type(sample) is tuple else 0 for sample in batch}
        assert lengths not in ({2}, {3})
    else:
        assert together == (xs, ys, ws)
        assert not errors
