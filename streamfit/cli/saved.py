"""What a checkpoint says of itself: the model in it, and how its samples were read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamfit.checkpoint import Checkpoint, Checkpointer, read, transformer_of
from streamfit.core.learner import LinearLearner
from streamfit.errors import CheckpointError, CheckpointMismatchError
from streamfit.verification import fresh_model

__all__ = ["fields_of", "model_of", "open_checkpoint"]


def open_checkpoint(state: Path, number: int | None) -> Checkpoint:
    """Read a checkpoint of a directory: the newest one that is valid, or the one asked for.

    Raises
    ------
    CheckpointError
        When there is none, or the one asked for is not there or not valid.
    """
    checkpointer = Checkpointer(state)
    if number is None:
        if (saved := checkpointer.latest()) is not None:
            return saved
        raise CheckpointError(f"there is no checkpoint in {state}")
    file = state / f"checkpoint-{number:08d}.safetensors"
    if file not in checkpointer.list():
        raise CheckpointError(
            f"there is no checkpoint {number} in {state}; streamfit checkpoints {state} lists them"
        )
    return read(file)


def model_of(saved: Checkpoint) -> LinearLearner:
    """Make the model that was saved, from the checkpoint alone.

    Raises
    ------
    CheckpointMismatchError
        When it is not one of streamfit's own: a Keras or River model is code as well.
    """
    try:
        model = fresh_model(saved.config)
    except CheckpointMismatchError:
        model = None
    if not isinstance(model, LinearLearner):
        raise CheckpointMismatchError(
            f"the model is a {saved.config.get('id')}: a checkpoint alone makes only streamfit's "
            "own linear models again. In Python, make the same learner and load it: "
            "learner.load_state_dict(sf.Checkpointer(path).latest().model)"
        )
    if (transformer := transformer_of(saved)) is not None:
        raise CheckpointMismatchError(
            f"the model learned what {transformer:.100} made of the samples, and a checkpoint does "
            "not make that again: predict from Python, with the same transformer before the model"
        )
    model.load_state_dict(saved.model)
    return model


def fields_of(saved: Checkpoint) -> dict[str, Any]:
    """Return how the samples were read: the label, the weight, the features, the decoder."""
    source = saved.trainer.get("source") or {}
    while isinstance(source.get("source"), dict):  # windows over another source
        source = source["source"]
    found = dict(source)
    decoder = dict(found.pop("decoder", None) or {})
    names = ("target", "weight", "features")
    fields = {
        name: value for name in names if (value := {**found, **decoder}.get(name)) is not None
    }
    if decoder:
        fields["decoder"] = {name: v for name, v in decoder.items() if name not in names}
    return fields
