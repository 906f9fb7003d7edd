import base64
import re

from mhc_vision.report.figures import DARK, INK, PAPER, figure_style, new_figure, save_figure
from mhc_vision.report.pages import Code, Figure, Heading, Paragraph, Table, to_html, to_markdown


def test_one_report_in_two_forms(tmp_path):
    (tmp_path / "figures").mkdir()
    png, svg = tmp_path / "figures" / "a.png", tmp_path / "figures" / "a.svg"
    svg.write_text("<svg/>")
    blocks = [
        Heading(1, "a < b"),
        Paragraph("see `x & y`"),
        Table([{"name": "<1>", "value": "2"}]),
        Code("run <me>"),
        Figure(png, svg, 'the "figure"'),
    ]
    page = to_html(blocks)
    for text in (
        "<title>a &lt; b</title>",
        "<h1>a &lt; b</h1>",
        "see <code>x &amp; y</code>",
        "<td>&lt;1&gt;</td><td>2</td>",
        "<pre>run &lt;me&gt;</pre>",
        # the file itself, so that the page needs no other
        'src="data:image/svg+xml;base64,PHN2Zy8+" alt="the &quot;figure&quot;"',
    ):
        assert text in page
    text = to_markdown(blocks, tmp_path)
    assert text.startswith("# a < b\n\nsee `x & y`\n\n| name | value |")
    assert text.endswith('    run <me>\n\n![the "figure"](figures/a.png)\n')


def test_figures_and_page_follow_the_light_and_the_dark_scheme(tmp_path):
    with figure_style():
        figure = new_figure(6.0, 2.0)
        figure.subplots().set_xlabel("steps")
        png, svg = save_figure(figure, tmp_path / "a")
    page = to_html([Heading(1, "title"), Figure(png, svg, "caption")])
    assert "prefers-color-scheme: dark" in page
    # a wide figure is scrolled on a phone, not shrunk out of sight: 6 inches are 432 points
    assert 'style="min-width: 324pt; max-width: 540pt"' in page
    drawn = base64.b64decode(re.search(r"base64,([^\"]+)", page)[1]).decode()
    light, dark = drawn.split("@media (prefers-color-scheme: dark)")
    for colour in (INK, PAPER):
        assert f"--c{colour[1:]}: {colour};" in light
        assert f"--c{colour[1:]}: {DARK[colour]};" in dark
        assert f": var(--c{colour[1:]})" in dark
        # the file itself is for any program
        assert f": {colour}" in svg.read_text()
    assert "var(" not in svg.read_text()


def test_sentences_in_tables_are_not_set_as_figures():
    rows = [{"arm": "mhc", "verdict": "cannot be told apart: between 0.1 behind and 0.2 ahead", "p": "0.1"}]
    page = to_html([Heading(1, "title"), Table(rows)])
    assert '<td>mhc</td><td class="text">cannot' in page
    assert "<td>0.1</td>" in page
