"""Apache Kafka's jars, in the user's cache folder.

python -m tests.support.kafka_jars

fetches them by Maven: 70 MB, some ten seconds, once for each release.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

RELEASE = "4.3.1"
PACKAGES = "default-jre-headless maven"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate"
JARS = CACHE / f"kafka-{RELEASE}"
"""Moved here whole: a folder of this name is complete."""
FETCHED_WITHIN_S = 600.0
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
PROJECT = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidegate</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{RELEASE}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version>
    </dependency>
  </dependencies>
</project>
"""


class JarsError(Exception):
    """They are not to be had here; the message says why."""


def why_not() -> str | None:
    """What is missing to run them, and how to mend it; None if nothing is."""
    if shutil.which("java") is None:
        return f"needs Java 17 or newer: apt-get install --no-install-recommends {PACKAGES}"
    return None if JARS.exists() else f"needs {JARS}: python -m tests.support.kafka_jars"


def install() -> None:
    """Does nothing where it is done. Raises ``JarsError``."""
    if JARS.exists():
        return
    if shutil.which("mvn") is None or shutil.which("java") is None:
        raise JarsError(f"Java 17 and Maven are needed: apt-get install --no-install-recommends {PACKAGES}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        (Path(folder) / "pom.xml").write_text(PROJECT, encoding="utf-8")
        jars = Path(folder) / "jars"
        words = ["mvn", "-q", "-B", "-ntp", "-f", folder, COPY, "-DincludeScope=runtime", f"-DoutputDirectory={jars}"]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCHED_WITHIN_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise JarsError(f"Maven had not fetched them within {FETCHED_WITHIN_S:g} s") from None
        if done.returncode:
            raise JarsError(f"Maven ended with {done.returncode}:\n{(done.stdout + done.stderr)[-1000:]}")
        if not JARS.exists():  # another process may have been as far
            jars.rename(JARS)


if __name__ == "__main__":
    try:
        install()
    except JarsError as error:
        sys.exit(f"Kafka {RELEASE} was not fetched into {JARS}: {error}")
