"""Values between the two contained processes: whatever is sent, what comes out is plain."""

from __future__ import annotations

import io
import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction
from typing import Any

import pytest

from lomo.contained.inside import wire

Pair = namedtuple("Pair", "first second")


class Number(IntEnum):
    ONE = 1


class Equal:
    def __eq__(self, other: object) -> bool:
        return True


def carried(value: Any) -> Any:
    """As it arrives on the other side."""
    pipe = io.BytesIO()
    wire.send(pipe, {"value": wire.encoded(value)})
    pipe.seek(0)
    return wire.decoded(wire.receive(pipe)["value"])


PLAIN = [
    None,
    True,
    0,
    -(2**53),
    2**53 + 1,
    10**5000,
    0.1,
    -0.0,
    1e308,
    math.inf,
    1.0,
    "",
    "\0\n\u2028\U0001f600",
    "\ud800",
    b"\0\xff",
    1 + 2j,
    range(3, 9, 2),
    Decimal("0.10"),
    Fraction(1, 3),
    [],
    [1, [2.0, ("x", None)], {}],
    (),
    ((1,), [1]),
    {1, 2},
    frozenset({(1, 2)}),
    {"a": 1, 5: [2], (1, 2): {"b": None}, None: True},
    {"tuple": [1]},
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_data_arrives_as_it_was(value: Any) -> None:
    came = carried(value)
    assert came == value
    assert type(came) is type(value)
    if type(value) in (list, tuple, dict, float, complex):
        assert repr(came) == repr(value)


def test_signs_and_kinds_of_numbers_are_kept() -> None:
    assert math.copysign(1, carried(-0.0)) == -1
    assert math.isnan(carried(math.nan))
    assert [type(one) for one in carried([True, 1, 1.0])] == [bool, int, float]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(int, a=1), {"a": 1}),
        (Pair(1, 2), (1, 2)),
        (Number.ONE, 1),
        (bytearray(b"x"), b"x"),
    ],
)
def test_kinds_of_plain_data_arrive_as_the_plain_kind(value: Any, plain: Any) -> None:
    came = carried(value)
    assert came == plain
    assert type(came) is type(plain)


def test_iterators_arrive_with_their_items_unless_they_have_no_end() -> None:
    assert tuple(carried(item for item in (1, 2))) == (1, 2)
    assert carried(iter([1, 2])) != [1, 2]
    assert isinstance(carried(iter(int, 1)), wire.Opaque)


def test_all_else_equals_nothing_but_itself() -> None:
    for value in (Equal(), len, Equal, object(), lambda: 1):
        came = carried(value)
        assert type(came) is wire.Opaque
        assert came != value or isinstance(value, Equal)
        assert [other for other in (*PLAIN, wire.Opaque("Equal")) if came == other] == []


def test_a_value_that_holds_itself_is_told() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(RecursionError):
        wire.encoded(endless)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"a": [], "b": []},
        {"eval": "1"},
        {"Equal": 4},
        {"__class__": "int"},
        {"int": 4},
        {"set": [[]]},
        {"dict": 4},
        {"dict": [[1]]},
        {"complex": "ab"},
        {"Decimal": []},
        {"range": [1, 2, 0]},
        {"tuple": 1},
    ],
)
def test_what_is_no_value_is_refused(data: Any) -> None:
    with pytest.raises((ValueError, TypeError, LookupError, ArithmeticError)):
        wire.decoded(data)


def test_messages_that_are_cut_or_too_long_are_refused() -> None:
    with pytest.raises(EOFError):
        wire.receive(io.BytesIO())
    for line in (b'{"a": 1}', b"[]\n", b"\xff\n", b"1\n"):
        with pytest.raises(ValueError):
            wire.receive(io.BytesIO(line))
    with pytest.raises(ValueError):
        wire.send(io.BytesIO(), {"value": "x" * wire.MAX_LINE_BYTES})
    with pytest.raises(ValueError):
        wire.receive(io.BytesIO(b'"' + b"x" * wire.MAX_LINE_BYTES + b'"\n'))
