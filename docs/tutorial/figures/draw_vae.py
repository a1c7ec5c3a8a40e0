"""Draws ``vae.svg`` beside this file: how an example becomes a bound.

The card behind everything is opaque, so the figure looks the same on a light and on a dark page. No
fonts are embedded: words are in the reader's sans-serif font, and symbols in the serif font.
"""

import re
from pathlib import Path

WIDTH, HEIGHT = 760, 430
INK, GREY = "#1b1b1b", "#5f6368"
DATA, POSTERIOR, LIKELIHOOD, NOISE = (
    ("#eceff1", "#546e7a"),
    ("#d9ebf7", "#0072b2"),
    ("#fbe6d8", "#c45500"),
    ("#d8f0e7", "#007a59"),
)


def rectangle(
    x: float, y: float, size: tuple[float, float], colours: tuple[str, str], copies: int = 1
) -> str:
    """A box with its upper left corner at (x, y), in front of ``copies - 1`` others."""
    (width, height), (fill, line) = size, colours
    return "".join(
        f'<rect x="{x + 6 * back}" y="{y - 6 * back}" width="{width}" height="{height}" rx="5" '
        f'fill="{fill}" stroke="{line}"/>'
        for back in reversed(range(copies))
    )


def network(x: float, y: float, narrowing: bool, colours: tuple[str, str], name: str) -> str:
    """A network between a wide and a narrow layer, centred at height y."""
    left, right = {True: (62, 38), False: (38, 62)}[narrowing]
    fill, line = colours
    corners = f"{x},{y - left} {x + 88},{y - right} {x + 88},{y + right} {x},{y + left}"
    shape = f'<polygon points="{corners}" fill="{fill}" stroke="{line}" stroke-linejoin="round"/>'
    return (
        shape
        + words(x + 44, y - 2, name, size=14, bold=True)
        + words(x + 44, y + 15, "200 tanh", GREY)
    )


def arrow(*points: tuple[float, float], colour: str = INK) -> str:
    """A line through the points, with a head at its end."""
    path = " ".join(f"{x},{y}" for x, y in points)
    head = {INK: "ink", NOISE[1]: "noise"}[colour]
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4" '
        f'marker-end="url(#{head})"/>'
    )


def words(
    x: float, y: float, text: str, colour: str = INK, *, size: float = 13, bold: bool = False
) -> str:
    """A line of words, centred at x."""
    weight = bold * ' font-weight="600"'
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="middle"{weight}>'
        f"{text}</text>"
    )


def symbols(x: float, y: float, text: str, colour: str = INK, size: float = 17) -> str:
    """A formula, centred at x. Text between underscores is a variable, and italic."""
    styled = re.sub("_([^_]*)_", r'<tspan font-style="italic">\1</tspan>', text)
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}" text-anchor="middle" '
        f'font-family="Cambria, Georgia, &quot;DejaVu Serif&quot;, serif">{styled}</text>'
    )


def parameters(x: float, colours: tuple[str, str], copies: int) -> str:
    """The mean and the log variance that a network gives, one above the other."""
    boxes = rectangle(x, 128, (64, 34), colours, copies) + rectangle(
        x, 188, (64, 34), colours, copies
    )
    return boxes + symbols(x + 32, 150, "_μ_") + symbols(x + 32, 210, "log _σ_²")


def head(name: str, colour: str) -> str:
    """The head of an arrow, which arrows use by its name."""
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        f'markerHeight="7" orient="auto">'
        f'<path d="M0,0.6 L8,4 L0,7.4 z" fill="{colour}"/></marker>'
    )


def figure() -> str:
    """The whole figure."""
    title = (
        "From an example to its bound: encoder, noise, L samples of z, decoder, and the two terms"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" '
        f'font-family="Helvetica, Arial, &quot;DejaVu Sans&quot;, sans-serif" role="img" '
        f'aria-label="{title}">',
        f"<title>{title}</title>",
        f"<defs>{head('ink', INK)}{head('noise', NOISE[1])}</defs>",
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10" fill="#ffffff" '
        f'stroke="#c8ccd0"/>',
        # The data, and what the encoder makes of them.
        rectangle(26, 140, (56, 70), DATA, 3),
        symbols(54, 181, "_x_", size=20),
        words(60, 233, "B × D", GREY),
        network(124, 175, True, POSTERIOR, "encoder"),
        parameters(244, POSTERIOR, 1),
        words(276, 244, "B × J", GREY),
        # The noise, and the samples of z.
        rectangle(338, 34, (124, 38), NOISE, 3),
        symbols(400, 58, "_ε_ ~ N(0, I)", size=16),
        words(516, 49, "L × B × J", GREY),
        rectangle(338, 153, (124, 44), POSTERIOR, 3),
        symbols(400, 180, "_z_ = _μ_ + _σ_ ⊙ _ε_", size=16),
        words(400, 220, "L × B × J", GREY),
        # What the decoder makes of the samples.
        network(504, 175, False, LIKELIHOOD, "decoder"),
        parameters(624, LIKELIHOOD, 3),
        words(662, 244, "L × B × D", GREY),
        # The two terms, and their sum.
        rectangle(216, 292, (120, 44), POSTERIOR),
        symbols(276, 320, "KL(_q_ || _p_)"),
        words(276, 355, "closed form: B", GREY),
        rectangle(588, 292, (140, 44), LIKELIHOOD),
        symbols(658, 320, "log _p_(_x_ | _z_)"),
        words(658, 355, "L × B", GREY),
        rectangle(376, 362, (160, 46), DATA),
        words(456, 382, "bound: B", size=14, bold=True),
        words(456, 400, "mean over L, − KL", GREY),
        # The arrows between them.
        arrow((98, 175), (122, 175)),
        arrow((214, 158), (227, 145), (242, 145)),
        arrow((214, 192), (227, 205), (242, 205)),
        arrow((310, 145), (323, 145), (323, 167), (336, 167)),
        arrow((310, 205), (323, 205), (323, 183), (336, 183)),
        arrow((400, 72), (400, 139), colour=NOISE[1]),
        arrow((474, 175), (502, 175)),
        arrow((594, 158), (607, 145), (622, 145)),
        arrow((594, 192), (607, 205), (622, 205)),
        arrow((276, 252), (276, 290)),
        arrow((662, 252), (662, 290)),
        arrow((54, 242), (54, 274), (616, 274), (616, 290)),
        arrow((338, 314), (416, 314), (416, 360)),
        arrow((586, 314), (496, 314), (496, 360)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("vae.svg").write_text(figure(), encoding="utf8")
