"""The curves of time against resolution, as inline SVG in the page's own text color, and the same numbers as a table."""

import html
import math

from timing import Point


# Blue and orange are told apart by most who do not see red and green apart; marks differ too.
COLORS = {"softmax": "#e07b1a", "SimA": "#3b82c4", "SimA in plain torch operations": "#8a8a8a"}
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 320, 62, 16, 34, 46
NOTHING_YET = "Nothing measured yet."


def chart_html(points: tuple[Point, ...], where: str, progress: str, share: float) -> str:
    """Heading, conditions, progress, curves and table; without points the first three.

    Args:
        points: medians by size.
        where: hardware, threads, dtype, batch, versions.
        progress: a sentence on what is being done.
        share: of the work done, 0 to 1.
    """
    parts = [
        '<div class="chart"><div class="heading">Time of a forward against resolution</div>',
        f'<div class="where">Measured on this machine just now: {html.escape(where)}. Medians; the models took turns.</div>',
        f'<div class="progress"><div style="width: {share:.1%}"></div></div>',
        f'<div class="where" role="status">{html.escape(progress)}</div>',
    ]
    if points:
        parts += [_svg(points), _table(points)]
    return "".join([*parts, "</div>"])


def _svg(points: tuple[Point, ...]) -> str:
    """Both axes are logarithmic, so a power law is a straight line and its exponent the slope."""
    names = list(points[0].seconds)
    times = [1e3 * seconds for point in points for seconds in point.seconds.values()]
    low, high = 10 ** math.floor(math.log10(min(times))), 10 ** math.ceil(math.log10(max(times) * 1.001))
    first, last = points[0].pixels, max(points[-1].pixels, points[0].pixels * 1.01)

    def across(pixels: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(pixels / first) / math.log(last / first)

    def up(milliseconds: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * math.log(milliseconds / low) / math.log(high / low)

    pieces = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="time of a forward against resolution" '
        'font-family="inherit" font-size="13" fill="currentColor">'
    ]
    for exponent in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = up(10.0**exponent)
        label = f"{10.0**exponent:g} ms" if exponent < 3 else f"{10.0 ** (exponent - 3):g} s"
        pieces.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity="0.2"/>')
        pieces.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    shown = -100.0
    for point in points:
        at = across(point.pixels)
        pieces.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM + 4}" stroke="currentColor" stroke-opacity="0.12"/>')
        if at - shown > 40:  # else two numbers would touch
            shown = at
            pieces.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{point.pixels}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    pieces.append(f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">pixels per side of the image</text>')
    for place, name in enumerate(names):
        color = COLORS.get(name, "currentColor")
        spots = [(across(point.pixels), up(1e3 * point.seconds[name])) for point in points]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        pieces.append(f'<path d="M{line}" fill="none" stroke="{color}" stroke-width="2.5"/>')
        pieces += [_mark(x, y, color, place) for x, y in spots]
        start = LEFT + 8 + 120 * place
        pieces.append(f'{_mark(start, 14, color, place)}<text x="{start + 12}" y="18">{html.escape(name)}</text>')
    return "".join([*pieces, "</svg>"])


def _mark(x: float, y: float, color: str, place: int) -> str:
    """A dot for the first curve, a square for the second."""
    if place % 2 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{color}"/>'
    return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{color}"/>'


def _table(points: tuple[Point, ...]) -> str:
    names = list(points[0].seconds)
    heads = ["pixels", "patches", *(f"{html.escape(name)}, ms" for name in names)]
    if len(names) == 2:
        heads.append("ratio")
    rows = []
    for point in points:
        times = [1e3 * point.seconds[name] for name in names]
        cells = [f"{point.pixels}", f"{point.tokens:,}", *(f"{time:.3g}" for time in times)]
        if len(names) == 2:
            cells.append(f"{times[0] / times[1]:.2f}")
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{text}</th>" for text in heads)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
