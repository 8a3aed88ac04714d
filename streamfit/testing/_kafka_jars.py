"""The programs behind `LocalKafka`: a Java to run, and Kafka's jars, brought once by Maven."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

from streamfit.errors import MissingDependencyError

__all__ = ["find_jars", "find_java", "kafka_version"]

POM = Path(__file__).with_name("pom.xml")
MIN_JAVA = 17
OR_ANOTHER_BROKER = "or set STREAMFIT_KAFKA=host:port to use another broker"


@cache
def kafka_version() -> str:
    """Read from the pom which Kafka is run."""
    version = ElementTree.parse(POM).findtext(".//{*}kafka.version")
    assert version is not None
    return version


@cache
def find_java() -> str:
    """Find a Java that can run Kafka 4, in `JAVA_HOME` or on the path."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home, "bin"))) if home else None
    java = java or shutil.which("java")
    if java is None:
        raise MissingDependencyError(
            f"Kafka needs Java {MIN_JAVA} or newer and none was found: "
            f"install a JRE (Debian: openjdk-17-jre-headless), {OR_ANOTHER_BROKER}"
        )
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    number = re.search(r'version "(\d+)', said)
    if number is None or int(number[1]) < MIN_JAVA:
        found = number[1] if number else "an unknown version"
        raise MissingDependencyError(
            f"Kafka needs Java {MIN_JAVA} or newer and {java} is {found}: "
            f"install a newer JRE, {OR_ANOTHER_BROKER}"
        )
    return java


def find_jars() -> Path:
    """Return the folder with Kafka's jars, downloading them at the first use."""
    folder = _cache_folder() / "kafka" / kafka_version()
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingDependencyError(
            "Maven is needed to bring Apache Kafka and was not found: "
            f"install it (Debian: maven), {OR_ANOTHER_BROKER}"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / "lock"):
        if not folder.is_dir():  # another process may have been quicker
            _download(maven, folder)
    return folder


def _download(maven: str, folder: Path) -> None:
    # Maven writes elsewhere and a rename publishes the result, so a folder that exists is whole.
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        shutil.copy(POM, scratch)
        command = [maven, "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"]
        try:
            done = subprocess.run(
                command, cwd=scratch, capture_output=True, text=True, timeout=600, check=False
            )
            said = done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            done, said = None, "[ERROR] no answer within 10 minutes"
        if done is None or done.returncode:
            reason = next((x for x in said.splitlines() if "[ERROR]" in x), "").partition("] ")[2]
            raise MissingDependencyError(
                f"Maven could not bring Apache Kafka {kafka_version()} ({reason[:200]}): "
                f"check its registry settings, {OR_ANOTHER_BROKER}"
            )
        Path(scratch, "jars").rename(folder)


def _cache_folder() -> Path:
    if chosen := os.environ.get("STREAMFIT_CACHE"):
        return Path(chosen)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "streamfit" / "testing" / "pom.xml").exists():  # streamfit's own checkout
            return folder / ".cache"
    return Path.home() / ".cache" / "streamfit"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
