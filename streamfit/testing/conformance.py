"""The promises as test suites: subclass one, say how to make your learner, run pytest.

Import this module by name; it needs pytest and hypothesis.

Examples
--------
In a file of tests::

    import streamfit as sf
    from streamfit.testing.conformance import LearnerConformance
    from streamfit.testing.machine import learner_machine

    class TestMyLearner(LearnerConformance):
        def make(self, draw, names):
            return MyLearner(batch_size=7, features=sf.FeatureIndex(names))

    TestMyMachine = learner_machine(TestMyLearner).TestCase
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamfit as sf
from streamfit.core import optim
from streamfit.core.features import features_config
from streamfit.offline import fit_offline
from streamfit.testing import strategies
from streamfit.testing.forms import NAMED, Samples, feed
from streamfit.testing.sources import SplitSource
from streamfit.types import FeatureName, FloatArray

__all__ = ["LearnerConformance", "assert_close", "closeness", "parameters", "step_size"]

RELATIVE = {"float64": 1e-9, "float32": 1e-4}
"""How close floating-point rounding leaves two programs that compute the same."""


def parameters(model: Any) -> FloatArray:
    """Return the intercept and the weights of a learner, as one array; a row for each class."""
    weights, intercept = model.weights, model.intercept
    features = getattr(model, "features", None)
    columns = range(2**features.bits) if isinstance(features, sf.HashedFeatures) else None

    def row(intercept: float, weights: dict[Any, float]) -> list[float]:
        return [intercept, *(weights.get(name, 0.0) for name in columns or weights)]

    if not isinstance(intercept, dict):
        return np.array(row(intercept, weights))
    return np.array([row(intercept[label], weights[label]) for label in weights])


def closeness(model: Any) -> float:
    """Return how close to another program's its numbers are, relative to the largest."""
    return RELATIVE[getattr(model, "dtype", "float64")]


def step_size(model: Any) -> float:
    """Size of a first step on numbers near 1, the scale on which rounding is judged."""
    if isinstance(model.optimizer, optim.AdaDelta):
        return float(np.sqrt(model.optimizer.eps))
    return float(model.optimizer.schedule.rate(0))


def assert_close(
    one: FloatArray, other: FloatArray, scale: float = 0.0, relative: float = RELATIVE["float64"]
) -> None:
    """Assert that two arrays of parameters are equal to `relative` of the largest one.

    A single parameter may come out near 0 as the difference of large steps, so its own size says
    nothing about the rounding that went into it. All of them may: labels that cancel exactly
    leave an intercept of 1e-19, nothing but rounding. `scale` is then the size of the steps.
    """
    if one.size == other.size == 0:  # no class yet
        return
    scale = max(scale, np.abs(one).max(initial=0.0), np.abs(other).max(initial=0.0))
    np.testing.assert_allclose(one, other, rtol=0, atol=relative * scale)


