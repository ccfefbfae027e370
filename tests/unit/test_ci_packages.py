"""What CI installs is what the tests ask for."""

from __future__ import annotations

from tests.support import kafka_jars, real_accounting, real_kafka, real_slurm, real_sshd
from tests.support.shared_data import REPOSITORY


def test_every_package_that_a_skip_names_is_one_that_ci_installs() -> None:
    script = (REPOSITORY / ".ci" / "packages").read_text(encoding="utf-8")
    installed = script.replace("(", " ").replace(")", " ").split()
    slurm = (
        f"{real_slurm.PACKAGES} {real_slurm.REST_PACKAGES} {real_sshd.PACKAGES} {real_accounting.PACKAGES} debootstrap"
    )
    named = f"{slurm} {kafka_jars.PACKAGES} {real_kafka.TLS_PACKAGES} chromium"
    assert set(named.split()) <= set(installed)
