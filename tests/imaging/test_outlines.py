"""The area of outlines: nests in holes by their depth, outlines that cross themselves, very long ones."""
import json
import time
import tracemalloc

import numpy as np
import pytest

from xmodal.imaging import outlines, slides


def square(low, high):
    return [[low, low], [high, low], [high, high], [low, high]]


def drawn(polygons, exclude, side=200, scale=1.0):
    return slides.tumour_mask(json.dumps({"polygons": polygons, "exclude": exclude}), (side, side), scale)


def test_a_nest_inside_a_hole_is_tumour_and_a_hole_in_the_nest_is_none():
    """Five squares, one in another; along the diagonal they alternate, in whatever order they are listed."""
    tumours = [square(10, 190), square(50, 150), square(80, 120)]
    holes = [square(30, 170), square(65, 135)]
    for polygons, exclude in ((tumours, holes), (tumours[::-1], holes[::-1])):
        mask = drawn(polygons, exclude)
        inside = [bool(mask[k, k]) for k in (5, 20, 40, 57, 72, 100)]
        assert inside == [False, True, False, True, False, True]
        coarse = drawn(polygons, exclude, 20, 0.1)
        assert [bool(coarse[k, k]) for k in (1, 3, 5, 6, 9)] == [True, False, True, False, True]


def test_exclusions_that_are_no_holes_win_as_ever():
    whole = drawn([square(50, 100)], [square(40, 110)])
    assert not whole.any()                                # nothing larger is tumour: not a hole
    assert not drawn([square(50, 100)], [square(50, 100)]).any()
    crossing = drawn([square(10, 190), square(90, 150)], [square(50, 120)])
    assert not crossing[52:118, 52:118].any() and crossing[125:148, 125:148].all()


def test_a_nest_keeps_out_another_hole_that_crosses_it():
    crossing = [[100, 60], [140, 60], [140, 140], [100, 140]]
    mask = drawn([square(10, 190), square(80, 120)], [square(50, 150), crossing])
    assert mask[85:115, 85:97].all() and not mask[85:115, 103:115].any()


def star(points, side, rng):
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    radius = side * (0.35 + rng.normal(0, 0.002, points))
    return side / 2 + radius[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def test_long_outlines_are_filled_as_short_ones(monkeypatch):
    """Even and odd crossings give the area of the corners, and Pillow's but for pixels on the border."""
    rng = np.random.default_rng(0)
    x, y = star(300, 200, rng).T
    exact = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    for points in (np.column_stack([x, y]), rng.random((12, 2)) * 200):
        pillow = outlines.area([points], [], (200, 200))
        monkeypatch.setattr(outlines, "MANY", 0)
        parity = outlines.area([points], [], (200, 200))
        monkeypatch.undo()
        assert (parity == pillow).mean() > 0.98
        if len(points) == 300:
            assert parity.sum() == pytest.approx(exact, rel=0.003)


@pytest.mark.parametrize("form", ("round", "crossing itself"))
def test_an_outline_of_a_hundred_thousand_points_is_filled_in_bounded_time_and_memory(form):
    rng = np.random.default_rng(0)
    points = star(100_000, 192, rng)
    if form == "crossing itself":
        points = rng.random((100_000, 2)) * 192
    tracemalloc.start()
    start = time.process_time()
    mask = outlines.area([points], [], (192, 192))
    assert time.process_time() - start < 20
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 ** 27                                 # bytes, where all crossings at once are 2 ** 29
    expected = np.pi * 0.35 ** 2 if form == "round" else 0.5          # each pixel is crossed at random
    assert mask.mean() == pytest.approx(expected, rel=0.02)