class LearnerConformance:
    """Properties of every learner; subclass it and define `make`.

    Each `check_*` method is a property, and each subclass gets a `test_*` of its own for it, run
    on drawn examples: as many as the hypothesis profile says, or `share` of them where a
    subclass is one of many (`class TestX(LearnerConformance, share=0.1)`).
    """

    labels: ClassVar[str] = "real"
    """Labels that fit the learner, as `strategies.samples` names them."""

    def make(self, draw: st.DataObject, names: list[FeatureName]) -> Any:
        """Make a fresh learner that knows the features `names`; may draw its configuration."""
        raise NotImplementedError

    def fresh(self, model: Any, **changes: Any) -> Any:
        """Make a learner of the same configuration, but for `changes`, that learned nothing."""
        return type(model).from_config({**model.get_config(), **changes})

    def oracle(self, model: Any, data: Samples, epochs: int, last_batch: str) -> Any:
        """Fit the same configuration by other code: an `OfflineFit`; None where there is none."""
        return fit_offline(
            model, data.X, data.y, sample_weight=data.w, epochs=epochs, last_batch=last_batch
        )

    def __init_subclass__(cls, share: float = 1.0, **options: Any) -> None:
        super().__init_subclass__(**options)
        profile = settings.default or settings()
        # one more, because the first that hypothesis tries is always the simplest: no samples
        examples = 1 + max(1, round(share * profile.max_examples))
        for name in dir(cls):
            if name.startswith("check_"):
                setattr(cls, "test_" + name.removeprefix("check_"), _test(name, examples))

    def problem(
        self, draw: st.DataObject, known: bool = True, **options: Any
    ) -> tuple[Any, Samples]:
        """Draw a learner and samples for it (`options` as in `strategies.samples`)."""
        data = draw.draw(strategies.samples(labels=self.labels, **options))
        return self.make(draw, data.names if known else []), data

    def row_by_row(self, model: Any, data: Samples) -> Any:
        """Let a fresh learner learn dense rows, one after the other: the yardstick."""
        model = self.fresh(model)
        feed(model, data, [("rows", 0, len(data))])
        return model

    # ---- arrival

    def check_blocks_and_forms_do_not_matter(self, draw: st.DataObject) -> None:
        """Cut samples anywhere, each part in any form: the same bits."""
        model, data = self.problem(draw)
        expected = self.row_by_row(model, data)
        feed(model, data, draw.draw(strategies.arrivals(len(data))))
        assert model.digest() == expected.digest()
        assert model.weights == expected.weights
        last_batch = draw.draw(strategies.last_batches())
        model.flush(last_batch)
        expected.flush(last_batch)
        assert model.digest() == expected.digest()

    def check_sources_do_not_matter(self, draw: st.DataObject) -> None:
        """Train on a list, a generator, an array, blocks: the same bits."""
        model, data = self.problem(draw, max_size=30)
        epochs = draw.draw(st.integers(1, 2))
        last_batch = draw.draw(strategies.last_batches())
        expected = self.fresh(model)
        for _ in range(epochs):
            feed(expected, data, [("rows", 0, len(data))])
            expected.flush(last_batch)
        triples = list(zip(data.rows(), data.y.tolist(), data.weights.tolist(), strict=True))
        cuts = [stop for _, stop in draw.draw(strategies.cuts(len(data)))][:-1]
        sources: dict[str, Callable[[], Any]] = {
            "list": lambda: triples,
            "generator": lambda: lambda: iter(triples),
            "array": lambda: sf.ArraySource(data.X, data.y, data.w, features=data.names or None),
            "blocks": lambda: SplitSource(
                data.X, data.y, data.w, cuts=cuts, features=data.names or None
            ),
        }
        for name, source in sources.items():
            live = self.fresh(model)
            sf.Trainer(live, source(), epochs=epochs, last_batch=last_batch).run()
            assert live.digest() == expected.digest(), name

    def check_stopping_anywhere_equals_never_stopping(self, draw: st.DataObject) -> None:
        """Save the state at any sample, in a micro-batch too, and go on: the same bits."""
        model, data = self.problem(draw, known=draw.draw(st.booleans()))
        form = draw.draw(st.sampled_from(NAMED))
        stop = draw.draw(st.integers(0, len(data)))
        whole = self.fresh(model)
        feed(whole, data, [(form, 0, stop), (form, stop, len(data))])
        feed(model, data, [(form, 0, stop)])
        before = model.digest()
        config = json.loads(json.dumps(model.get_config()))
        again = self.fresh(model)
        assert again.get_config() == config
        if draw.draw(st.booleans()):  # into a learner that has a life behind it
            feed(again, data, [(form, 0, len(data) // 2)])
        again.load_state_dict(model.state_dict())
        assert again.digest() == before
        feed(again, data, [(form, stop, len(data))])
        assert again.digest() == whole.digest()
        assert again.weights == whole.weights
        assert model.digest() == before  # the copy shares nothing with the original

    def check_predictions_change_nothing(self, draw: st.DataObject) -> None:
        """Not the state, nor what the learner knows, whatever is asked."""
        model, data = self.problem(draw, max_size=20)
        feed(model, data, [("rows", 0, len(data))])
        before, weights = model.digest(), model.weights
        for row in data.rows():
            model.predict_one({**row, "never seen": 1e6})
        for row in data.X:
            model.predict_one(row)
        model.predict_many(data.X)
        assert (model.digest(), model.weights) == (before, weights)

    def check_feature_names_and_their_order_do_not_matter(self, draw: st.DataObject) -> None:
        """Rename features: nothing changes; reorder them: nothing but rounding."""
        model, data = self.problem(draw, min_size=1, max_size=40)
        feed(model, data, [("dicts", 0, len(data))])
        d = len(data.names)

        def features(names: list[Any]) -> dict[str, Any] | None:
            index = sf.FeatureIndex(names)
            return features_config(index) if names else None

        renamed = self.fresh(model, features=features([7 * j for j in range(d)]))
        other = Samples([7 * j for j in range(d)], data.X, data.y, data.w)
        feed(renamed, other, [("sparse dicts", 0, len(data))])
        assert renamed.digest() == model.digest()
        order = draw.draw(st.permutations(range(d)))
        names = [data.names[j] for j in order]
        shuffled = self.fresh(model, features=features(names))
        feed(shuffled, data, [("dicts", 0, len(data))])
        assert shuffled.state_dict()["features"] == names
        one = parameters(model)[..., [0, *(1 + j for j in order)]]
        assert_close(one, parameters(shuffled), step_size(model), closeness(model))

    # ---- micro-batches

    def check_flush_is_idempotent(self, draw: st.DataObject) -> None:
        """With nothing pending, a flush of any kind does nothing."""
        model, data = self.problem(draw)
        feed(model, data, [("rows", 0, len(data))])
        pending, updates = model.n_pending, model.n_updates + model.n_refused
        model.flush("carry")
        assert model.n_updates + model.n_refused == updates + (model.batch_size is None) * bool(
            pending
        )
        model.flush(draw.draw(st.sampled_from(["apply", "scale", "drop"])))
        assert model.n_pending == 0
        before = model.digest()
        for last_batch in ("apply", "scale", "drop", "carry"):
            model.flush(last_batch)
            assert model.digest() == before

    def check_carry_over_epochs_is_one_long_pass(self, draw: st.DataObject) -> None:
        """`carry` over k epochs equals one pass over the data repeated k times, bitwise."""
        model, data = self.problem(draw, max_size=30)
        model = self.fresh(model, batch_size=7) if model.batch_size is None else model
        epochs = draw.draw(st.integers(1, 4))
        once = self.fresh(model)
        for _ in range(epochs):
            feed(once, data, draw.draw(strategies.arrivals(len(data))))
            once.flush("carry")
        weights = np.tile(data.weights, epochs)
        model.learn_many(np.tile(data.X, (epochs, 1)), np.tile(data.y, epochs), weights)
        assert once.digest() == model.digest()

    def check_the_sum_at_rate_r_is_the_mean_at_rate_r_times_batch_size(
        self, draw: st.DataObject
    ) -> None:
        """Under plain gradient descent; without penalties, which are no part of the sum."""
        model, data = self.problem(draw, weighted=False)
        size = draw.draw(st.sampled_from([1, 2, 5]))
        data = data[: len(data) // size * size]
        plain = {"l1": 0.0, "l2": 0.0, "intercept_lr": None, "batch_size": size}
        fits = []
        for reduction, lr in (("sum", 0.0123457), ("mean", 0.0123457 * size)):
            optimizer = sf.optim.SGD(lr).get_config()
            one = self.fresh(model, **plain, reduction=reduction, optimizer=optimizer)
            one.learn_many(data.X, data.y)
            fits.append(parameters(one))
        assert_close(fits[0], fits[1], 0.0123457, closeness(model))

    def check_a_whole_weight_equals_a_repeated_sample(self, draw: st.DataObject) -> None:
        """Within one micro-batch."""
        model, data = self.problem(draw, min_size=1, max_size=30, weighted=False)
        drawn = st.lists(st.integers(0, 3), min_size=len(data), max_size=len(data))
        times = np.array(draw.draw(drawn.filter(any)))
        # clipping bounds a sample, not its repetitions; a scaler counts samples, not their
        # weights; and a class that comes with weight 0 has come all the same
        changes: dict[str, Any] = {"batch_size": None, "clip_gradient": None}
        config = model.get_config()
        if "scaler" in config:
            changes["scaler"] = None
            if isinstance(model.optimizer, optim.Auto):
                changes["optimizer"] = sf.optim.Auto(scale=False).get_config()
        if "classes" in config:
            changes["classes"] = list(dict.fromkeys(data.y.tolist()))
        once, again = self.fresh(model, **changes), self.fresh(model, **changes)
        for _ in range(3):
            once.learn_many(data.X, data.y, times.astype(float))
            again.learn_many(np.repeat(data.X, times, axis=0), np.repeat(data.y, times))
            once.flush()
            again.flush()
        assert once.n_updates + once.n_refused == 3  # exp of a Poisson model may run away
        assert (once.n_updates, once.n_refused) == (again.n_updates, again.n_refused)
        assert_close(parameters(once), parameters(again), step_size(model), closeness(model))

    # ---- the textbook

    def check_it_equals_the_textbook(self, draw: st.DataObject) -> None:
        """Compare with the oracle: numbers within rounding, counts exactly."""
        model, data = self.problem(draw)
        epochs = draw.draw(st.integers(1, 3))
        last_batch = draw.draw(strategies.last_batches())
        fit = self.oracle(model, data, epochs, last_batch)
        if fit is None:
            pytest.skip("this learner has no oracle")
        live = self.fresh(model)
        for _ in range(epochs):
            feed(live, data, draw.draw(strategies.arrivals(len(data))))
            live.flush(last_batch)
        assert (fit.n_updates, fit.n_refused, fit.n_pending) == (
            live.n_updates,
            live.n_refused,
            live.n_pending,
        )
        assert_close(fit.parameters, parameters(live), step_size(model), closeness(model))

    def check_full_batch_is_descent_on_the_whole_matrix(self, draw: st.DataObject) -> None:
        """Stream blocks, flush at the end of each epoch: that is gradient descent."""
        model, data = self.problem(draw, min_size=1)
        epochs = draw.draw(st.integers(1, 4))
        live = self.fresh(model, batch_size=None)
        fit = self.oracle(live, data, epochs, "apply")
        if fit is None:
            pytest.skip("this learner has no oracle")
        for _ in range(epochs):
            feed(live, data, draw.draw(strategies.arrivals(len(data))))
            assert live.n_pending == len(data)
            live.flush()
        assert live.n_updates + live.n_refused == epochs
        assert_close(fit.parameters, parameters(live), step_size(model), closeness(model))

    def check_checkpoint_files_and_copies_hold_everything(self, draw: st.DataObject) -> None:
        """Take a file of a `Checkpointer`, and `copy.deepcopy`: the same bits."""
        model, data = self.problem(draw, max_size=20)
        feed(model, data, [("rows", 0, len(data))])
        with tempfile.TemporaryDirectory() as folder, sf.Checkpointer(folder) as files:
            files.save(sf.Checkpoint(model.state_dict(), {}, {}, {}))
            saved = files.latest()
        assert saved is not None
        again = self.fresh(model)
        again.load_state_dict(saved.model)
        for one in (again, copy.deepcopy(model)):
            assert one.digest() == model.digest()
            assert one.weights == model.weights


def _test(name: str, examples: int) -> Callable[..., None]:
    """Make a test of one property, for one class."""

    @pytest.mark.filterwarnings("ignore::streamfit.errors.UpdateRefusedWarning")
    @settings(max_examples=examples)
    @given(draw=st.data())
    def test(self: LearnerConformance, draw: st.DataObject) -> None:
        getattr(self, name)(draw)

    made: Callable[..., None] = test
    return made
