import io
import re

import numpy as np
import pytest
from PIL import Image

from digitsum.report.page import (
    Page,
    Picture,
    Section,
    Table,
    draw_chart,
    format_cell,
    image_picture,
    render,
)

HOSTILE = "<script>alert(1)</script>\" onload='x' &amp; {{ 7*7 }}"


def html(**parts) -> str:
    return render(Page("title", "summary", **parts)).decode()


def test_render_escapes_everything():
    picture = image_picture(np.zeros((2, 3), np.uint8), HOSTILE, HOSTILE)
    section = Section(HOSTILE, [HOSTILE], [], [picture], Table([HOSTILE], [[HOSTILE]]))
    page = render(Page(HOSTILE, HOSTILE, [HOSTILE], [(HOSTILE, HOSTILE)], [section])).decode()
    assert page.count("<script>") == html().count("<script>") == 1
    assert "onload='x'" not in page
    assert "49" not in re.findall(r"<h1>(.*?)</h1>", page)[0]


def test_render_requests_nothing():
    page = html(sections=[Section("s", pictures=[Picture(b"x", "d")])])
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "default-src 'none'" in page
    assert "script-src 'sha256-" in page


def test_draw_chart_colours_width_description():
    def draw(axes):
        axes.plot([0, 1])
        axes.set_xlabel("x & <y>")

    svg = str(draw_chart(draw, 'of "x" & <y>'))
    assert svg.startswith('<svg role="img" aria-label="of &#34;x&#34; &amp; &lt;y&gt;" ')
    head = svg[: svg.index(">")]
    assert " width=" not in head
    assert " height=" not in head
    assert "viewBox" in head
    assert "currentColor" in svg
    assert "<y>" not in svg
    assert "<?xml" not in svg


def test_image_picture_pixels():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    picture = image_picture(pixels.T, "description", "caption")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture.png))), pixels.T)
    assert picture.uri.startswith("data:image/png;base64,iVBOR")


@pytest.mark.parametrize(
    ("value", "text"), [(1234567, "1,234,567"), (1234.5, "1,234.50"), ("a,b", "a,b")]
)
def test_format_cell(value, text):
    assert format_cell(value) == text


def test_table_numbers_sort_by_value():
    page = html(sections=[Section("s", table=Table(["n"], [[1234], ["x"]]))])
    assert '<td class="number" data-value="1234">1,234</td>' in page
    assert "<td>x</td>" in page
