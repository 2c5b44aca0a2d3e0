"""Graphs of long launches hold fewer of them, so that timing slow work takes no minutes."""

from __future__ import annotations

import pytest

from sadtrt_core.measure.graph_times import launches_in_graph


@pytest.mark.parametrize(("launch_us", "launches"), [(10.0, 20), (200.0, 20), (1000.0, 4), (9000.0, 2)])
def test_long_launches_are_repeated_less_often_but_at_least_twice(launch_us, launches):
    assert launches_in_graph(launch_us) == launches
