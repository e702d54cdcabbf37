"""What the documentation says of scenarios and invariants is what the tests cite."""

import pytest

from tests.draw_scenarios import PAGES, SCENARIO, citations, cited, drawn, numbers

pages = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


@pages
def test_the_page_is_up_to_date(path):
    """`make docs` draws it anew."""
    page = path.read_text(encoding="utf-8")

    assert drawn(page, citations(PAGES[path])) == page


@pages
def test_every_number_that_a_test_cites_is_on_the_page(path):
    known = set(numbers(path.read_text(encoding="utf-8")))

    unknown = {n: files for n, files in citations(PAGES[path]).items() if n not in known}
    assert unknown == {}


@pages
def test_no_number_is_given_twice(path):
    found = numbers(path.read_text(encoding="utf-8"))

    assert len(found) > 10
    assert sorted(found) == sorted(set(found))


def test_a_citation_may_be_a_range():
    text = "S-Z2 to S-Z4, S-V1\nand S-V3 to\nS-V4; not V9"

    assert list(cited(text, SCENARIO)) == ["Z2", "Z3", "Z4", "V1", "V3", "V4"]


def test_a_row_without_tests_has_a_dash():
    assert drawn("| V1 | Given | then | old |", {}) == "| V1 | Given | then | - |"
    assert drawn("| V1 | Given | - |", {"V1": ["tests/a/b.py"]}) == (
        "| V1 | Given | [a/b.py](../../tests/a/b.py) |"
    )
