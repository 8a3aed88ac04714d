from collections.abc import Sequence
from typing import Any, TypeAlias

from numpy.typing import NDArray

from streamfit._kernels.features import FeatureIndex
from streamfit._kernels.hashing import HashedFeatures
from streamfit._kernels.state import Snapshot
from streamfit.types import FeatureName, FloatArray, Label, StateDict

Table: TypeAlias = NDArray[Any] | tuple[NDArray[Any], NDArray[Any], NDArray[Any], int]

class LinearKernel:
    track_loss: bool
    loss_sum: float
    loss_weight: float
    _classes: list[Label] | None
    @property
    def index(self) -> FeatureIndex: ...
    @property
    def hashing(self) -> HashedFeatures | None: ...
    @property
    def classes_fixed(self) -> bool: ...
    def _configure(
        self,
        index: FeatureIndex,
        *,
        hashing: HashedFeatures | None,
        classes: Sequence[Label],
        classes_fixed: bool,
        loss: dict[str, Any],
        optimizer: dict[str, Any],
        schedule: dict[str, Any],
        batch_size: int | dict[str, Any] | None,
        mean: bool,
        l2: float,
        l1: float,
        fit_intercept: bool,
        intercept_lr: float | None,
        clip_gradient: float | None,
        max_weight: float | None,
        standardize: bool,
        bound: float | None,
        single: bool,
        noise_scale: dict[str, Any] | None,
    ) -> None: ...
    def _set_options(
        self,
        optimizer: dict[str, Any],
        schedule: dict[str, Any],
        l2: float,
        intercept_lr: float | None,
        clip_gradient: float | None,
        max_weight: float | None,
    ) -> None: ...
    @property
    def n_samples(self) -> int: ...
    @property
    def n_updates(self) -> int: ...
    @property
    def n_pending(self) -> int: ...
    @property
    def n_refused(self) -> int: ...
    @property
    def n_columns(self) -> int: ...
    @property
    def n_outputs(self) -> int: ...
    @property
    def current_batch_size(self) -> int | None: ...
    def learn_one(self, x: Any, y: Any, w: float = 1.0) -> None: ...
    def _learn_samples(
        self,
        xs: Sequence[Any] | NDArray[Any],
        ys: Sequence[Any] | NDArray[Any],
        ws: Sequence[Any] | NDArray[Any] | None,
        start: int,
        stop: int,
        predictors: FloatArray | None = None,
    ) -> None: ...
    def _learn_table(
        self,
        table: Table,
        y: FloatArray,
        w: FloatArray | None,
        new_classes: Sequence[Label] = (),
        predictors: FloatArray | None = None,
    ) -> None: ...
    def _learn_arrays(self, X: Any, y: Any) -> bool: ...
    def _flush_pending(self, share: float = 1.0) -> None: ...
    def _discard_pending(self) -> None: ...
    def _hold_updates(self) -> None: ...
    def _pending_sums(self) -> tuple[NDArray[Any], int, float]: ...
    def _forget_sums(self, known: int | None) -> None: ...
    def _update_by_sums(
        self,
        gradient: NDArray[Any],
        n: int,
        weight: float,
        new_features: Sequence[FeatureName],
        batch_size: int,
        part: float,
    ) -> None: ...
    def predictor_one(self, x: Any) -> float: ...
    def predictors_one(self, x: Any) -> list[float]: ...
    def mean_one(self, x: Any) -> float: ...
    def label_one(self, x: Any, **kwargs: Any) -> bool: ...
    def probability_one(self, x: Any, **kwargs: Any) -> dict[bool, float]: ...
    def _predict_table(self, table: Table) -> FloatArray: ...
    def state(self) -> StateDict: ...
    def _load_state(
        self, state: StateDict, index: FeatureIndex, classes: Sequence[Label] = ()
    ) -> None: ...
    def _forget_features(self, n: int) -> None: ...
    def _begin(self) -> None: ...
    def _snapshot(self, claim: bool = False) -> Snapshot: ...
    def _restore(self, saved: Snapshot) -> None: ...
