"""Curves of one or several runs in one picture: small multiples, one colour per run."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from smalti.errors import UsageError
from smalti.files import write_bytes
from smalti.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5C3E", "#000000")
"""Okabe and Ito's palette, told apart also by the colour-blind."""
FORMATS = (".png", ".svg")
_INK, _PALE = "#222222", "#999999"
_WIDTH, _ROW = 11.0, 2.15  # inches


class Panel(NamedTuple):
    """One small plot."""

    stage: str
    name: str
    """In metrics.jsonl."""
    title: str
    form: str = "{:.3g}"
    """How the newest value is written."""
    smooth: bool = False
    """Noisy: a running mean is drawn over the values."""
    from_zero: bool = False
    """The vertical axis begins at 0."""
    group: str = ""
    """Panels of one group share their vertical axis."""


ROWS: tuple[tuple[Panel, ...], ...] = (
    (
        Panel("tokenizer", "loss", "Loss", smooth=True),
        Panel("tokenizer", "validation_psnr", "Validation PSNR, dB", "{:.2f}"),
        Panel("tokenizer", "images_per_second", "Images per second", "{:.0f}", smooth=True, from_zero=True),
    ),
    (
        Panel("tokenizer", "codes_used", "Codes in use", "{:.1%}", from_zero=True),
        Panel("tokenizer", "perplexity", "Codebook perplexity", "{:.0f}", from_zero=True),
        Panel("tokenizer", "critic", "Critic's loss (1 = undecided)", "{:.2f}", smooth=True),
        Panel("tokenizer", "adversarial", "Adversarial loss", "{:.2f}", smooth=True),
    ),
    (
        Panel("prior", "loss", "Loss", smooth=True),
        Panel("prior", "validation_bits_per_token", "Validation bits per token", "{:.3f}"),
        Panel("prior", "images_per_second", "Images per second", "{:.0f}", smooth=True, from_zero=True),
    ),
    tuple(
        Panel("prior", f"nats_masked_{q}_{q + 25}", f"Nats, {q}–{q + 25} % masked", smooth=True, group="nats")
        for q in (0, 25, 50, 75)
    ),
)
"""Row by row; panels without values and rows without panels are left out."""


def plot(histories: Sequence[History], target: str | Path, *, force: bool = False) -> None:
    """Draw the curves of runs to `target`, a .png or .svg.

    Raises UsageError for another ending, without matplotlib, or if no run has reported anything yet.
    """
    path = Path(target)
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: the picture's name must end in .png or .svg", field="output")
    drawn = io.BytesIO()
    figure(histories).savefig(drawn, format=path.suffix[1:].lower(), dpi=150)
    write_bytes(path, drawn.getvalue(), force=force)


def figure(histories: Sequence[History]) -> Figure:
    """The picture, as a matplotlib figure. Raises UsageError as `plot` does."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("plots need matplotlib: pip install 'smalti[train]'") from None
    rows = [[panel for panel in row if any(_has(history, panel) for history in histories)] for row in ROWS]
    rows = [row for row in rows if row]
    if not rows:
        raise UsageError("nothing to plot yet: no run has reported anything")
    stages = [stage for i, stage in enumerate(row[0].stage for row in rows) if i == 0 or stage != rows[i - 1][0].stage]
    # heights in inches: a head with the names, a heading per stage, the rows
    head, heading = 0.55, 0.42
    height = head + heading * len(stages) + _ROW * len(rows)
    fig = Figure(figsize=(_WIDTH, height), facecolor="white")
    _head(fig, histories, height)
    y, stage = height - head, ""
    for row in rows:
        if row[0].stage != stage:
            stage = row[0].stage
            fig.text(0.35 / _WIDTH, (y - 0.22) / height, stage.capitalize(), size=12, weight="bold", color=_INK)
            y -= heading
        _row(fig, row, histories, y, height)
        y -= _ROW
    return fig


# --- parts ------------------------------------------------------------------------------------------------------------


def _has(history: History, panel: Panel) -> bool:
    return bool(history.series(panel.stage, panel.name)[0])


def _head(fig: Figure, histories: Sequence[History], height: float) -> None:
    """The name of the one run, or the legend of several."""
    if len(histories) == 1:
        fig.text(0.35 / _WIDTH, 1 - 0.34 / height, histories[0].name, size=14, weight="bold", color=_INK)
        return
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=_colour(i), linewidth=2.5) for i in range(len(histories))]
    fig.legend(
        lines,
        labels(histories),
        loc="upper left",
        bbox_to_anchor=(0.25 / _WIDTH, 1 - 0.08 / height),
        ncols=min(5, len(histories)),
        frameon=False,
        fontsize=10.5,
    )


def _row(fig: Figure, row: Sequence[Panel], histories: Sequence[History], top: float, height: float) -> None:
    """Panels side by side, `top` inches above the figure's lower edge."""
    left, gap, right = 0.62, 0.62, 0.2
    wide = (_WIDTH - left - right - gap * (len(row) - 1)) / len(row)
    shared: dict[str, Axes] = {}
    for i, panel in enumerate(row):
        box = ((left + i * (wide + gap)) / _WIDTH, (top - _ROW + 0.55) / height, wide / _WIDTH, (_ROW - 0.85) / height)
        axes = fig.add_axes(box, sharey=shared.get(panel.group))
        if panel.group:
            shared.setdefault(panel.group, axes)
        _panel(axes, panel, histories)


def _panel(axes: Axes, panel: Panel, histories: Sequence[History]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

    everything: list[float] = []
    for i, history in enumerate(histories):
        steps, values = history.series(panel.stage, panel.name)
        if not steps:
            continue
        line = smoothed(values) if panel.smooth else values
        if panel.smooth and len(values) > 1:
            axes.plot(steps, values, color=_colour(i), linewidth=0.7, alpha=0.3)
        dots = "o" if len(values) <= 25 and not panel.smooth else None
        axes.plot(steps, line, color=_colour(i), linewidth=1.6, marker=dots, markersize=3)
        everything += line[len(line) // 50 :] if panel.smooth else line  # the first losses would flatten all others
    if len(histories) == 1:
        axes.set_title(panel.form.format(everything[-1]), loc="right", fontsize=9.5, color=_colour(0), weight="bold")
    axes.set_title(panel.title, loc="left", fontsize=9.5, color=_INK)
    low, high = min(everything), max(everything)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.1
    if not panel.group:
        axes.set_ylim(0 if panel.from_zero else low - margin, high + margin)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    if "%" in panel.form:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: _thousands(step)))
    last = max(reports[-1].step for h in histories if (reports := h.reports.get(panel.stage)))
    axes.set_xlim(0, 1.03 * last)
    axes.set_xlabel("steps", fontsize=8, color=_PALE, loc="right", labelpad=1)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color=_PALE, labelcolor="#555555", length=2.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_PALE)


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _thousands(step: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if step >= size:
            return f"{step / size:g}{unit}"
    return f"{step:g}"


def labels(histories: Sequence[History]) -> list[str]:
    """The runs' names, or their paths where two have the same name."""
    names = [history.name for history in histories]
    return [str(h.path) if names.count(h.name) > 1 else h.name for h in histories]


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and its neighbours, a twentieth of all: centred, so that the curve does not lag behind."""
    reach = len(values) // 40
    sums = [0.0, *accumulate(values)]
    ends = [(max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values))]
    return [(sums[b] - sums[a]) / (b - a) for a, b in ends]
