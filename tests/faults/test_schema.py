"""Fault 38: the table of docs/operations.md, "What a record may look like", row by row."""

from __future__ import annotations

from typing import Any

import pytest

import streamfit as sf
from connectors import JSONDecoder
from streamfit.errors import BadSampleError

decode = JSONDecoder(target="y")


def model(features: str = "grow") -> sf.LogisticRegression:
    learner = sf.LogisticRegression(sf.optim.SGD(0.5), features=features)
    learn(learner, b'{"a": 1.0, "b": 2.0, "y": 1}')
    return learner


def learn(learner: Any, record: bytes) -> None:
    x, y, _ = decode(record)
    learner.learn_one(x, y)


def test_new_feature_grows_the_model() -> None:
    learner = model("grow")
    learn(learner, b'{"a": 1.0, "b": 2.0, "c": 3.0, "y": 0}')
    assert list(learner.weights) == ["a", "b", "c"]
    from_zero = model("grow")  # as if it had been there with the value 0 all the time
    other = sf.LogisticRegression(sf.optim.SGD(0.5))
    learn(other, b'{"a": 1.0, "b": 2.0, "c": 0, "y": 1}')
    for each in (from_zero, other):
        learn(each, b'{"a": 1.0, "b": 2.0, "c": 3.0, "y": 0}')
    assert from_zero.weights == other.weights == learner.weights


def test_new_feature_is_refused_when_they_are_fixed() -> None:
    learner = model("fixed")
    before = learner.digest()
    with pytest.raises(BadSampleError, match="'c'.*unknown"):
        learn(learner, b'{"a": 1.0, "b": 2.0, "c": 3.0, "y": 0}')
    assert learner.digest() == before


@pytest.mark.parametrize("features", ["grow", "fixed"])
def test_missing_new_retyped_feature_missing_is_zero(features: str) -> None:
    absent, zero = model(features), model(features)
    learn(absent, b'{"a": 1.0, "y": 0}')
    learn(zero, b'{"a": 1.0, "b": 0, "y": 0}')
    assert absent.digest() == zero.digest()


@pytest.mark.parametrize("value", [b'"1.0"', b"null", b"[1]", b'{"b": 1}', b'""'])
@pytest.mark.parametrize("features", ["grow", "fixed"])
def test_missing_new_retyped_feature_retyped_is_refused(value: bytes, features: str) -> None:
    learner = model(features)
    before = learner.digest()
    new = b'"new": 1.0, ' if features == "grow" else b""  # which must not stay behind
    with pytest.raises(BadSampleError, match="'a'"):
        learn(learner, b'{%b"a": %b, "y": 0}' % (new, value))
    assert learner.digest() == before
    assert list(learner.weights) == ["a", "b"]


def test_an_integer_is_the_same_number_as_a_float() -> None:
    integer, real = model(), model()
    learn(integer, b'{"a": 3, "y": 0}')
    learn(real, b'{"a": 3.0, "y": 0}')
    assert integer.digest() == real.digest()


def test_bool_as_number() -> None:
    boolean, number = model(), model()
    learn(boolean, b'{"a": true, "b": false, "y": true}')
    learn(number, b'{"a": 1, "b": 0, "y": 1}')
    assert boolean.digest() == number.digest()


def test_duplicate_keys_the_last_wins() -> None:
    twice, last = model(), model()
    learn(twice, b'{"a": 7, "a": "x", "a": 3.0, "y": 1, "y": 0}')
    learn(last, b'{"a": 3.0, "y": 0}')
    assert twice.digest() == last.digest()


def test_duplicate_keys_may_hide_a_bad_value_but_not_end_with_one() -> None:
    with pytest.raises(BadSampleError, match="'a'"):
        learn(model(), b'{"a": 3.0, "a": "x", "y": 0}')


@pytest.mark.parametrize("label", [b"2", b"0.5", b'"yes"', b"-1"])
def test_bad_label_of_a_classifier(label: bytes) -> None:
    learner = model()
    before = learner.digest()
    with pytest.raises(BadSampleError):
        learn(learner, b'{"a": 1.0, "y": %b}' % label)
    assert learner.digest() == before


def test_field_names_are_unicode_as_they_come() -> None:
    learner = sf.LogisticRegression()
    learn(learner, '{"é": 1, "e\u0301": 2, "": 3, "y": 1}'.encode())
    assert list(learner.weights) == ["é", "e\u0301", ""]


def test_more_features_than_allowed_are_refused() -> None:
    learner = sf.LogisticRegression(features=sf.FeatureIndex(maximum=2))
    learn(learner, b'{"a": 1.0, "b": 2.0, "y": 1}')
    with pytest.raises(BadSampleError, match="2 features, the most"):
        learn(learner, b'{"c": 1.0, "y": 1}')
