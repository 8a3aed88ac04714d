"""Records that are read straight into a table are the samples that parsing each of them gives."""

from __future__ import annotations

import copy
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

import streamfit as sf
from connectors import JSONDecoder
from connectors.codecs._same_records import TabledSamples
from streamfit.errors import BadSampleError
from streamfit.types import Block, HoldsTable
from tests.properties.test_decoding import OneByOne, block_of, told

pytestmark = pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")

NAMES = ["a", "b", "c", "label", "weight"]

plain = st.one_of(
    st.floats(-10, 10, allow_subnormal=False).map(repr),
    st.integers(-5, 5).map(str),
    st.sampled_from(["true", "false", "-0", "-0.0", "1E2", "2e-3", "0.30000000000000004"]),
)
strange = st.one_of(
    st.floats(allow_nan=True).map(repr),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(
        [
            *("null", '"x"', '""', '"\\u0041"', '"\xe9"', '"a\\"b"', '"\x7f"', '"\t"', "NaN", "-"),
            *("[]", "[1]", "{}", '{"a":1}', "01", "1.", ".5", "+1", "1e400", "1e-400", "5e-324"),
            *("tru", "True", "truefalse", "1 ", " 1", "1}", "1,", '1,"a":2', "", "9" * 25),
            *("9007199254740993", "-9007199254740993", "18446744073709551616", "-Infinity"),
        ]
    ),
)
names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=6)
spaces = st.sampled_from(["", " ", "\n", "\t "])


@st.composite
def records(draw: st.DrawFn) -> list[bytes | None]:
    """Draw records that look alike, but for a few."""
    shape = draw(st.permutations(NAMES) if draw(st.integers(0, 3)) else names)
    before, between, behind = draw(spaces), draw(spaces), draw(spaces)

    def record(shape: list[str], values: list[str]) -> bytes:
        fields = (f'"{n}"{before}:{between}{v}' for n, v in zip(shape, values, strict=True))
        return (behind + "{" + ("," + between).join(fields) + "}" + behind).encode()

    n = draw(st.integers(1, 6))
    odd = draw(
        st.sets(st.integers(0, n - 1), max_size=2) if draw(st.booleans()) else st.just(set())
    )
    found: list[bytes | None] = []
    for i in range(n):
        its, value = shape, plain
        if i in odd:
            its = draw(st.just(shape) | names)
            value = plain | strange
        one = record(its, [draw(value) for _ in its])
        if i in odd and draw(st.booleans()):
            one = draw(
                st.sampled_from([one[:-1], one + b"}", one + b"\x00", b"\xef\xbb\xbf" + one, b""])
            )
        found.append(None if i in odd and draw(st.integers(0, 9)) == 0 else one)
    return found


decoders = st.builds(
    JSONDecoder,
    target=st.just("label"),
    weight=st.sampled_from([None, "weight"]),
    features=st.sampled_from([None, ["a"], ["c", "a", "more"]]),
    max_bytes=st.sampled_from([10_000, 10_000, 70]),
    max_fields=st.sampled_from([100, 100, 4]),
)


def bits(number: float) -> bytes:
    return struct.pack("d", number)


@given(decoders, st.lists(records(), min_size=1, max_size=3))
def test_what_is_read_together_is_what_is_read_one_by_one(
    decoder: JSONDecoder, polls: list[list[bytes | None]]
) -> None:
    for values in polls:
        block = block_of(decoder, values)
        if isinstance(block.x, HoldsTable):
            event("read into a table")
            table, columns = block.x.table, list(block.x.names)
            assert table is not None
            for row, x in zip(table.tolist(), block.x, strict=True):
                assert list(x) == columns
                assert [bits(value) for value in row] == [bits(float(v)) for v in x.values()]
            assert block.x.table is None
        assert told(block) == told(block_of(OneByOne(decoder), values))


