"""Pictures of what a batch size does: paths, curves, memory, the last micro-batch.

Each function takes what was measured and returns a matplotlib `Figure`, to be saved
(`figure.savefig("curves.svg")`) or shown in a notebook. The one module that imports matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from streamfit.curves import Curve
from streamfit.errors import ConfigurationError, MissingDependencyError
from streamfit.types import FloatArray

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
except ImportError as error:
    raise MissingDependencyError(
        f'sf.plot needs matplotlib: pip install "streamfit[plot]" ({error})'
    ) from error

if TYPE_CHECKING:
    from streamfit.advice import Advice
    from streamfit.core.noise import GradientNoise

__all__ = ["convergence", "descent_paths", "effective_batch", "ladder", "last_batch", "memory"]

# Okabe and Ito's colours, told apart by colour-blind eyes too
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def descent_paths(
    paths: Mapping[str, FloatArray],
    loss: Callable[[FloatArray, FloatArray], FloatArray],
    names: tuple[str, str],
    *,
    title: str = "",
) -> Figure:
    """Draw the way of two parameters over the contours of their loss, one panel a path.

    Parameters
    ----------
    paths
        By name, the two parameters after each update: shape (n_updates + 1, 2).
    loss
        Mean loss of the data at two arrays of parameters of one shape.
    names
        What the two parameters are.
    title
        Of the figure.

    Examples
    --------
    >>> import numpy as np
    >>> import streamfit as sf
    >>> path = np.array([[0.0, 0.0], [0.5, 0.4], [0.8, 0.9]])
    >>> figure = sf.plot.descent_paths({"full batch": path}, lambda a, b: a**2 + b**2, ("a", "b"))
    >>> len(figure.axes)
    1
    """
    if not paths:
        raise ConfigurationError("there is no path to draw")
    figure, axes = _panels(len(paths), width=3.6, height=3.9, same_y=True)
    every = np.concatenate(list(paths.values()))
    low, high = every.min(axis=0), every.max(axis=0)
    room = np.maximum(0.12 * (high - low), 1e-6)
    a, b = (np.linspace(low[i] - room[i], high[i] + room[i], 121) for i in range(2))
    A, B = np.meshgrid(a, b)
    heights = np.asarray(loss(A, B))
    least = np.unravel_index(heights.argmin(), heights.shape)
    above = heights - heights[least]
    # closer together near the minimum, where the paths end
    levels = heights[least] + above.max() * np.linspace(0.02, 1.0, 14) ** 2
    for axis, (name, path), colour in zip(axes, paths.items(), _COLOURS, strict=False):
        axis.contour(A, B, heights, levels=levels, colors="#b8b8b8", linewidths=0.7)
        many = len(path) > 300
        axis.plot(
            *path.T, color=colour, linewidth=0.6 if many else 1.1,
            marker=None if many else ".", markersize=4, label=name,
        )  # fmt: skip
        axis.plot(*path[0], "o", color="black", markersize=6, fillstyle="none")
        axis.plot(*path[-1], "o", color="black", markersize=5)
        axis.plot(a[least[1]], b[least[0]], "*", color="black", markersize=10, fillstyle="none")
        axis.set_title(name, fontsize=9.5)
        axis.set_xlabel(names[0])
    axes[0].set_ylabel(names[1])
    figure.text(
        0.5, 0.0, "○ start   ● end   ☆ least loss on the grid drawn;  lines of equal loss in grey",
        ha="center", va="bottom", fontsize=8, color="#444444",
    )  # fmt: skip
    return _done(figure, title, bottom=0.05)


def convergence(
    curves: Mapping[str, Curve], *, title: str = "", ylabel: str = "mean loss of the data"
) -> Figure:
    """Draw the same learning curves three times: by epoch, by update and by second.

    Parameters
    ----------
    curves
        What `streamfit.curves.learning_curve` measured, by name.
    title
        Of the figure.
    ylabel
        What the loss is.

    Examples
    --------
    >>> import streamfit as sf
    >>> from streamfit.curves import learning_curve
    >>> X, y = [[1.0], [2.0], [3.0], [4.0]], [2.0, 4.0, 6.0, 8.0]
    >>> curves = {
    ...     f"batch size {n}": learning_curve(sf.LinearRegression(), X, y, batch_size=n, epochs=3)
    ...     for n in (1, 4)
    ... }
    >>> [axes.get_xlabel() for axes in sf.plot.convergence(curves).axes]
    ['epochs', 'updates', 'CPU seconds']
    """
    if not curves:
        raise ConfigurationError("there is no curve to draw")
    figure, axes = _panels(3, width=3.6, height=3.9, same_y=True)
    x_of: tuple[tuple[str, Callable[[Curve], FloatArray]], ...] = (
        ("epochs", lambda curve: curve.epochs),
        ("updates", lambda curve: curve.n_updates),
        ("CPU seconds", lambda curve: curve.seconds),
    )
    for axis, (label, x) in zip(axes, x_of, strict=True):
        for (name, curve), colour, marker in zip(curves.items(), _COLOURS, _MARKERS, strict=False):
            axis.plot(
                x(curve), curve.loss, color=colour, linewidth=1.2, label=name,
                marker=marker, markersize=3.5, markevery=max(1, len(curve.loss) // 8),
            )  # fmt: skip
        axis.set_xlabel(label)
        axis.grid(alpha=0.25)
        if label != "epochs":
            axis.set_xscale("log")
    axes[0].set_ylabel(ylabel)
    _legend(figure, axes[0], len(curves))
    return _done(figure, title, bottom=0.08)


def memory(held: Mapping[str, Mapping[int, float]], *, title: str = "") -> Figure:
    """Draw what learners hold in memory against their batch size.

    Parameters
    ----------
    held
        By the name of a learner, bytes by batch size.
    title
        Of the figure.

    Examples
    --------
    >>> import streamfit as sf
    >>> figure = sf.plot.memory({"LogisticRegression": {1: 2048, 32: 2048, 1024: 2048}})
    >>> figure.axes[0].get_xlabel()
    'batch size'
    """
    if not held:
        raise ConfigurationError("there is nothing to draw")
    figure, (axis,) = _panels(1, width=6.2, height=3.9)
    for (name, sizes), colour, marker in zip(held.items(), _COLOURS, _MARKERS, strict=False):
        x, y = zip(*sorted(sizes.items()), strict=True)
        axis.plot(x, y, color=colour, marker=marker, markersize=5, label=name)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda x, _: _bytes(x)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("batch size")
    axis.set_ylabel("memory held")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, frameon=False)
    return _done(figure, title)


def ladder(advice: Advice) -> Figure:
    """Draw what `sf.advise_batch_size` measured against the batch size.

    Parameters
    ----------
    advice
        What it returned.
    """
    rungs = advice.rungs
    at = np.arange(len(rungs))
    figure, (losses, speed, gradient) = _panels(3, width=3.6, height=3.9)
    drawn = [np.nan if rung.diverges else 1.0 for rung in rungs]  # the scale is for the others
    errors = [3.0 * e if np.isfinite(e) else 0.0 for e in advice.behind_error]
    losses.errorbar(
        at, np.multiply(drawn, [rung.progressive_loss for rung in rungs]), yerr=errors,
        color=_COLOURS[0], marker=_MARKERS[0], markersize=4, capsize=2, linewidth=1.2,
        label="progressive",
    )  # fmt: skip
    for values, k, label in (
        ([rung.loss_equal_samples for rung in rungs], 1, "held-out, equal samples"),
        ([rung.loss_equal_time for rung in rungs], 2, "held-out, equal time"),
    ):
        losses.plot(
            at, np.multiply(drawn, values), color=_COLOURS[k], marker=_MARKERS[k], markersize=4,
            linewidth=1.2, label=label,
        )  # fmt: skip
    losses.set_ylabel("mean loss")
    losses.legend(fontsize=7, frameon=False)
    speed.plot(at, [r.samples_per_second for r in rungs], color=_COLOURS[0], marker=_MARKERS[0])
    speed.set_ylabel("samples a second of CPU")
    speed.set_ylim(bottom=0.0)
    speed.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    gradient.plot(at, [r.cosine for r in rungs], color=_COLOURS[0], marker=_MARKERS[0])
    gradient.set_ylabel("cosine of a micro-batch's gradient\nand that of all samples")
    for axis in (losses, speed, gradient):
        axis.set_xticks(at, [rung.name for rung in rungs], rotation=60, fontsize=7.5)
        axis.set_xlabel("batch size")
        axis.grid(alpha=0.25)
        for k, rung in enumerate(rungs):
            if rung.batch_size == advice.recommended:
                axis.axvline(k, color="#888888", linestyle=":", linewidth=1.2)
    return _done(
        figure,
        "dotted: the recommended size; bars: 3 standard errors of the difference from the least"
        + ("; diverging sizes are left out" if advice.diverging else ""),
    )


def effective_batch(
    panels: Mapping[str, tuple[Mapping[str, Mapping[int, float]], GradientNoise | None]],
    *,
    title: str = "",
    ylabel: str = "progressive loss",
) -> Figure:
    """Draw the loss after equal samples against how many samples share an update.

    Parameters
    ----------
    panels
        By the name of a data set: curves by name, each the loss by the number of samples that all
        workers together take for an update; and the measured noise scale, where it is known, which
        is drawn with its interval.
    title
        Of the figure.
    ylabel
        What the loss is.

    Examples
    --------
    >>> import streamfit as sf
    >>> curves = {"synchronous": {1: 0.24, 8: 0.25, 64: 0.26}, "local": {8: 0.25, 64: 0.27}}
    >>> figure = sf.plot.effective_batch({"flights": (curves, None)})
    >>> figure.axes[0].get_xlabel()
    'samples of an update, all workers'
    """
    if not panels:
        raise ConfigurationError("there is nothing to draw")
    figure, axes = _panels(len(panels), width=4.9, height=3.9)
    for axis, (data, (curves, noise)) in zip(axes, panels.items(), strict=True):
        if noise is not None and np.isfinite(noise.scale):
            high = noise.high if np.isfinite(noise.high) else max(map(max, curves.values()))
            axis.axvspan(max(noise.low, 0.5), high, color="#888888", alpha=0.18, linewidth=0)
            axis.axvline(noise.scale, color="#666666", linestyle=":", linewidth=1.2)
        for (name, losses), colour, marker in zip(curves.items(), _COLOURS, _MARKERS, strict=False):
            x, y = zip(*sorted(losses.items()), strict=True)
            axis.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.2, label=name)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axis.set_xlabel("samples of an update, all workers")
        axis.set_title(data, fontsize=9.5)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel(ylabel)
    _legend(figure, axes[0], 3)
    return _done(figure, title, bottom=0.12)


def last_batch(
    steps: Mapping[str, Sequence[float]],
    losses: Mapping[str, Sequence[float]],
    *,
    title: str = "",
) -> Figure:
    """Draw what a small last micro-batch does under each way to deal with it.

    Parameters
    ----------
    steps
        For `"apply"`, `"scale"`, `"drop"` and `"carry"`: how far each update of one epoch moved
        the weights, the last one's included where there is one.
    losses
        For each, the mean loss after each epoch; drawn as the difference from the last of them.
    title
        Of the figure.

    Examples
    --------
    >>> import streamfit as sf
    >>> steps = {"apply": [1.0, 0.9, 1.1], "drop": [1.0, 0.9]}
    >>> losses = {"apply": [0.7, 0.6], "drop": [0.7, 0.61]}
    >>> [axes.get_xlabel() for axes in sf.plot.last_batch(steps, losses).axes]
    ['update of the first epoch', 'epochs']
    """
    if not steps or steps.keys() != losses.keys():
        raise ConfigurationError("steps and losses must have the same names, and at least one")
    figure, axes = _panels(2, width=5.0, height=3.9)
    width, reference = 0.8 / len(steps), list(steps)[-1]
    for k, ((name, lengths), colour, marker) in enumerate(
        zip(steps.items(), _COLOURS, _MARKERS, strict=False)
    ):
        at = np.arange(1, len(lengths) + 1) + (k - (len(steps) - 1) / 2) * width
        axes[0].bar(at, lengths, width=width, color=colour, label=name)
        epochs = np.arange(1, len(losses[name]) + 1)
        against = np.asarray(losses[name]) - np.asarray(losses[reference])
        axes[1].plot(epochs, against, color=colour, linewidth=1.2, marker=marker, markersize=3.5)
    longest = max(map(len, steps.values()))
    axes[0].set_xticks(range(1, longest + 1))
    axes[0].set_xlabel("update of the first epoch")
    axes[0].set_ylabel("how far it moved the weights")
    axes[1].set_xlabel("epochs")
    axes[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[1].set_ylabel(f"mean loss, less that under {reference}")
    axes[1].grid(alpha=0.25)
    _legend(figure, axes[0], len(steps))
    return _done(figure, title, bottom=0.08)


def _panels(n: int, width: float, height: float, same_y: bool = False) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * n, height))
    axes = figure.subplots(1, n, squeeze=False, sharey=same_y)[0]
    return figure, list(axes)


def _legend(figure: Figure, axis: Axes, columns: int) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=columns, fontsize=8.5, frameon=False)


def _done(figure: Figure, title: str, bottom: float = 0.0) -> Figure:
    if title:
        figure.suptitle(title, fontsize=11)
    figure.tight_layout(rect=(0.0, bottom, 1.0, 1.0))
    return figure


def _bytes(n: Any) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} TB"
