"""What the documentation says of metrics, alerts and logs is what there is."""

from __future__ import annotations

from tests import draw_metrics


def test_the_page_of_metrics_is_up_to_date():
    """`make docs` draws it anew."""
    page = draw_metrics.PAGE.read_text(encoding="utf-8")
    assert draw_metrics.drawn(page) == page
