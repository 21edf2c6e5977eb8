import re

import numpy as np
import pytest

from digitsum.report.page import (
    Page,
    Picture,
    Section,
    Table,
    chart_style,
    format_cell,
    image_picture,
    new_figure,
    publish_page,
    render,
    to_chart,
    to_picture,
)
from digitsum.storage.location import locate

HOSTILE = "<script>alert(1)</script>\" onload='x' &amp; {{ 7*7 }}"


def html(**parts) -> str:
    return render(Page("title", "summary", **parts)).decode()


def test_whatever_a_page_says_is_escaped():
    png = image_picture(np.zeros((2, 3), np.uint8), HOSTILE, HOSTILE)
    section = Section(HOSTILE, [HOSTILE], [], [png], Table([HOSTILE], [[HOSTILE]]))
    page = Page(HOSTILE, HOSTILE, [HOSTILE], [(HOSTILE, HOSTILE)], [section])
    found = render(page).decode()
    own_script = found.count("<script>")
    assert own_script == html().count("<script>") == 1
    assert "onload='x'" not in found
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", found)[0]


def test_a_page_asks_for_nothing():
    found = html(sections=[Section("s", pictures=[Picture(b"x", "d")])])
    assert re.findall(r'(?:src|href)="(?!data:)', found) == []
    assert "default-src 'none'" in found
    assert "script-src 'sha256-" in found


def test_a_chart_takes_the_pages_colours_and_width_and_is_described():
    with chart_style():
        figure = new_figure()
        axes = figure.subplots()
        axes.plot([0, 1])
        axes.set_xlabel("x & <y>")
        chart = to_chart(figure, 'of "x" & <y>')
    svg = str(chart.svg)
    assert svg.startswith('<svg role="img" aria-label="of &#34;x&#34; &amp; &lt;y&gt;" ')
    head = svg[: svg.index(">")]
    assert " width=" not in head
    assert " height=" not in head
    assert "viewBox" in head
    assert "currentColor" in svg
    assert "<y>" not in svg
    assert "<?xml" not in svg


def test_a_figure_can_be_a_picture():
    figure = new_figure()
    figure.subplots().plot([0, 1])
    picture = to_picture(figure, "a line")
    assert picture.uri.startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize(
    ("value", "said"), [(1234567, "1,234,567"), (1234.5, "1,234.50"), ("a,b", "a,b")]
)
def test_cells_are_said_as_a_person_reads_them(value, said):
    assert format_cell(value) == said


def test_numbers_can_be_sorted_by_their_value():
    found = html(sections=[Section("s", table=Table(["n"], [[1234], ["x"]]))])
    assert '<td class="number" data-value="1234">1,234</td>' in found
    assert "<td>x</td>" in found


def test_a_page_appears_where_it_shall(tmp_path):
    publish_page(Page("title", "summary"), locate(str(tmp_path / "run/report.html")))
    assert (tmp_path / "run/report.html").read_bytes().startswith(b"<!doctype html>")
