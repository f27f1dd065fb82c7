"""Charts: every place on the plot by hand."""

from __future__ import annotations

import re

import pytest

from lakefactor.pages.charts import Row, Rule, Series, line_chart, row_chart
from lakefactor.pages.rendering import environment


def drawn(chart) -> str:
    return str(
        environment().from_string("{% from 'chart.html' import figure %}{{ figure(chart) }}").render(chart=chart)
    )


def test_a_line_lies_where_its_scales_say():
    chart = line_chart("T", [Series("a", [(0, 10.0), (5, 20.0), (10, 30.0)])], from_zero=True)
    # y goes from 0 to 30, which is a multiple of the step 10 already: 10 lies a third above the ground.
    assert [path.d for path in chart.paths] == ["M0 666.7L500 333.3L1000 0"]
    assert [(round(tick.place, 1), tick.text) for tick in chart.y_ticks] == [
        (100, "0"), (66.7, "10"), (33.3, "20"), (0, "30"),
    ]  # fmt: skip
    assert [(tick.place, tick.text) for tick in chart.x_ticks] == [(0, "0"), (50, "5"), (100, "10")]  # whole numbers
    assert chart.rows == (("0", "10"), ("5", "20"), ("10", "30"))


def test_decades_are_evenly_far_apart():
    points = [(1.0, 1.0), (10.0, 100.0), (100.0, 10.0), (0.0, 5.0), (50.0, -1.0)]
    chart = line_chart("T", [Series("a", points)], log_x=True, log_y=True, style="dots")
    assert [(round(dot.x, 9), round(dot.y, 9)) for dot in chart.dots] == [(0, 100), (50, 0), (100, 50)]
    assert [tick.text for tick in chart.y_ticks] == ["1", "10", "100"]
    assert len(chart.rows) == 5  # what no logarithm holds is in the table


def test_a_gap_stays_a_gap():
    chart = line_chart("T", [Series("a", [(0, 0.0), (1, 1.0), (2, None), (3, 1.0), (4, 0.0)])])
    assert [path.d for path in chart.paths] == ["M0 1000L250 0M750 0L1000 1000"]
    assert chart.rows[2] == ("2", "–")


def test_a_single_point_is_seen():
    chart = line_chart("T", [Series("a", [(3, 7.0)])])
    assert [(dot.x, dot.y) for dot in chart.dots] == [(50, 50)]


def test_nothing_is_drawn_of_nothing():
    assert "<svg" in drawn(line_chart("T", [Series("a", [])]))


def test_series_share_the_scales_and_the_table():
    chart = line_chart("T", [Series("a", [(0, 0.0), (2, 4.0)]), Series("b", [(1, 2.0)])])
    assert chart.header == ("x", "a", "b")
    assert chart.rows == (("0", "0", "–"), ("1", "–", "2"), ("2", "4", "–"))
    assert [(dot.series, dot.x, dot.y) for dot in chart.dots] == [(1, 50, 50)]
    assert chart.legend == ((0, "a"), (1, "b"))


def test_rules_beyond_the_axis_are_left_out():
    rules = [Rule(1, "publish", "in"), Rule(9, "drift", "out")]
    chart = line_chart("T", [Series("a", [(0, 0.0), (4, 1.0)])], rules=rules)
    assert chart.rules == ((25, "publish", "in"),)


def test_rows_have_bars_from_zero():
    chart = row_chart("T", [Row("up", 3.0), Row("down", -1.0)])
    # From -1 to 3 by steps of one: zero lies a quarter from the left.
    assert chart.zero == 25
    assert [(stroke.x1, stroke.x2, stroke.y) for stroke in chart.strokes] == [(25, 100, 25), (0, 25, 75)]
    assert chart.rows == (("up", "3"), ("down", "−1"))


def test_rows_with_intervals_and_references():
    rows = [Row("a", 0.5, 0.25, 0.75, 1.0), Row("b", None)]
    chart = row_chart("T", rows, reference_name="popularity", style="intervals")
    assert [(stroke.x1, stroke.x2, stroke.kind) for stroke in chart.strokes] == [(25, 75, "interval")]
    assert [(dot.x, dot.series) for dot in chart.dots] == [(100, -1), (50, 0)]
    assert chart.header == ("", "value", "95 % interval", "popularity")
    assert chart.rows == (("a", "0.500", "0.250 to 0.750", "1"), ("b", "–", "–", "–"))


def test_it_can_be_read_without_being_seen():
    svg = drawn(line_chart("Loss by step", [Series("a", [(0, 1.0), (1, 2.0)])], description="It rises."))
    assert 'role="img" aria-labelledby="loss-by-step-t loss-by-step-d"' in svg
    assert '<title id="loss-by-step-t">Loss by step</title>' in svg
    assert '<desc id="loss-by-step-d">It rises.' in svg
    assert re.search(r"<details>.*<table>.*</table>.*</details>", svg, re.DOTALL)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", '"><img src=x>', "{{ 7 * 7 }}"])
def test_texts_are_escaped(text):
    rules = [Rule(0, "publish", text)]
    series = [Series(text, [(0, 1.0), (1, 2.0)]), Series(f"{text}2", [(0, 1.0)])]
    svg = drawn(line_chart(text, series, description=text, x_name=text, y_name=text, rules=rules))
    svg += drawn(row_chart(text, [Row(text, 1.0)]))
    assert text in svg if text.startswith("{") else text not in svg
    assert "49" not in re.sub(r"[\d.]+%", "", svg)
