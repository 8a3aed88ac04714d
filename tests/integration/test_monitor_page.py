"""The live page in a real browser: Chromium without a window, started once."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from river import metrics

import streamfit as sf
from streamfit.serving.history import History, Point

HOSTILE = "<img src=x onerror=document.title='hacked'>"
A_MILLION = 1_000_000


def wait_for(happened: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs:
        missing = "no Chromium: install Debian's chromium and chromium-driver"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(programs[1]))
    yield driver
    driver.quit()


class Samples(sf.IterableSource):
    """Samples until somebody says enough."""

    def __init__(self) -> None:
        super().__init__(self._endless)
        self.enough = threading.Event()

    def _endless(self) -> Iterator[Any]:
        i = 0
        while not self.enough.is_set():
            x: dict[str, Any] = {"a": (i % 17) / 17, "b": (i % 5) / 5, HOSTILE: (i % 3) / 3}
            if i % 500 == 499:
                x[HOSTILE] = HOSTILE
            yield x, i % 3 == 0
            i += 1
            if i % 100 == 0:
                time.sleep(0.02)

    def lag(self, position: dict[str, int]) -> int:
        return 10**9 - sum(position.values())


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sf.WebMonitor, Samples]]:
    monitor = sf.WebMonitor("127.0.0.1:0", every_seconds=0.1)
    source = Samples()
    state: Path = tmp_path_factory.mktemp("state")
    trainer = sf.Trainer(
        sf.LogisticRegression(sf.optim.SGD(0.05), batch_size=8),
        source,
        metrics=[metrics.LogLoss(), metrics.Accuracy()],
        checkpoint=sf.Checkpointer(state, every_seconds=0.5),
        on_bad_sample="skip",
        monitor=monitor,
    )
    thread = threading.Thread(target=trainer.run)
    thread.start()
    wait_for(lambda: monitor.board.snapshot.n_bad > 2)
    yield monitor, source
    source.enough.set()
    thread.join(30)
    assert not thread.is_alive()


def number(browser: Any, name: str) -> float:
    script = "return document.querySelector(`[data-name='${arguments[0]}'] dd`)?.textContent"
    return float((browser.execute_script(script, name) or "-1").replace(",", "").replace("–", "-1"))


def rows(browser: Any, table: str) -> list[str]:
    script = (
        "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].map(r => r.innerText)"
    )
    found: list[str] = browser.execute_script(script, table)
    return found


def pixels(browser: Any, canvas: str) -> int:
    """How many pixels of a chart are not empty."""
    return int(
        browser.execute_script(
            "const c = document.getElementById(arguments[0]);"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n",
            canvas,
        )
    )


def test_the_page(browser: Any, training: tuple[sf.WebMonitor, Samples]) -> None:
    monitor, source = training
    browser.get(monitor.url)
    # numbers move
    first = wait_for(lambda: max(number(browser, "samples"), 0))
    wait_for(lambda: number(browser, "samples") > first)
    assert number(browser, "lag") > 10**8
    assert 0 < number(browser, "LogLoss") < 2
    assert browser.find_element("id", "status").text == "training"
    for canvas in ("loss", "metrics", "rate", "lag"):
        wait_for(lambda canvas=canvas: pixels(browser, canvas) > 500)
    # and the stream's own texts are texts
    wait_for(lambda: any(HOSTILE in row for row in rows(browser, "bad")))
    assert any("is not a number" in row for row in rows(browser, "bad"))
    assert any(HOSTILE in row for row in rows(browser, "weights"))
    assert len(rows(browser, "weights")) == 3
    assert rows(browser, "partitions")[0].startswith("samples:0")
    wait_for(lambda: rows(browser, "checkpoints")[0][:1] in set("123456789"))
    assert browser.title.startswith("LogisticRegression")
    assert browser.execute_script("return document.images.length") == 0
    # nothing from anywhere else
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert len(loaded) >= 4
    assert {url.startswith((monitor.url, "data:")) for url in loaded} == {True}

    # a phone, in both lights
    paper = {}
    for light in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": light}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        wait_for(lambda: browser.execute_script("return innerWidth") == 360)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= 360
        style = "getComputedStyle(document.body)"
        paper[light] = (
            browser.execute_script(f"return {style}.backgroundColor"),
            browser.execute_script(f"return {style}.color"),
        )
    assert paper["light"] != paper["dark"]
    assert all(contrast(*colours) > 7 for colours in paper.values())
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    # eleven days, a point a second
    history, now = History(), time.time()
    point = Point(0.0, 0.0, 3, 1.0, 3.0, 0.3, {"LogLoss": 0.3, "Accuracy": 0.8}, 7)
    for _ in range(A_MILLION):
        history.add(point)
    history.points = [
        Point(now - A_MILLION + i * 2000, now, 1, 1.0, 3.0, 0.3, point.metrics, 7)
        for i in range(len(history.points))
    ]
    monitor._history = history
    browser.refresh()
    first = wait_for(lambda: max(number(browser, "samples"), 0))
    wait_for(lambda: pixels(browser, "loss") > 500)
    began = time.monotonic()
    wait_for(lambda: number(browser, "samples") > first)
    assert time.monotonic() - began < 5
    answer = browser.execute_async_script(
        "const done = arguments[0];"
        "fetch('history').then(a => a.json()).then(h => done([h.history.length, h.recent.length]))"
    )
    assert answer[0] <= 512
    assert answer[1] <= 600

    # and the end
    source.enough.set()
    wait_for(lambda: browser.find_element("id", "status").text == "finished")
    errors = [
        entry
        for entry in browser.get_log("browser")
        if "ERR_CONNECTION_REFUSED" not in entry["message"]  # it looks whether the run is back
    ]
    assert errors == []


def contrast(back: str, ink: str) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[4:-1].split(",")[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(back), luminance(ink)))
    return (light + 0.05) / (dark + 0.05)
