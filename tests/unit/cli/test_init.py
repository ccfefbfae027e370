"""A new site works as it was made, belongs to its owner, and is never made over another."""

from __future__ import annotations

import json
import re
import stat
import sys
from pathlib import Path

import pytest

from broker.app.settings import Lint, lint, load_policies, load_secrets, load_site
from cli.output import Exit
from tests.support.command_line import CLEAN, tidegate

SECRETS = ("site", "read", "operate", "gateway")


@pytest.fixture(autouse=True)
def _no_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CLEAN:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("engine", ["emulator", "vllm"])
def test_the_files_load_without_a_word_against_them(tmp_path: Path, engine: str) -> None:
    folder = tmp_path / "new"
    assert tidegate("init", folder, "--engine", engine, "--gpus", "4").exit_code == 0
    found = lint(folder / "site.yaml", folder / "policies.yaml")
    assert (found.problems, found.warnings) == ((), ())
    site = load_site(folder / "site.yaml")
    (model,) = load_policies(folder / "policies.yaml", site)
    assert (model.minimum, model.maximum, model.pools) == (1, 4, ("local",))
    secrets = load_secrets(site)
    given = [secrets.site_secret, secrets.read_token, secrets.operate_token, secrets.gateway_token]
    assert len({secret.get_secret_value() for secret in given if secret is not None}) == 4


def test_secrets_are_for_their_owner_and_not_for_git(tmp_path: Path) -> None:
    tidegate("init", tmp_path)
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    for name in SECRETS:
        assert stat.S_IMODE((tmp_path / "secrets" / name).stat().st_mode) == 0o600
        assert len((tmp_path / "secrets" / name).read_text().strip()) == 64
    assert (tmp_path / "secrets" / ".gitignore").read_text() == "*\n"


def test_no_two_sites_share_a_secret_or_a_cluster(tmp_path: Path) -> None:
    for name in ("a/site", "b/site"):
        assert tidegate("init", tmp_path / name).exit_code == 0
    one, other = (load_site(tmp_path / name / "site.yaml") for name in ("a/site", "b/site"))
    assert one.cluster != other.cluster
    assert one.cluster.startswith("site-")
    for name in SECRETS:
        assert (tmp_path / "a/site/secrets" / name).read_text() != (tmp_path / "b/site/secrets" / name).read_text()


@pytest.mark.parametrize("there", ["site.yaml", "policies.yaml", "secrets/site"])
def test_nothing_is_overwritten_and_nothing_made_beside_it(tmp_path: Path, there: str) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_text("mine")
    result = tidegate("init", tmp_path)
    assert result.exit_code == Exit.USAGE
    assert there in result.output
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [Path(there).name]
    assert (tmp_path / there).read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = tidegate("init", tmp_path / "file" / "new")
    assert result.exit_code == Exit.FAILED
    assert "Not a directory" in result.output


@pytest.mark.parametrize(
    ("loaded", "model_id"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b-instruct"),
        ("/models/My Model_v2/", "my-model-v2"),
        ("x" * 80, "x" * 48),
    ],
)
def test_what_vllm_loads_gets_a_name_that_users_can_ask_for(tmp_path: Path, loaded: str, model_id: str) -> None:
    result = tidegate("init", tmp_path, "--engine", "vllm", "--model", loaded, "--json")
    assert json.loads(result.output)["model_id"] == model_id
    (model,) = load_policies(tmp_path / "policies.yaml")
    assert (model.model_id, loaded in model.engine.command) == (model_id, True)


@pytest.mark.parametrize(
    ("engine", "name"), [("emulator", "Chat"), ("emulator", "a b"), ("emulator", ""), ("vllm", "/"), ("vllm", "a{b}")]
)
def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, engine: str, name: str) -> None:
    result = tidegate("init", tmp_path / "new", "--engine", engine, "--model", name)
    if name == "":
        assert result.exit_code == 0  # as if it were not given
    else:
        assert (result.exit_code, "--model" in result.output) == (Exit.USAGE, True)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("engine", ["emulator", "vllm"])
def test_with_room_for_one_replica_the_policy_is_a_comment_that_can_be_taken_up(tmp_path: Path, engine: str) -> None:
    assert tidegate("init", tmp_path, "--engine", engine, "--gpus", "1").exit_code == 0
    site, policies = tmp_path / "site.yaml", tmp_path / "policies.yaml"
    assert lint(site, policies) == Lint()
    text = policies.read_text()
    head, comment, rest = text.partition("take the # away:\n")
    policies.write_text(head + comment + re.sub("(?m)^    # ", "    ", rest))
    site.write_text(site.read_text().replace("gpus: 1", "gpus: 2"))
    policies.write_text(policies.read_text().replace("max: 1", "max: 2"))
    assert lint(site, policies) == Lint()


def test_it_names_itself_as_it_can_be_called(tmp_path: Path) -> None:
    program = tmp_path / "tidegate"
    program.write_text("")
    program.chmod(0o755)
    on_path = tidegate("init", tmp_path / "one", environment={"PATH": str(tmp_path)}).output
    assert "\n  tidegate run " in on_path
    off_path = tidegate("init", tmp_path / "two", environment={"PATH": ""}).output
    assert f"\n  {Path(sys.executable).parent}/" in off_path


def test_it_says_what_to_do_next(tmp_path: Path) -> None:
    output = tidegate("init", tmp_path / "here", "--model", "mine").output
    for words in (
        " run ",
        " gateway ",
        '"model": "mine"',
        " explain mine",
        f"cd {tmp_path}/here",
    ):
        assert words in output
