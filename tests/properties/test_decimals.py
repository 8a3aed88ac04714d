"""Decimal numbers in records become the doubles that Python's `float` makes, bit by bit."""

from __future__ import annotations

import json
import math
import re
import struct
import sys
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from streamfit._kernels.records import read_number

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")  # RFC 8259, section 6

digits = st.text("0123456789", min_size=1, max_size=22)
texts = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "-"]),
        st.just("0") | st.integers(0, 2**64).map(str) | digits,
        st.just("") | digits.map(".{}".format),
        st.just("")
        | st.builds(
            "{}{}{}".format,
            st.sampled_from("eE"),
            st.sampled_from(["", "+", "-"]),
            st.integers(0, 400),
        ),
    ),
)
any_double = st.integers(0, 2**64 - 1).map(
    lambda bits: struct.unpack("d", struct.pack("Q", bits))[0]
)


def bits(number: float) -> bytes:
    return struct.pack("d", number)


def python_float(text: str) -> float:
    """Return what JSON's number means; an integer -0 is 0."""
    return float(json.loads(text))


@given(any_double.filter(math.isfinite))
@example(0.0)
@example(-0.0)
@example(sys.float_info.max)
@example(sys.float_info.min)
@example(math.nextafter(1.0, 2.0))
def test_what_repr_writes_is_read_back(number: float) -> None:
    text = repr(number)
    if abs(number) < sys.float_info.min and number != 0.0:
        assert read_number(text.encode()) is None  # subnormal: for the slower way
        return
    found = read_number(text.encode())
    assert found is not None
    assert bits(found) == bits(number)


@given(texts, st.sampled_from(["", ",", "}", " ", "x", ".", "-"]))
@example("9007199254740993", "")  # halfway between two doubles
@example("5233439493906201989e18", "")  # just above halfway
@example("3031734601361715365e-152", "")  # 64 bits of the power do not decide
@example("4510614966672127619e-189", "")
@example("123456789012345678901", "")
@example("0.1234567890123456789", "")
@example("0.1234567890123456789123", "")
@example("1e+5", "")
@example("2.5", "")
@example("17976931348623158e293", "")
@example("1e309", "")
@example("1e99999999", "")
@example("1e-99999999", "")
@example("1.99999999999999999", "")  # rounding up carries over all bits
@example("1e-343", "")
@example("2e-308", "")
@example("-0.0", "")
@example("9007199254740995e22", "")
@example("18014398509481985e-1", "")
@example("-0", "")
@example("-0e5", "")
@example("1e", "")
@example("1e+", "")
@example("1e999999999999999999999", "")
@example("00", "")
@example("1.", "}")
@example("0.0000000000000000000000001234567890123456789", "")
def test_numbers_are_rounded_as_by_float(text: str, behind: str) -> None:
    found = read_number((text + behind).encode())
    if found is not None:
        number = NUMBER.match(text + behind)
        assert number is not None
        assert bits(found) == bits(python_float(number.group()))


@given(st.integers(0, 2**53), st.integers(-4, 23))
@example(0, 23)
def test_what_lies_between_two_doubles_goes_to_the_even_one(seed: int, power: int) -> None:
    five = 5 ** abs(power)
    if power < 0:
        w = (2 * (2**52 + seed % 2**52) + 1) * five
    else:  # an odd w that five lifts to 54 bits, of which a double has 53
        least, most = 2**53 // five + 1, (2**54 - 1) // five
        w = (least + seed % (most - least + 1)) | 1
    assume(w < 10**19 and (power < 0 or w * five < 2**54))
    number = Fraction(w) * Fraction(10) ** power
    below, above = float(number), math.nextafter(float(number), math.inf)
    if below > number:
        below, above = math.nextafter(below, 0.0), below
    assert number - Fraction(below) == Fraction(above) - number
    assert read_number(f"{w}e{power}".encode()) == float(f"{w}e{power}")


@given(st.integers(10**17, 10**19 - 1), st.integers(-300, 280))
def test_numbers_of_up_to_nineteen_digits_are_not_left_to_the_slower_way(w: int, q: int) -> None:
    text = f"{w}e{q}"
    found = read_number(text.encode())
    # the one case of the algorithm that is not decided is too rare to come by
    assert found is not None
    assert bits(found) == bits(float(text))


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "+1", ".5", "NaN", "Infinity", "-Infinity", "x", "\x00", "--1", "-x"),
        *("00", "01", "-01.5", "1.", "1.e5", "1e", "1E+", "2.5e-"),
    ],
)
def test_what_is_no_number_is_not_read(text: str) -> None:
    assert read_number(text.encode()) is None
