"""The secant method that calibrates a radius, on functions whose zero is known."""

import math

import pytest

from tl_steer.radii.rules import crossing

ENDS = (-6.0, 3.0)
SHAPES = {
    "straight": lambda x: x,
    "shallow": lambda x: 0.3 * x,
    "bent": lambda x: x + 0.2 * x * x * (x > 0),
    "levelling off": math.tanh,
    "steep late": lambda x: math.expm1(x) if x < 2 else 100.0,
    "a step": lambda x: math.copysign(1.0, x),
    "in waves": lambda x: x + 0.2 * math.sin(4 * x),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("start", [-4.0, -0.3, 0.2, 1.5])
@pytest.mark.parametrize("zero", [-3.0, 0.0, 1.0])
def test_it_ends_at_the_zero(name, start, zero):
    tried = []

    def rising(x):
        tried.append(x)
        return SHAPES[name](x - zero)

    found, _ = crossing(rising, start, 1.0, ENDS, within=2e-3)
    assert found == pytest.approx(zero, abs=4e-3)
    assert all(ENDS[0] <= x <= ENDS[1] for x in tried)


def test_near_a_straight_line_three_places_are_enough():
    tried = []

    def rising(x):
        tried.append(x)
        return 1.1 * (x - 0.25) + 0.02 * (x - 0.25) ** 2

    found, slope = crossing(rising, 0.0, 1.0, ENDS, within=2e-3)
    assert found == pytest.approx(0.25, abs=1e-3)
    assert slope == pytest.approx(1.1, abs=0.02)
    assert len(tried) <= 3


@pytest.mark.parametrize(("always", "end"), [(-1.0, ENDS[1]), (1.0, ENDS[0])])
def test_without_a_zero_it_is_the_end_on_the_way_to_it(always, end):
    assert crossing(lambda _: always, 0.0, 1.0, ENDS, within=2e-3)[0] == end
    assert crossing(lambda x: always + 0.01 * x, 0.0, 1.0, ENDS, within=2e-3)[0] == end
