"""The same data to `vw` and to streamfit, with the update that both have.

    python examples/from_vw.py

It needs `pip install vowpalwabbit`. docs/from-vw.md has the whole table.
"""

from __future__ import annotations

from river import datasets
from vowpalwabbit import Workspace

import streamfit as sf

UPDATES = {
    "--sgd --power_t 0 -l 0.1": sf.optim.SGD(0.1),
    "--adaptive -l 0.1": sf.optim.AdaGrad(0.1),
    "--ftrl --ftrl_alpha 0.1 --ftrl_beta 1": sf.optim.FTRLProximal(0.1, 1.0, l2=0.0),
}


def main() -> None:
    samples = list(datasets.Phishing())
    print(f"{'vw --loss_function logistic':<40}{'streamfit':<14}{'largest difference':>20}")
    for options, optimizer in UPDATES.items():
        vw = Workspace(f"{options} --loss_function logistic --quiet")
        model = sf.LogisticRegression(optimizer)
        for x, y in samples:
            pairs = " ".join(f"{name}:{value!r}" for name, value in x.items())
            vw.learn(f"{1 if y else -1} | {pairs}")
            model.learn_one(x, y)
        differences = [abs(vw.get_weight_from_name(k) - w) for k, w in model.weights.items()]
        vw.finish()
        print(f"{options:<40}{type(optimizer).__name__:<14}{max(differences):>20.1e}")


if __name__ == "__main__":
    main()
