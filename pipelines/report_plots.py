"""Curves as pictures that live inside the page: SVG for the report, small PNGs for Prefect's Markdown.

Colours are Okabe and Ito's (2008), told apart by colour-blind readers; lines differ in stroke as well.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#6B7280"
COLOURS, STROKES = (BLUE, ORANGE, GREEN, GREY), ("-", "--", "-.", ":")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9CA3AF",
    "axes.labelcolor": "#374151",
    "axes.grid": True,
    "grid.color": "#E5E7EB",
    "grid.linewidth": 0.8,
    "xtick.color": "#4B5563",
    "ytick.color": "#4B5563",
    "legend.frameon": False,
    "svg.hashsalt": "textmill",  # the same picture is the same bytes
    "figure.constrained_layout.use": True,
}


def loss_curve(curve: dict[str, Any], kind: str = "svg", dpi: int = 80) -> str:
    """A data URI: training and held-out loss over steps, and the unigram line a model must get below."""
    import matplotlib  # late: half a second that a run without a report need not pay

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(5.6, 3.1))
        try:
            _draw(axes, curve)
            return _uri(figure, kind, dpi)
        finally:
            pyplot.close(figure)


def training_curves(curve: dict[str, Any]) -> str:
    """A data URI: beside the loss, what else was told of a training, one small chart a figure; empty when nothing was."""
    charts = [(title, drawn) for title, draw in CHARTS if (drawn := draw(curve["points"]))]
    if not charts:
        return ""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(charts) // 2)
    with matplotlib.rc_context(STYLE):
        figure, grid = pyplot.subplots(rows, 2, figsize=(9.6, 2.1 * rows), squeeze=False)
        try:
            for axes, (title, lines) in zip(grid.flat, charts, strict=False):
                for (name, points), colour, stroke in zip(lines.items(), COLOURS, STROKES, strict=False):
                    mark = "o" if len(points) < 4 else ""  # a line of one point is not to be seen
                    axes.plot(
                        *zip(*points, strict=True), color=colour, linestyle=stroke, linewidth=1.3, marker=mark, markersize=4, label=name
                    )
                axes.set_title(title, loc="left", fontsize=9)
                axes.set_xlabel("step")
                axes.margins(x=0.03)
                if len(lines) > 1:
                    axes.legend(fontsize=8)
            for axes in list(grid.flat)[len(charts) :]:
                axes.set_axis_off()
            return _uri(figure, "svg", 80)
        finally:
            pyplot.close(figure)


Lines = dict[str, list[tuple[int, float]]]


def _parts(points: list[dict[str, Any]]) -> Lines:
    names = sorted({name for point in points for name in point.get("parts", {})})
    if len(names) < 2:
        return {}
    return {name: [(p["step"], p["parts"][name]) for p in points if name in p.get("parts", {})] for name in names[: len(COLOURS)]}


def _one(*names: str, unit: float = 1.0, inside: str = "") -> Callable[[list[dict[str, Any]]], Lines]:
    """The lines of these figures, where at least one point tells them."""

    def lines(points: list[dict[str, Any]]) -> Lines:
        rows = [(p["step"], p.get(inside) or {} if inside else p) for p in points]
        found = {name.replace("_", " "): [(step, row[name] * unit) for step, row in rows if row.get(name) is not None] for name in names}
        return {name: line for name, line in found.items() if line}

    return lines


CHARTS: tuple[tuple[str, Callable[[list[dict[str, Any]]], Lines]], ...] = (
    ("parts of the loss (nats)", _parts),
    ("gradient norm before clipping", _one("norm")),
    ("learning rate", _one("lr")),
    ("thousand tokens a second", _one("real_tokens_per_s", "computed_tokens_per_s", unit=1e-3, inside="speed")),
    ("% of the device's ceiling (MFU)", _one("mfu", unit=100, inside="speed")),
    ("% of the time that waits", _one("data_wait", "communication", unit=100, inside="speed")),
    ("peak memory of the fullest rank (GB)", _one("peak_bytes", unit=1e-9, inside="speed")),
    ("held-out bits per byte", _one("valid_bits_per_byte")),
    ("held-out perplexity", _one("valid_perplexity")),
)


def _draw(axes: Any, curve: dict[str, Any]) -> None:
    points = curve["points"]
    part = _shown_part(curve)
    steps, losses = _series(points, "loss", "parts", part)
    axes.plot(steps, losses, color=BLUE, linewidth=1.1, alpha=0.85, label="training")
    steps, losses = _series(points, "valid_loss", "valid_parts", part)
    if steps:
        axes.plot(steps, losses, color=ORANGE, linewidth=1.8, marker="o", markersize=4, label="held out")
        axes.annotate(f"{losses[-1]:.2f}", (steps[-1], losses[-1]), xytext=(4, 4), textcoords="offset points", color=ORANGE, weight="bold")
    if curve.get("unigram"):
        axes.axhline(curve["unigram"], color=GREY, linestyle=(0, (5, 3)), linewidth=1.4, label=f"unigram {curve['unigram']:.2f}")
    axes.set_xlabel("step")
    axes.set_ylabel(f"{part or 'loss'} (nats)")
    axes.margins(x=0.04)
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, borderaxespad=0.2, handlelength=1.8)


def _shown_part(curve: dict[str, Any]) -> str:
    """The part that predicts tokens, where a loss has several: only that one compares with the unigram line."""
    parts: dict[str, float] = next((point["parts"] for point in curve["points"] if point.get("parts")), {})
    return next((name for name in ("next", "mlm") if name in parts and len(parts) > 1), "")


def _series(points: list[dict[str, Any]], total: str, parts: str, part: str) -> tuple[list[int], list[float]]:
    found = [(point["step"], point.get(parts, {}).get(part) if part else point.get(total)) for point in points]
    kept = [(step, value) for step, value in found if value is not None]
    return [step for step, _ in kept], [value for _, value in kept]


def _uri(figure: Any, kind: str, dpi: int) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi, metadata={"Date": None} if kind == "svg" else None)
    media = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{media};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def last_valid(curve: dict[str, Any]) -> float | None:
    """The last held-out loss of the part that predicts tokens."""
    _, losses = _series(curve["points"], "valid_loss", "valid_parts", _shown_part(curve))
    return losses[-1] if losses else None
