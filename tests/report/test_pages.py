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
