"""The advice on batch sizes as one HTML file: table, reasons and plots, nothing from outside."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

from streamfit import plot

if TYPE_CHECKING:
    from streamfit.advice import Advice
    from streamfit.curves import Curve

__all__ = ["html"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
       color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25rem .7rem; border-bottom: 1px solid #ddd }
tr.recommended { background: #e8f1fa; font-weight: 600 }
img { max-width: 100%; margin: 1rem 0 }
p.small { color: #666; font-size: 13px }
"""

_NOTES = """Progressive loss: mean loss of one pass, each sample tested before it is learned; above
the least: difference from the best size on the same samples, with its standard error. Equal
samples, equal time: loss of the held-out samples after that pass, and after the same CPU time.
Noise/signal: noise of an update's gradient over its squared length. Cosine: between a micro-batch's
gradient and that of all samples. Both at the weights after one pass. Diverges: an update was
refused, or the progressive loss, or that of training and of held-out samples both, became more than
twice what it was before anything was learned."""


def html(advice: Advice) -> str:
    """Return the report."""
    head = "".join(f"<th>{escape(name)}</th>" for name in advice.columns)
    rows = "".join(
        ("<tr class='recommended'>" if rung.batch_size == advice.recommended else "<tr>")
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for rung, row in zip(advice.rungs, advice.rows(), strict=True)
    )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in advice.reasons)
    figures = (plot.ladder(advice), plot.convergence(_few(advice), ylabel="held-out loss"))
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Which batch size?</title>"
        f"<style>{_STYLE}</style><h1>Which batch size?</h1><ul>{reasons}</ul>"
        f"<p class='small'>{advice.n_train:,} samples to train on, {advice.n_held_out:,} held out."
        f"</p><table><tr>{head}</tr>{rows}</table><p class='small'>{_NOTES}</p>"
        + "".join(f"<img alt='' src='data:image/png;base64,{_png(f)}'>" for f in figures)
        + "</html>\n"
    )


def _few(advice: Advice) -> dict[str, Curve]:
    """Return the curves of six sizes at most, the recommended one among them; none diverges."""
    rungs = [rung for rung in advice.rungs if not rung.diverges]
    n = len(rungs)
    chosen = {round(k * (n - 1) / 4) for k in range(5)} if n > 6 else set(range(n))
    chosen |= {k for k, rung in enumerate(rungs) if rung.batch_size == advice.recommended}
    return {f"batch size {rungs[k].name}": rungs[k].curve for k in sorted(chosen)}


def _png(figure: Any) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return base64.b64encode(data.getvalue()).decode()
