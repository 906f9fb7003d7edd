"""Draws `streams.svg`, a plain and a hyper-connected residual block: `python docs/figures/streams.py`.

No colour depends on the page: all of them stand out from white and from black.
"""

from pathlib import Path

WIDTH, HEIGHT = 840, 400
GREY = "#768087"
STREAMS = ("#3b82f6", "#16a34a", "#d97706", "#a855f7")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
BRANCHES = (("attention", 185), ("MLP", 465))
"""Name of a branch, and where its connection begins."""
START, END = 112, 728
"""Where the streams begin and end."""


def line(points: list[tuple[float, float]], colour: str, width: float = 2.5, arrow: bool = False) -> str:
    """A polyline; with an arrow it ends in a triangle of its own colour, which points right or down or up."""
    path = " L ".join(f"{x:g} {y:g}" for x, y in points)
    drawn = f'<path d="M {path}" fill="none" stroke="{colour}" stroke-width="{width:g}" stroke-linejoin="round"/>'
    if not arrow:
        return drawn
    (x0, y0), (x, y) = points[-2:]
    turn = 0 if x > x0 else 90 if y > y0 else -90
    head = f'<path d="M -7 -5 L 3 0 L -7 5 Z" fill="{colour}" transform="translate({x:g} {y:g}) rotate({turn})"/>'
    return drawn + head


def text(x: float, y: float, words: str, colour: str = GREY, anchor: str = "middle", bold: bool = False) -> str:
    """Words on one line."""
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="15" text-anchor="{anchor}"{weight}>{words}</text>'


def box(x: float, y: float, width: float, height: float, words: str) -> str:
    """A filled box with words in it."""
    rectangle = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" fill="{GREY}"/>'
    return rectangle + text(x + width / 2, y + height / 2 + 5, words, "#ffffff", bold=True)


def plus(x: float, y: float, colour: str, radius: float = 8) -> str:
    """A circle with a plus sign, which takes the place of what it covers."""
    arm = radius - 3.5
    circle = f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{colour}"/>'
    cross = f"M {x - arm:g} {y:g} H {x + arm:g} M {x:g} {y - arm:g} V {y + arm:g}"
    return circle + f'<path d="{cross}" stroke="#ffffff" stroke-width="2"/>'


def plain(y: float) -> list[str]:
    """The residual block: one stream, each branch added to it."""
    drawn = [
        text(20, y - 62, "residual connection: one stream", anchor="start", bold=True),
        text(WIDTH - 20, y - 62, "x' = x + F(x)", anchor="end"),
        text(58, y + 5, "token"),
        line([(START - 22, y), (END + 22, y)], STREAMS[0], arrow=True),
        text(790, y + 5, "head"),
    ]
    for name, x in BRANCHES:
        drawn += [
            line([(x, y), (x, y - 33), (x + 53, y - 33)], GREY, 2, arrow=True),
            box(x + 57, y - 50, 106, 34, name),
            line([(x + 163, y - 33), (x + 218, y - 33), (x + 218, y - 12)], GREY, 2, arrow=True),
            plus(x + 218, y, STREAMS[0]),
        ]
    return drawn


def mixture(x: float, rows: list[float]) -> list[str]:
    """The map `res`: each stream goes on as a mixture of all, mostly of itself."""
    left, right = x + 70, x + 150
    drawn = []
    for i, before in enumerate(rows):
        for j, after in enumerate(rows):
            path = f"M {left} {before} C {left + 40} {before} {right - 40} {after} {right} {after}"
            width, opacity = (2.5, 1) if i == j else (1.5, 0.7)
            drawn.append(
                f'<path d="{path}" fill="none" stroke="{STREAMS[i]}" stroke-width="{width}" opacity="{opacity}"/>'
            )
    size = f'width="{right - left:g}" height="{rows[-1] - rows[0] + 28:g}"'
    frame = f'<rect x="{left:g}" y="{rows[0] - 14:g}" {size} rx="7" fill="none" stroke="{GREY}" stroke-width="2"/>'
    return [*drawn, frame]


def hyper(y: float) -> list[str]:
    """The hyper-connected block: n streams, three maps for each branch."""
    rows = [y + 24 * i for i in range(len(STREAMS))]
    middle, below = (rows[0] + rows[-1]) / 2, rows[-1] + 38
    drawn = [
        text(20, y - 92, "hyper-connection: n streams, here four", anchor="start", bold=True),
        text(WIDTH - 20, y - 92, "X' = res · X + postᵀ · F(pre · X)", anchor="end"),
        text(58, middle + 5, "token"),
        text(790, middle + 5, "head"),
        text(START - 6, below, "copies"),
        text(END + 30, below, "read-out"),
    ]
    for row, colour in zip(rows, STREAMS, strict=True):
        stops = [START + 8, *(x + side for _, x in BRANCHES for side in (70, 150)), END - 8]
        drawn += [
            line([(left, row), (right, row)], colour) for left, right in zip(stops[::2], stops[1::2], strict=True)
        ]
        drawn += [
            line([(START - 22, middle), (START + 8, row)], colour),
            line([(END - 8, row), (END + 22, middle)], colour),
        ]
    drawn.append(line([(END + 22, middle), (END + 26, middle)], GREY, arrow=True))
    for name, x in BRANCHES:
        drawn += [
            line([(x, rows[-1]), (x, y - 60), (x + 53, y - 60)], GREY, 2, arrow=True),
            box(x + 57, y - 77, 106, 34, name),
            line([(x + 163, y - 60), (x + 218, y - 60), (x + 218, rows[-1])], GREY, 2),
            *mixture(x, rows),
            text(x, below, "pre", bold=True),
            text(x + 110, below, "res", bold=True),
            text(x + 218, below, "post", bold=True),
        ]
        for row, colour in zip(rows, STREAMS, strict=True):
            drawn += [f'<circle cx="{x:g}" cy="{row:g}" r="4.5" fill="{colour}"/>', plus(x + 218, row, colour)]
    return drawn


def picture() -> str:
    """The whole picture."""
    label = "A residual connection has one stream; a hyper-connection has n streams and the maps pre, res and post."
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="{FONT}" role="img"'
    return "\n".join([f'{head} aria-label="{label}">', *plain(92), *hyper(258), "</svg>\n"])


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(picture(), encoding="utf-8")
