"""Seeing a training run, and asking its model, over HTTP: the `serve` extra.

The trainer publishes plain, immutable snapshots on a `Board`; a server in a thread of its own shows
what is there. It never touches the learner that is being trained.
"""

from streamfit.serving.directory import StateServer
from streamfit.serving.monitor import WebMonitor

__all__ = ["StateServer", "WebMonitor"]
