from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.codecs.json import JSONDecoder
from streamfit.errors import ConfigurationError, DecodeError

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
numbers = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
)


@given(
    x=st.dictionaries(names, numbers),
    y=st.one_of(numbers, st.text(st.characters(exclude_categories=["Cs"]))),
    w=numbers,
)
def test_round_trip(x, y, w):
    x = {f"f_{name}": value for name, value in x.items()}
    record = json.dumps({**x, "label": y, "weight": w}).encode()
    assert JSONDecoder("label", weight="weight")(record) == (x, y, w)


@given(st.binary())
def test_arbitrary_bytes_raise_nothing_but_decode_errors(record):
    with pytest.raises(DecodeError):
        JSONDecoder("label")(record)


json_values = st.recursive(
    st.one_of(st.none(), numbers, st.text()),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["label", "w", "a"]), inner),
)


@given(json_values)
def test_arbitrary_json_gives_a_sample_or_a_decode_error(value):
    try:
        x, y, w = JSONDecoder("label", weight="w")(json.dumps(value).encode())
    except DecodeError:
        return
    assert set(x) <= {"a"}
    assert isinstance(y, int | float | str)
    assert isinstance(w, int | float)


def test_features_chosen():
    decode = JSONDecoder("y", features=["a", "b"])
    assert decode(b'{"b": 1, "c": 2, "y": 0}') == ({"b": 1}, 0, None)


def test_last_of_duplicate_keys_wins():
    assert JSONDecoder("y")(b'{"a": 1, "a": 2, "y": 0, "y": 1}') == ({"a": 2}, 1, None)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (None, "tombstone"),
        (b"", "not JSON"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"y": 1', "not JSON"),
        (b'{"y": NaN}', "not JSON"),
        (b'{"y": 1, "a": 1e999}', "infinity"),
        (b"[" * 100_000, "depth"),
        (b"[1, 2]", "not a JSON object but an array"),
        (b"17", "not a JSON object but a number"),
        (b"null", "not a JSON object but null"),
        (b'{"a": 1}', "target 'y' is missing"),
        (b'{"a": 1, "y": null}', "target 'y' is null"),
        (b'{"a": 1, "y": [1]}', "target 'y' is an array"),
        (b'{"a": 1, "y": 1}', "weight 'w' is missing"),
        (b'{"a": 1, "y": 1, "w": "2"}', "weight 'w' is a string"),
    ],
)
def test_refusals_say_why(record, reason):
    with pytest.raises(DecodeError, match=reason):
        JSONDecoder("y", weight="w")(record)


@pytest.mark.parametrize(
    "arguments",
    [
        {"target": ""},
        {"target": 3},
        {"target": "y", "weight": "y"},
        {"target": "y", "features": ["a", "y"]},
        {"target": "y", "features": "abc"},
        {"target": "y", "features": [1]},
    ],
)
def test_bad_arguments(arguments):
    with pytest.raises(ConfigurationError):
        JSONDecoder(**arguments)
