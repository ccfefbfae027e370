"""The examples of docs/slurm.md are what they say."""

from __future__ import annotations

import re
from pathlib import Path

from broker.app.settings import load_site
from tests.support.command_line import tidegate
from tests.support.shared_data import REPOSITORY
from tests.unit.cli.test_rendering import POLICIES

PAGE = (REPOSITORY / "docs/slurm.md").read_text()


def test_the_site_of_the_page_is_one_and_its_command_prints_a_script(tmp_path: Path) -> None:
    site, policies = tmp_path / "site.yaml", tmp_path / "policies.yaml"
    site.write_text(PAGE.partition("```yaml\n")[2].partition("```")[0])
    policies.write_text(POLICIES.partition("  small:")[0])
    assert load_site(site).pools.keys() == {"shared"}
    command = re.search(r"tidegate (replicas render chat)", PAGE)
    assert command is not None
    shown = tidegate(*command[1].split(), "--site", site, "--policies", policies)
    assert shown.exit_code == 0, shown.output
    assert "apptainer exec --nv --bind /scratch/models /scratch/images/vllm.sif" in " ".join(shown.stdout.split())


def test_the_template_of_the_page_is_one(tmp_path: Path) -> None:
    template, site, policies = tmp_path / "own.sh.j2", tmp_path / "site.yaml", tmp_path / "policies.yaml"
    template.write_text(PAGE.partition("```jinja\n")[2].partition("```")[0])
    job = f'{{broker_url: "http://b:1", directory: /d, template: {template}}}'
    site.write_text(
        f"cluster: hpc\npools:\n  s: {{kind: slurm, partition: gpu, time_limit: 1h, gpus: 4, job: {job}}}\n"
    )
    policies.write_text(POLICIES.partition("  small:")[0])
    shown = tidegate("replicas", "render", "chat", "--site", site, "--policies", policies)
    assert shown.exit_code == 0, shown.output
    assert "ulimit -l unlimited" in shown.stdout
    assert "numactl --localalloc" in shown.stdout
