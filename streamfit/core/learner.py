"""The one gradient path: every linear learner learns through `LinearLearner`.

A sample takes the same way whether it comes alone (`learn_one`), in a table (`learn_many`) or
in a block of a stream (`learn_block`): into the kernel, which adds its gradient to the pending
sum and updates when `batch_size` samples are in.
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar, Self

import numpy as np

from streamfit._kernels import OPTIMIZERS, FeatureIndex, LinearKernel
from streamfit.core import frames, losses, optim, schedules
from streamfit.core.features import features_config, features_from_config
from streamfit.core.validation import check_choice, check_flag, check_integer, check_real
from streamfit.errors import BadSampleError, CheckpointMismatchError, ConfigurationError
from streamfit.types import Block, FeatureName, FloatArray, StateDict

__all__ = ["LAST_BATCH", "LinearLearner"]

LAST_BATCH = ("apply", "scale", "drop", "carry")
"""What may be done with the partial micro-batch at the end of an epoch."""


class LinearLearner:
    """Base of the linear learners: parameters, micro-batches, state.

    Subclasses name their losses and say what a prediction is.
    """

    _losses: ClassVar[tuple[type[losses.Loss], ...]]
    """The losses that fit the learner, the default first."""

    def __init__(
        self,
        optimizer: optim.Optimizer | None = None,
        loss: losses.Loss | None = None,
        batch_size: int | schedules.BatchSizeSchedule | None = 1,
        reduction: str = "mean",
        l2: float = 0.0,
        l1: float = 0.0,
        fit_intercept: bool = True,
        intercept_lr: float | None = None,
        clip_gradient: float | None = None,
        features: FeatureIndex | None = None,
    ) -> None:
        self.optimizer = optim.SGD(0.01) if optimizer is None else optimizer
        known = isinstance(self.optimizer, optim.Optimizer) and hasattr(self.optimizer, "id")
        if not known or self.optimizer.id not in OPTIMIZERS:
            raise ConfigurationError(f"optimizer must be one of sf.optim, not {optimizer!r:.80}")
        self.loss = self._losses[0]() if loss is None else loss
        if not isinstance(self.loss, self._losses):
            names = ", ".join(f"sf.losses.{kind.__name__}" for kind in self._losses)
            raise ConfigurationError(
                f"loss of {type(self).__name__} must be one of {names}, not {loss!r}"
            )
        self.batch_size = (
            batch_size
            if batch_size is None or isinstance(batch_size, schedules.BatchSizeSchedule)
            else check_integer("batch_size", batch_size, minimum=1)
        )
        self.reduction = check_choice("reduction", reduction, ("mean", "sum"))
        self.l2 = check_real("l2", l2, minimum=0.0)
        self.l1 = check_real("l1", l1, minimum=0.0)
        if self.l1 > 0.0 and isinstance(self.optimizer, optim.FTRLProximal):
            raise ConfigurationError(
                "l1 of the learner pulls at steps, and FTRLProximal makes none; use its own l1"
            )
        self.fit_intercept = check_flag("fit_intercept", fit_intercept)
        self.intercept_lr = (
            None if intercept_lr is None else check_real("intercept_lr", intercept_lr, minimum=0.0)
        )
        self.clip_gradient = (
            None
            if clip_gradient is None
            else check_real("clip_gradient", clip_gradient, positive=True)
        )
        if features is not None and not isinstance(features, FeatureIndex):
            raise ConfigurationError(
                f"features must be a FeatureIndex, not {type(features).__name__}"
            )
        self.features = features
        self._target_name: str | None = None
        self._kernel = LinearKernel(
            FeatureIndex() if features is None else features.copy(),
            loss=self.loss.get_config(),
            optimizer=self.optimizer.get_config(),
            schedule=self.optimizer.schedule.get_config(),
            batch_size=self._batch_size_config(),
            mean=self.reduction == "mean",
            l2=self.l2,
            l1=self.l1,
            fit_intercept=self.fit_intercept,
            intercept_lr=self.intercept_lr,
            clip_gradient=self.clip_gradient,
        )

    def _batch_size_config(self) -> int | dict[str, Any] | None:
        if isinstance(self.batch_size, schedules.BatchSizeSchedule):
            return self.batch_size.get_config()
        return self.batch_size

    # ---- learning

    def learn_one(self, x: Any, y: Any, w: float = 1.0) -> None:
        """Learn one sample; the weights move when `batch_size` samples are in.

        Parameters
        ----------
        x
            Mapping of feature name to number, or a 1-D array. A feature that is absent is 0.
        y
            The label.
        w
            Weight of the sample, >= 0.

        Raises
        ------
        BadSampleError
            When the sample is refused; nothing has changed then.
        """
        self._kernel.learn_mapping(x, y, w)

    def learn_many(self, X: Any, y: Any, w: Any = None) -> None:
        """Learn the rows of a table in order, exactly as `learn_one` would one by one.

        Parameters
        ----------
        X
            Array of shape (n, n_features), or a pandas, polars or Arrow frame.
        y
            `n` labels.
        w
            `n` sample weights, one number for all, or None (1 each).

        Raises
        ------
        BadSampleError
            When a row is refused; it names row and feature, and nothing of the call has been
            learned then.
        """
        block = self._as_block(X, y, w)
        self._target_name = getattr(y, "name", None)
        before = self._kernel.snapshot()
        try:
            self.learn_block(block, 0, len(block))
        except BaseException:
            self._kernel.restore(before)
            raise

    def learn_block(
        self, block: Block, start: int, stop: int, predictors: FloatArray | None = None
    ) -> None:
        """Learn samples `start` to `stop` of a block.

        Parameters
        ----------
        block
            Samples that arrived together.
        start, stop
            The range to learn.
        predictors
            Array of shape (len(block),) that receives each sample's linear predictor as it was
            before the sample was learned.

        Raises
        ------
        BadSampleError
            At the first bad sample, with its place. The samples before it are learned.
        """
        before = self._kernel.n_samples
        try:
            if not isinstance(block.x, np.ndarray):
                self._kernel.learn_mappings(block.x, block.y, block.w, start, stop, predictors)
            else:
                self._learn_table(block, start, stop, predictors)
        except BadSampleError as error:
            i = start + self._kernel.n_samples - before
            offset = block.offsets[i] if i < len(block.offsets) else i
            raise error.at(block.source, block.partition, offset) from None

    def _learn_table(
        self, block: Block, start: int, stop: int, predictors: FloatArray | None
    ) -> None:
        table, labels = np.asarray(block.x)[start:stop], block.y[start:stop]
        weights = None if block.w is None else block.w[start:stop]
        X, y = frames.as_float64(table), frames.as_float64(frames.as_array(labels))
        w = None if weights is None else frames.as_float64(frames.as_array(weights))
        out = None if predictors is None else predictors[start:stop]
        if X is None or y is None or (w is None and block.w is not None):
            rows = frames.rows_of(table, block.features)
            self._kernel.learn_mappings(rows, labels, weights, 0, stop - start, out)
            return
        index = self._kernel.index
        known = len(index)
        learned = self._kernel.n_samples
        try:
            columns = index.align(block.features, X.shape[1], grow=True)
            if columns is not None:
                X = _gather(X, columns, len(index))
            self._kernel.learn_matrix(X, y, w, 0, stop - start, out)
        finally:
            if self._kernel.n_samples == learned:  # the first row was refused, with its features
                self._kernel.forget_features(known)

    def _as_block(self, X: Any, y: Any, w: Any) -> Block:
        table, names = frames.as_table(X)
        n = len(table)
        if w is not None:
            w = np.full(n, w) if frames.is_scalar(w) else frames.as_vector(w, "w", n)
        return Block(
            x=table,
            y=frames.as_vector(y, "y", n),
            w=w,
            source="learn_many",
            offsets=range(n),
            features=names,
        )

    def flush(self, last_batch: str = "apply") -> None:
        """Deal with a partial micro-batch now; does nothing when no sample is pending.

        Parameters
        ----------
        last_batch
            `"apply"`: update with the pending samples (as Keras). `"scale"`: the same, the
            learning rate multiplied by `n_pending / batch_size`. `"drop"`: forget them (as
            PyTorch's `drop_last`). `"carry"`: keep them pending. Under `batch_size=None` the
            pending samples *are* the whole micro-batch and are applied in full, always.
        """
        check_choice("last_batch", last_batch, LAST_BATCH)
        if self.batch_size is None or last_batch == "apply":
            self._kernel.flush(1.0)
        elif last_batch == "scale":
            self._kernel.flush(self._kernel.n_pending / self._kernel.batch_size)
        elif last_batch == "drop":
            self._kernel.discard()

    # ---- progressive loss: each sample's loss before it was learned

    @property
    def track_loss(self) -> bool:
        """Whether each sample's loss is added to `loss_sum` before the sample is learned."""
        return self._kernel.track_loss

    @track_loss.setter
    def track_loss(self, value: bool) -> None:
        self._kernel.track_loss = value

    @property
    def loss_sum(self) -> float:
        """Sum of the tracked losses, each times its sample's weight."""
        return self._kernel.loss_sum

    @loss_sum.setter
    def loss_sum(self, value: float) -> None:
        self._kernel.loss_sum = value

    @property
    def loss_weight(self) -> float:
        """Sum of the weights of the samples in `loss_sum`."""
        return self._kernel.loss_weight

    @loss_weight.setter
    def loss_weight(self, value: float) -> None:
        self._kernel.loss_weight = value

    # ---- what is known

    @property
    def n_samples(self) -> int:
        """Samples learned or pending."""
        return self._kernel.n_samples

    @property
    def n_updates(self) -> int:
        """Updates of the weights (Keras: iterations)."""
        return self._kernel.n_updates

    @property
    def n_pending(self) -> int:
        """Samples taken in whose update has not happened yet."""
        return self._kernel.n_pending

    @property
    def current_batch_size(self) -> int | None:
        """Size of the micro-batch that is being filled, None for a full batch."""
        return self._kernel.batch_size or None

    @property
    def n_refused(self) -> int:
        """Updates refused because they would have made a weight non-finite."""
        return self._kernel.n_refused

    @property
    def weights(self) -> dict[FeatureName, float]:
        """The weight of each feature."""
        parameters = self._kernel.state()["parameters"]
        return dict(zip(self._kernel.index.names, parameters[1:].tolist(), strict=True))

    @property
    def intercept(self) -> float:
        """The intercept."""
        return self._kernel.intercept

    # ---- state

    def state_dict(self) -> StateDict:
        """Return everything that learning depends on, as arrays and JSON-safe values.

        `parameters`, the optimizer's `slot_1` and `slot_2` and the pending `gradient` are
        float64 of shape (1 + n_features,), the intercept first.
        """
        return {**self._kernel.state(), "features": list(self._kernel.index.names)}

    def load_state_dict(self, state: StateDict) -> None:
        """Continue from `state`, which a learner of the same configuration returned.

        Raises
        ------
        CheckpointMismatchError
            When the state does not fit; nothing has changed then.
        """
        names = state.get("features") if isinstance(state, dict) else None
        if not isinstance(names, list):
            raise CheckpointMismatchError("the state has no list of features")
        known = [] if self.features is None else self.features.names
        if names[: len(known)] != known:
            raise CheckpointMismatchError(f"the state's features do not begin with {known!r:.80}")
        try:
            index = FeatureIndex(names, self._kernel.index.fixed and bool(names))
        except ConfigurationError as error:
            raise CheckpointMismatchError(f"the state's features are refused: {error}") from None
        self._check_state(state, len(names))
        self._kernel.load(
            {
                k: np.ascontiguousarray(v) if isinstance(v, np.ndarray) else v
                for k, v in state.items()
            },
            index,
        )

    def _check_state(self, state: StateDict, n_features: int) -> None:
        expected = {**self._kernel.state(), "features": None}
        expected.pop("gradient", None)
        if state.get("n_pending"):
            expected["gradient"] = expected["parameters"]
        if set(state) != set(expected):
            raise CheckpointMismatchError(
                f"the state has {sorted(state)}, this model needs {sorted(expected)}"
            )
        for name, known in expected.items():
            value = state[name]
            if isinstance(known, np.ndarray):
                fits = (
                    isinstance(value, np.ndarray)
                    and value.dtype == np.float64
                    and value.shape == (1 + n_features,)
                    and (name == "gradient" or bool(np.isfinite(value).all()))
                )
            elif isinstance(known, int):
                fits = type(value) is int and 0 <= value < 2**62
            elif isinstance(known, float):
                fits = isinstance(value, float) and 0.0 <= value < np.inf
            else:
                continue
            if not fits:
                raise CheckpointMismatchError(f"the state's {name} does not fit: {value!r:.80}")
        if state["n_pending"] > state["n_samples"]:
            raise CheckpointMismatchError("the state has more pending samples than samples")
        size = state["batch_size"]
        if not isinstance(self.batch_size, schedules.BatchSizeSchedule) and size != (
            self.batch_size or 0
        ):
            raise CheckpointMismatchError(f"the state is of batch_size {size}")
        if (size or self.batch_size is not None) and state["n_pending"] >= size:
            raise CheckpointMismatchError(
                f"{state['n_pending']} pending samples in micro-batches of {size}"
            )

    def digest(self) -> str:
        """Return the SHA-256 of parameters, optimizer state, counters and pending sums.

        Two learners with equal digests hold the same numbers, bit for bit (0.0 and -0.0 are
        the same number). Feature names and configuration do not enter.
        """
        sha = hashlib.sha256()
        for name, value in sorted(self._kernel.state().items()):
            if isinstance(value, np.ndarray):
                sha.update(f"{name} {value.shape} ".encode())
                sha.update((value + 0.0).astype("<f8").tobytes())
            else:
                sha.update(f"{name} {value!r} ".encode())
        return sha.hexdigest()

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments in JSON-safe form."""
        return {
            "id": type(self).__name__,
            "optimizer": self.optimizer.get_config(),
            "loss": self.loss.get_config(),
            "batch_size": self._batch_size_config(),
            "reduction": self.reduction,
            "l2": self.l2,
            "l1": self.l1,
            "fit_intercept": self.fit_intercept,
            "intercept_lr": self.intercept_lr,
            "clip_gradient": self.clip_gradient,
            "features": features_config(self.features),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a fresh learner from what `get_config` returned.

        Raises
        ------
        ConfigurationError
            When the configuration is another class's or holds unknown entries.
        """
        if not isinstance(config, dict):
            raise ConfigurationError(f"not a configuration of {cls.__name__}: {config!r:.80}")
        options = dict(config)
        kind = options.pop("id", None)
        if kind != cls.__name__:
            raise ConfigurationError(f"the configuration is of {kind!r}, not {cls.__name__}")
        try:
            options["optimizer"] = optim.from_config(options["optimizer"])
            options["loss"] = losses.from_config(options["loss"])
            options["batch_size"] = schedules.batch_size_from_config(options["batch_size"])
            options["features"] = features_from_config(options["features"])
            return cls(**options)
        except (KeyError, TypeError) as error:
            raise ConfigurationError(f"not a configuration of {cls.__name__}: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.get_config(), self.state_dict())

    # ---- predicting

    def _predictor_one(self, x: Any) -> float:
        return self._kernel.predict_mapping(x)

    def _predictor_many(self, X: Any) -> FloatArray:
        table, names = frames.as_table(X)
        matrix = frames.as_float64(table)
        if matrix is None:
            return np.array([self._predictor_one(row) for row in frames.rows_of(table, names)])
        index = self._kernel.index
        columns = index.align(names, matrix.shape[1], grow=False)
        if columns is not None:
            matrix = _gather(matrix, columns, len(index))
        predictions = self._kernel.predict_matrix(matrix)
        if not np.isfinite(predictions).all():
            for row in np.flatnonzero(~np.isfinite(matrix).all(axis=1)):
                column = int(np.flatnonzero(~np.isfinite(matrix[row]))[0])
                raise BadSampleError(
                    f"value {matrix[row, column]} is not finite", feature=index.names[column]
                ).at("predict_many", 0, int(row))
        return predictions


def _gather(matrix: FloatArray, columns: list[int], n_features: int) -> FloatArray:
    """Move each column of `matrix` to its place in the feature index; absent features are 0."""
    gathered = np.zeros((len(matrix), n_features))
    known = [i for i, column in enumerate(columns) if column >= 0]
    gathered[:, [columns[i] for i in known]] = matrix[:, known]
    return gathered


def _rebuild(
    kind: type[LinearLearner], config: dict[str, Any], state: dict[str, Any]
) -> LinearLearner:
    """Make a copy of a learner (for `copy.deepcopy` and pickle)."""
    learner = kind.from_config(config)
    learner.load_state_dict(state)
    return learner