@given(decoders, records(), records())
def test_a_decoder_that_was_sent_elsewhere_reads_the_same(
    decoder: JSONDecoder, first: list[bytes | None], second: list[bytes | None]
) -> None:
    decoder.decode_many(first)
    for other in (copy.copy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert told(block_of(other, second)) == told(block_of(decoder, second))


@given(
    st.permutations(NAMES), st.lists(st.tuples(*[plain] * len(NAMES)), min_size=1), spaces, spaces
)
def test_records_that_differ_in_their_numbers_alone_are_read_into_a_table(
    shape: list[str], rows: list[tuple[str, ...]], before: str, behind: str
) -> None:
    decoder = JSONDecoder("label", "weight")
    values: list[bytes | None] = [
        "{{{}}}".format(
            ",".join(f'"{name}"{before}:{v}{behind}' for name, v in zip(shape, row, strict=True))
        ).encode()
        for row in rows
    ]
    xs, _, _ = decoder.decode_many(values) or ([], [], None)
    assert isinstance(xs, HoldsTable)
    assert list(xs.names) == [name for name in shape if name in "abc"]


def test_fields_that_are_no_features_may_hold_plain_texts() -> None:
    decoder = JSONDecoder("label", features=["b", "a"])
    values: list[bytes | None] = [
        b'{"id": "x-1", "a": 1, "when": null, "b": 2.5, "label": "cat"}',
        b'{"id": "y/2", "a": 7, "when": 4, "b": -1e3, "label": "dog"}',
    ]
    xs, ys, _ = decoder.decode_many(values) or ([], [], None)
    assert isinstance(xs, HoldsTable)
    assert xs.table is not None
    assert xs.table.tolist() == [[2.5, 1.0], [-1000.0, 7.0]]
    assert ys == ["cat", "dog"]
    assert xs == [{"b": 2.5, "a": 1}, {"b": -1000.0, "a": 7}]


def test_samples_that_are_looked_at_are_parsed_as_dicts_from_then_on() -> None:
    decoder = JSONDecoder("label")
    values: list[bytes | None] = [b'{"a": 1, "label": 0}', b'{"a": 2, "label": 1}'] * 5
    for _ in range(2):
        xs, _, _ = decoder.decode_many(values) or ([], [], None)
        assert isinstance(xs, HoldsTable)
        assert xs[-1] is xs[9]  # one of ten
        with pytest.raises(IndexError):
            xs[10]
    assert len(list(xs)) == 10
    again, _, _ = decoder.decode_many(values) or ([], [], None)
    assert type(again) is list
    assert again == xs


def test_what_was_done_to_a_sample_is_learned() -> None:
    xs, ys, _ = JSONDecoder("label").decode_many([b'{"a": 1, "label": 0}'] * 3) or ([], [], None)
    xs[1]["a"] = 5.0
    ours, theirs = sf.LinearRegression(), sf.LinearRegression()
    ours.learn_block(Block(xs, ys, offsets=range(3)), 0, 3)
    for a in (1, 5.0, 1):
        theirs.learn_one({"a": a}, 0)
    assert ours.digest() == theirs.digest()


def learner(options: dict[str, Any], names: list[str]) -> Any:
    """Make a learner that knows some names."""
    kind = sf.SoftmaxRegression if options.pop("classes", False) else sf.LogisticRegression
    if isinstance(options.get("features"), sf.HashedFeatures):
        options.pop("scaler", None)  # which does not go together
    model = kind(sf.optim.Adam(0.05), **options)
    model.track_loss = True
    if names:
        model.learn_one(dict.fromkeys(names, 0.5), True)
    return model


def learned(model: Any, block: Block, cuts: list[int]) -> Any:
    """Learn a block in pieces, past its bad samples; return all that can be told."""
    predictors = model.new_predictors(block)
    errors = []
    for start, stop in zip([0, *cuts], [*cuts, len(block)], strict=True):
        done = start
        while done < stop:
            before = model.n_samples
            try:
                model.learn_block(block, done, stop, predictors)
                break
            except BadSampleError as error:
                done += model.n_samples - before
                errors.append((done, str(error)))
                predictors[done] = 0.0
                done += 1
    state = model.state_dict()
    return (
        errors,
        predictors.tobytes(),
        model.digest(),
        {name: np.asarray(value).tolist() for name, value in state.items()},
        (model.loss_sum, model.loss_weight),
    )


numbers = st.floats(-5, 5) | st.integers(-3, 3) | st.booleans()


@given(
    st.lists(st.permutations(["a", "b", "c"]), min_size=1, max_size=3),
    st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=8),
    st.data(),
    st.fixed_dictionaries(
        {},
        optional={
            "batch_size": st.integers(1, 3),
            "scaler": st.just(sf.StandardScaler()),
            "dtype": st.just("float32"),
            "features": st.sampled_from(["fixed", sf.HashedFeatures(4)]),
            "classes": st.booleans(),
        },
    ),
    st.sampled_from(
        [[], ["b"], ["c", "a", "b"], ["c", "d", "b", "a"], [f"x{i}" for i in range(20)]]
    ),
)
def test_a_table_is_learned_as_its_dicts(
    orders: list[list[str]],
    rows: list[tuple[Any, Any, Any]],
    data: st.DataObject,
    options: dict[str, Any],
    known: list[str],
) -> None:
    ours, theirs = (learner(copy.deepcopy(options), known) for _ in range(2))
    for order in orders:
        xs = [dict(zip(order, row, strict=True)) for row in rows]
        n = len(xs)
        labels = data.draw(
            st.lists(
                st.booleans() | st.sampled_from([0, 1, 1.0, 0.0, 2, 0.5, "no"]),
                min_size=n,
                max_size=n,
            )
        )
        weights = data.draw(
            st.none() | st.lists(st.sampled_from([1.0, 2, 0, -1]), min_size=n, max_size=n)
        )
        cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=2)))
        table = np.array([list(x.values()) for x in xs], dtype=np.float64)
        tabled = TabledSamples(table, order, range(n), lambda i, xs=xs: dict(xs[i]))  # type: ignore[misc]
        offsets = range(10, 10 + n)
        a = learned(ours, Block(tabled, labels, weights, offsets=offsets), cuts)
        b = learned(theirs, Block(xs, labels, weights, offsets=offsets), cuts)
        assert a == b


@pytest.mark.parametrize(
    "record",
    [
        b'{"a":{},"b":1,"a":3,"label":1}',  # a name that is there twice, first without a token
        b'{"label":[],"a":1,"label":3}',
        b'{"a":1,"label":9007199254740993}',  # which no double tells from its neighbour
        b'{"a":1,"label":-9007199254740993}',
        b'{"a":1,"label":9007199254740992}',
        b'{"t":"\\"a\\":1","a":1,"label":2}',
    ],
)
def test_records_that_are_nearly_rows(record: bytes) -> None:
    decoder = JSONDecoder("label", features=["a", "b"])
    decoded = decoder.decode_many([record, record])
    assert decoded is not None
    xs, ys, _ = decoded
    x, y, _ = decoder(record)
    assert (list(xs), ys) == ([x, x], [y, y])
    assert list(map(type, ys)) == [type(y)] * 2


def test_a_decoder_without_a_bound_and_values_of_other_types() -> None:
    decoder = JSONDecoder("label", max_bytes=10**20)
    record = b'{"a":1,"label":3}'
    for value in (record, memoryview(record), bytearray(record)):
        decoded = decoder.decode_many([value])  # type: ignore[list-item]
        assert decoded is not None
        assert (list(decoded[0]), decoded[1]) == ([{"a": 1}], [3])
        copy.deepcopy(decoder)
