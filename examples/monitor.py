"""Watch a model learn: a live page on http://127.0.0.1:8765/.

    python examples/monitor.py                              # open the page; Ctrl-C ends it
    python examples/monitor.py --n 20000                    # end by itself
    python examples/monitor.py --screenshot monitor.png     # a picture of the page, and end

Flights leave New York, some thousand a second; will they arrive late? A few come with a broken
distance. The page shows loss and metrics over time, throughput, how many are left, the largest
weights, the broken ones with the reason, and the checkpoints. `POST /predict` answers meanwhile.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flights import flights, new_model, rolling_metrics

import streamfit as sf

QUESTION = b'{"dep_delay": 2.0, "distance": 1.4, "departure": 0.75, "carrier=UA": 1.0}'


class Runway(sf.IterableSource):
    """Flights at a pace that one can watch; the distance of every 997th is broken.

    Parameters
    ----------
    n
        Flights there are.
    per_second
        Flights a second.
    """

    def __init__(self, n: int, per_second: float) -> None:
        super().__init__(self._departures)
        self.n = n
        self.per_second = per_second
        self.closed = threading.Event()

    def _departures(self) -> Iterator[Any]:
        began = 0.0
        for i, (x, late) in enumerate(flights(self.n)):
            began = began or time.monotonic()  # now that they are read
            if i % 64 == 0:
                self.closed.wait(max(0.0, began + i / self.per_second - time.monotonic()))
            if self.closed.is_set():
                return
            yield {**x, "distance": "n/a"} if i % 997 == 996 else x, late

    def lag(self, position: dict[str, int]) -> int:
        """Count the flights that have not left."""
        return self.n - sum(position.values())


def ask(url: str) -> str:
    """Ask the model about one flight."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}predict", data=QUESTION, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


def photograph(url: str, file: Path) -> None:
    """Save a picture of the page, as a Chromium without a window shows it."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("headless=new", "no-sandbox", "hide-scrollbars", "window-size=1280,1750"):
        options.add_argument(f"--{argument}")
    service = webdriver.ChromeService("/usr/bin/chromedriver")
    with webdriver.Chrome(options=options, service=service) as browser:
        browser.get(url)
        time.sleep(3.0)  # until the first events are there
        browser.save_screenshot(str(file))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Watch a model learn.")
    parser.add_argument("--n", type=int, default=300_000, help="flights to learn")
    parser.add_argument("--per-second", type=float, default=4000.0, help="flights a second")
    parser.add_argument("--address", default="127.0.0.1:8765")
    parser.add_argument("--screenshot", type=Path, metavar="PNG", help="save a picture and end")
    options = parser.parse_args(arguments)

    source = Runway(options.n, options.per_second)
    monitor = sf.WebMonitor(options.address)
    answers: list[str] = []

    def take_picture() -> None:
        try:
            time.sleep(60.0)  # let there be something to see
            photograph(monitor.url, options.screenshot)
        finally:
            source.closed.set()

    def look(progress: sf.Progress) -> None:
        if not answers:
            print(f"open {monitor.url}", flush=True)
            if options.screenshot is not None:
                threading.Thread(target=take_picture).start()
        if len(answers) <= progress.n_samples // 5000:
            answers.append(f"{progress.n_samples:>10,}  {ask(monitor.url)}")

    with tempfile.TemporaryDirectory() as state:
        report = sf.Trainer(
            new_model(),
            source,
            metrics=rolling_metrics(),
            checkpoint=sf.Checkpointer(state, every_seconds=5),
            on_bad_sample="skip",
            callbacks=[look],
            monitor=monitor,
        ).run()
    print("\nwhat the model said about one flight, while it learned:")
    print("\n".join(answers[-5:]))
    print(f"\n{report}")


if __name__ == "__main__":
    main()
