"""The one gradient path: every linear learner learns through `LinearLearner`.

A sample takes the same way whether it comes alone (`learn_one`), in a table (`learn_many`) or
in a block of a stream (`learn_block`): into the kernel, which adds its gradient to the pending
sum and updates when `batch_size` samples are in. `learn_one` and predicting one sample are the
kernel's own methods, for a Python call costs more than a small sample's arithmetic.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from streamfit._kernels import (
    OPTIMIZERS,
    FeatureIndex,
    HashedFeatures,
    LinearKernel,
    Snapshot,
    exact_label,
)
from streamfit.core import frames, losses, optim, schedules, sparse
from streamfit.core.features import check_features, features_config, features_from_config
from streamfit.core.scaler import StandardScaler, scaler_from_config
from streamfit.core.state import check_state, digest_of, with_fresh_optimizer
from streamfit.core.validation import check_choice, check_flag, check_integer, check_real
from streamfit.errors import (
    BadSampleError,
    CheckpointMismatchError,
    ConfigurationError,
    UnsupportedError,
)
from streamfit.types import Block, FeatureName, FloatArray, Label, StateDict

__all__ = ["LAST_BATCH", "LinearLearner"]

LAST_BATCH = ("apply", "scale", "drop", "carry")
"""What may be done with the partial micro-batch at the end of an epoch."""


class LinearLearner(LinearKernel):
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
        features: FeatureIndex | HashedFeatures | str | None = None,
        scaler: StandardScaler | None = None,
        dtype: str = "float64",
        max_weight: float | None = None,
    ) -> None:
        self._check_arguments(
            optimizer, loss, batch_size, reduction, l2, l1, fit_intercept, intercept_lr,
            clip_gradient, features, scaler, dtype, max_weight,
        )  # fmt: skip
        self._target_name: str | None = None
        self._start(())

    def _check_arguments(
        self,
        optimizer: optim.Optimizer | None,
        loss: losses.Loss | None,
        batch_size: int | schedules.BatchSizeSchedule | None,
        reduction: str,
        l2: float,
        l1: float,
        fit_intercept: bool,
        intercept_lr: float | None,
        clip_gradient: float | None,
        features: FeatureIndex | HashedFeatures | str | None,
        scaler: StandardScaler | None,
        dtype: str,
        max_weight: float | None,
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
        self.features = check_features(features)
        if scaler is not None and not isinstance(scaler, StandardScaler):
            raise ConfigurationError(f"scaler must be a StandardScaler or None, not {scaler!r:.60}")
        if scaler is not None and isinstance(self.features, HashedFeatures):
            raise ConfigurationError(
                "scaler: subtracting the mean would make every hashed sample dense; scale the "
                "values before they are hashed"
            )
        self.scaler = scaler
        self.dtype = check_choice("dtype", dtype, ("float64", "float32"))
        self.max_weight = (
            None if max_weight is None else check_real("max_weight", max_weight, positive=True)
        )

    def _start(self, classes: tuple[Label, ...]) -> None:
        """Make the numbers of a fresh model."""
        features = self.features
        self._configure(
            features.copy() if isinstance(features, FeatureIndex) else FeatureIndex(),
            hashing=features if isinstance(features, HashedFeatures) else None,
            classes=classes,
            classes_fixed=bool(classes),
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
            max_weight=self.max_weight,
            standardize=self.scaler is not None,
            single=self.dtype == "float32",
        )

    def _batch_size_config(self) -> int | dict[str, Any] | None:
        if isinstance(self.batch_size, schedules.BatchSizeSchedule):
            return self.batch_size.get_config()
        return self.batch_size

    # ---- learning

    def learn_many(self, X: Any, y: Any, w: Any = None) -> None:
        """Learn the rows of a table in order, exactly as `learn_one` would one by one.

        Parameters
        ----------
        X
            Array of shape (n, n_features), a pandas, polars or Arrow frame, or a sparse matrix of
            scipy's (CSR; others are converted).
        y
            `n` labels.
        w
            `n` sample weights, one number for all, or None (1 each).

        Raises
        ------
        BadSampleError
            When a row is refused; it names row and feature, and nothing of the call has been
            learned then.

        Notes
        -----
        To be all or nothing each call keeps a copy of the model meanwhile, which costs O(features):
        with many more features than a table has numbers use `learn_one`, or a `Trainer`.
        """
        before = self.snapshot()
        try:
            if self._learn_at_once(X, y, w, before):
                return
            block = self._as_block(X, y, w)
            self._target_name = getattr(y, "name", None)
            self.learn_block(block, 0, len(block))
        except BaseException:
            self.restore(before)
            raise

    def _learn_at_once(self, X: Any, y: Any, w: Any, before: Snapshot) -> bool:
        """Learn arrays that are as the kernel wants them: small batches are mostly overhead.

        Returns whether it was done. A bad sample is left to the usual way, which says where it is.
        """
        if (
            type(X) is not np.ndarray
            or type(y) is not np.ndarray
            or w is not None
            or X.dtype != self.dtype
            or X.ndim != 2
            or X.shape[1] != len(self.index)
            or y.shape != X.shape[:1]
            or y.dtype.kind not in "fiub"
            or self._classes is not None
            or self.hashing is not None
            or not X.flags.c_contiguous
            or not X.shape[1]
        ):
            return False
        labels = y if y.dtype == np.float64 and y.flags.c_contiguous else y.astype(np.float64)
        try:
            self.learn_table(X, labels, None)
        except BadSampleError:
            self.restore(before)
            return False
        self._target_name = None
        return True

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
            What `new_predictors` made for the block; receives each sample's linear predictors as
            they were before the sample was learned.

        Raises
        ------
        BadSampleError
            At the first bad sample, with its place. The samples before it are learned.
        """
        before = self.n_samples
        try:
            if sparse.is_sparse(block.x):
                self._learn_sparse(block, start, stop, predictors)
            elif isinstance(block.x, np.ndarray):
                self._learn_table(block, start, stop, predictors)
            else:
                self.learn_samples(block.x, block.y, block.w, start, stop, predictors)
        except BadSampleError as error:
            i = start + self.n_samples - before
            offset = block.offsets[i] if i < len(block.offsets) else i
            raise error.at(block.source, block.partition, offset) from None

    def _learn_table(
        self, block: Block, start: int, stop: int, predictors: FloatArray | None
    ) -> None:
        table = np.asarray(block.x)[start:stop]
        labels, weights, out = _slices(block, start, stop, predictors)
        X, y = frames.as_real(table, self._real), self._as_labels(labels)
        w = None if weights is None else frames.as_real(frames.as_array(weights), np.float64)
        undecided = X is None or y is None or (w is None and weights is not None)
        if undecided or self.hashing is not None:  # one by one: each value is looked at
            rows = frames.rows_of(table, block.features)
            self.learn_samples(rows, labels, weights, 0, stop - start, out)
            return
        assert X is not None and y is not None  # noqa: PT018, for mypy
        known, learned = len(self.index), self.n_samples
        try:
            columns = self.index.align(block.features, X.shape[1], grow=True)
            if columns is not None:
                X = _gather(X, columns, len(self.index))
            self.learn_table(X, y[0], w, y[1], out)
        finally:
            if self.n_samples == learned:  # the first row was refused, with its features
                self.forget_features(known)

    def _learn_sparse(
        self, block: Block, start: int, stop: int, predictors: FloatArray | None
    ) -> None:
        # names that are hashed together are added up before anything is rounded
        real = self._real if self.hashing is None else np.float64
        rows, error = sparse.read_rows(block.x, start, stop, real)
        n = len(rows[2]) - 1
        labels, weights, out = _slices(block, start, start + n, predictors)
        if self.hashing is None and self.scaler is None:
            known, learned = len(self.index), self.n_samples
            y = self._as_labels(labels)
            w = None if weights is None else frames.as_real(frames.as_array(weights), np.float64)
            try:
                self.index.align(None, rows[3], grow=True)
                if y is None or (w is None and weights is not None):
                    mappings = sparse.mappings_of(rows, self.index.names)
                    self.learn_samples(mappings, labels, weights, 0, n, out)
                else:
                    self.learn_table(rows, y[0], w, y[1], out)
            finally:
                if self.n_samples == learned:
                    self.forget_features(known)
        elif self.hashing is not None:  # columns are the features 0, 1, 2, ...
            mappings = sparse.mappings_of(rows, range(rows[3]))
            self.learn_samples(mappings, labels, weights, 0, n, out)
        else:  # every feature is scaled, so every row is dense
            dense = Block(sparse.dense_of(rows), labels, weights)
            self._learn_table(dense, 0, n, out)
        if error is not None:
            raise error

    @property
    def _real(self) -> type[np.floating[Any]]:
        return np.float32 if self.dtype == "float32" else np.float64

    def _as_labels(self, labels: Any) -> tuple[FloatArray, list[Label]] | None:
        """Return labels as numbers, and the classes that are new; None if one is no label."""
        if self._classes is None:
            y = frames.as_real(frames.as_array(labels), np.float64)
            return None if y is None else (y, [])
        values: list[Any]
        if isinstance(labels, np.ndarray) and labels.dtype.kind in "iubU":
            unique, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
            values = [unique[i].item() for i in np.argsort(first)]
            numbered = np.argsort(np.argsort(first))[inverse]
        else:
            try:
                exact = [exact_label(label) for label in labels]
            except BadSampleError:
                return None
            place = {name: i for i, name in enumerate(dict.fromkeys(exact))}
            values = list(place)
            numbered = np.array([place[name] for name in exact], dtype=np.int64)
        number = {name: k for k, name in enumerate(self._classes)}
        new = [name for name in values if name not in number]
        if new and self.classes_fixed:
            return None
        number.update({name: len(number) + k for k, name in enumerate(new)})
        numbers = np.array([number[name] for name in values], dtype=np.float64)
        return np.ascontiguousarray(numbers[numbered]), new

    def new_predictors(self, block: Block) -> FloatArray:
        """Make the array that `learn_block` fills: one predictor for each sample.

        In softmax regression there is one for each sample and class, -inf where a class was not
        known yet.
        """
        if self._classes is None:
            return np.empty(len(block))
        labels = []
        for label in block.y:
            try:
                labels.append(exact_label(label))
            except BadSampleError:
                continue
        return np.full((len(block), len({*self._classes, *labels})), -np.inf)

    def _as_block(self, X: Any, y: Any, w: Any) -> Block:
        if sparse.is_sparse(X):
            table, names = sparse.as_csr(X), None
        else:
            table, names = frames.as_table(X)
        n = table.shape[0]
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
        size = self.current_batch_size
        if size is None or last_batch == "apply":
            self.flush_pending(1.0)
        elif last_batch == "scale":
            self.flush_pending(self.n_pending / size)
        elif last_batch == "drop":
            self.discard_pending()

    # ---- the optimizer, between two samples

    def reset_optimizer(self) -> None:
        """Let the optimizer begin anew: its slots and its schedule; weights and pending stay.

        Examples
        --------
        >>> import streamfit as sf
        >>> model = sf.LinearRegression(sf.optim.AdaGrad(0.5))
        >>> for _ in range(100):
        ...     model.learn_one({"x": 1.0}, 1.0)
        >>> model.reset_optimizer()
        >>> model.state_dict()["slot_1"], model.n_updates
        (array([0., 0.]), 100)
        """
        self.load_state_dict(with_fresh_optimizer(self.state_dict(), self.optimizer))

    @property
    def learning_rate_factor(self) -> float:
        """What the learning rate of the optimizer is multiplied by at present, usually 1."""
        return float(self.state().get("lr_factor", 1.0))

    def set_learning_rate_factor(self, factor: float) -> None:
        """Multiply the learning rate by `factor` (not by the one before as well) from now on.

        It is part of the state. The rate of the intercept (`intercept_lr`) is multiplied too.

        Raises
        ------
        UnsupportedError
            For `FTRLProximal`, whose `alpha` is in all that it has summed up.
        """
        factor = check_real("factor", factor, positive=True)
        if isinstance(self.optimizer, optim.FTRLProximal):
            raise UnsupportedError(
                "FTRLProximal has no learning rate that may change: its alpha is in all that it "
                "has summed up; reset_optimizer() it, or take another optimizer"
            )
        state = self.state_dict()
        state.pop("lr_factor", None)
        self.load_state_dict(state if factor == 1.0 else {**state, "lr_factor": factor})

    # ---- what is known

    @property
    def classes(self) -> list[Label] | None:
        """The classes so far, in the order in which they came; None where there are none."""
        return None if self._classes is None else list(self._classes)

    @property
    def weights(self) -> Any:
        """The weight of each feature; of each hashed column that has one."""
        return self._weights_of(self._values()[1:])

    @property
    def intercept(self) -> Any:
        """The intercept."""
        return float(self._values()[0])

    def _values(self) -> npt.NDArray[Any]:
        """Return intercepts and weights as float64, the scale of the weights multiplied in."""
        state = self.state()
        values: npt.NDArray[Any] = state["parameters"].astype(np.float64)
        values[..., 1:] *= state["weight_scale"]
        return values

    def _weights_of(self, values: npt.NDArray[Any]) -> dict[FeatureName, float]:
        if self.hashing is not None:
            used = np.flatnonzero(values)
            return dict(zip(used.tolist(), values[used].tolist(), strict=True))
        return dict(zip(self.index.names, values.tolist(), strict=True))

    # ---- state

    def state_dict(self) -> StateDict:
        """Return everything that learning depends on, as arrays and JSON-safe values.

        `parameters`, the optimizer's slots and the pending `gradient` have the model's dtype and
        shape (1 + n_features,), the intercept first; with classes (n_classes, 1 + n_features).
        Weights are `weight_scale` times `parameters`.
        """
        names = list(self.index.names) if self.hashing is None else []
        state = {**self.state(), "features": names}
        return state if self._classes is None else {**state, "classes": list(self._classes)}

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
        known = self.features.names if isinstance(self.features, FeatureIndex) else []
        if names[: len(known)] != known or (self.hashing is not None and names):
            raise CheckpointMismatchError(f"the state's features do not begin with {known!r:.80}")
        try:
            index = self.index.copy(names)
        except ConfigurationError as error:
            raise CheckpointMismatchError(f"the state's features are refused: {error}") from None
        classes = check_state(self, state)
        self.load_state(state, index, classes)

    def digest(self) -> str:
        """Return the SHA-256 of parameters, optimizer state, counters and pending sums.

        Two learners with equal digests hold the same numbers, bit for bit (0.0 and -0.0 are
        the same number). Names of features and classes do not enter, nor does the configuration.
        """
        return digest_of(self.state())

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
            "scaler": None if self.scaler is None else self.scaler.get_config(),
            "dtype": self.dtype,
            "max_weight": self.max_weight,
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
            options["scaler"] = scaler_from_config(options["scaler"])
            return cls(**options)
        except (KeyError, TypeError) as error:
            raise ConfigurationError(f"not a configuration of {cls.__name__}: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.get_config(), self.state_dict())

    # ---- predicting

    def _predictors_many(self, X: Any) -> FloatArray:
        """Linear predictors of a table, shape (n, n_outputs)."""
        if sparse.is_sparse(X):
            return self._predictors_sparse(X)
        table, names = frames.as_table(X)
        matrix = frames.as_real(table, self._real)
        if matrix is None or self.hashing is not None:
            return self._predictors_of(frames.rows_of(table, names))
        columns = self.index.align(names, matrix.shape[1], grow=False)
        if columns is not None:
            matrix = _gather(matrix, columns, len(self.index))
        predictors = self.predict_table(matrix)
        if not np.isfinite(predictors).all():
            for row in np.flatnonzero(~np.isfinite(matrix).all(axis=1)):
                column = int(np.flatnonzero(~np.isfinite(matrix[row]))[0])
                raise BadSampleError(
                    f"value {matrix[row, column]} is not finite", feature=self.index.names[column]
                ).at("predict_many", 0, int(row))
        return predictors

    def _predictors_sparse(self, X: Any) -> FloatArray:
        csr = sparse.as_csr(X)
        real = self._real if self.hashing is None else np.float64
        rows, error = sparse.read_rows(csr, 0, csr.shape[0], real)
        if error is not None:
            raise error
        if self.hashing is None:
            self.index.align(None, rows[3], grow=False)
            names = self.index.names or range(rows[3])
        else:
            names = range(rows[3])
        if not np.isfinite(rows[0]).all() or self.hashing is not None:
            return self._predictors_of(sparse.mappings_of(rows, names))
        if self.scaler is not None:
            return self.predict_table(sparse.dense_of(rows))
        if not len(self.index):
            rows = (rows[0][:0], rows[1][:0], np.zeros_like(rows[2]), 0)
        return self.predict_table(rows)

    def _predictors_of(self, rows: list[Any]) -> FloatArray:
        predictors = [self.predictors_one(row) for row in rows]
        return np.array(predictors).reshape(len(rows), self.n_outputs)


def _slices(
    block: Block, start: int, stop: int, predictors: FloatArray | None
) -> tuple[Any, Any, FloatArray | None]:
    """Labels, weights and predictors of a part of a block."""
    return (
        block.y[start:stop],
        None if block.w is None else block.w[start:stop],
        None if predictors is None else predictors[start:stop],
    )


def _gather(matrix: npt.NDArray[Any], columns: list[int], n_features: int) -> npt.NDArray[Any]:
    """Move each column of `matrix` to its place in the feature index; absent features are 0."""
    gathered = np.zeros((len(matrix), n_features), dtype=matrix.dtype)
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
