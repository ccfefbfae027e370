"""What the node agent finds before it starts the engine: the kind of node, and what of the weights is in its memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actuators.slurm.agent import node_class, share_in_memory, weight_files
from tests.support.weights import evict, write_weights

# -- the weights


def evicted(path: Path) -> Path:
    if not evict(path):
        pytest.skip("the file system of temporary files keeps them in memory")
    return path


def test_what_was_evicted_is_not_in_memory_and_looking_does_not_read_it(tmp_path: Path) -> None:
    weights = evicted(write_weights(tmp_path / "model.safetensors"))
    assert [share_in_memory([str(weights)]) for _ in range(2)] == [0.0, 0.0]


def test_what_was_read_is_in_memory(tmp_path: Path) -> None:
    weights = evicted(write_weights(tmp_path / "model.safetensors"))
    weights.read_bytes()
    assert share_in_memory([str(weights)]) == 1.0


def test_files_count_by_their_size(tmp_path: Path) -> None:
    small = evicted(write_weights(tmp_path / "small.bin", 1))
    large = write_weights(tmp_path / "large.bin", 3)
    empty = tmp_path / "empty.bin"
    empty.touch()
    assert share_in_memory([str(small), str(large), str(empty)]) == 0.75


def test_a_part_of_a_file_is_found_by_a_sample_of_its_pages(tmp_path: Path) -> None:
    weights = evicted(write_weights(tmp_path / "model.safetensors", 8))
    with weights.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
        file.read(2 * 2**20)
    assert share_in_memory([str(weights)]) == pytest.approx(0.25, abs=0.02)


@contextmanager
def nobody() -> Iterator[None]:
    """Root may ask of any file."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_of_another_user_s_file_it_cannot_be_told() -> None:
    """Linux says of those that all is in memory."""
    with nobody(), pytest.raises(PermissionError, match="another user's"):
        share_in_memory(["/etc/passwd"])


def test_of_a_file_that_is_not_there_it_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        share_in_memory([str(tmp_path / "model.safetensors")])


FOLDERS: dict[str, tuple[list[str], list[str]]] = {
    "as vLLM is told of it": (
        ["vllm", "serve", "{}/llama", "--port=1"],
        ["llama/a.safetensors", "llama/b.safetensors"],
    ),
    "as an option's value": (["vllm", "--model={}/llama"], ["llama/a.safetensors", "llama/b.safetensors"]),
    "of the older form": (["vllm", "serve", "{}/old"], ["old/pytorch_model.bin"]),
    "a model by its name on a hub": (["vllm", "serve", "Qwen/Qwen2.5-0.5B-Instruct"], []),
    "a folder without weights": (["vllm", "serve", "{}", "--served-model-name=chat"], []),
}


@pytest.mark.parametrize(("command", "files"), FOLDERS.values(), ids=FOLDERS)
def test_weights_are_found_by_the_engine_s_command(tmp_path: Path, command: list[str], files: list[str]) -> None:
    for name in ("llama/a.safetensors", "llama/b.safetensors", "llama/optimizer.bin", "old/pytorch_model.bin"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = weight_files([word.format(tmp_path) for word in command])
    assert found == [str(tmp_path / name) for name in files]


# -- the node

IN_JOB = {"SLURM_JOB_PARTITION": "gpu"}


def test_a_node_is_of_the_gpu_type_that_its_job_asked_for(tmp_path: Path) -> None:
    assert node_class("h100", IN_JOB, str(tmp_path)) == "gpu:h100"


def test_else_of_the_gpus_that_its_driver_tells(tmp_path: Path) -> None:
    for address in ("0000:17:00.0", "0000:65:00.0"):
        (tmp_path / "gpus" / address).mkdir(parents=True)
        (tmp_path / "gpus" / address / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 150\n")
    assert node_class(None, IN_JOB, str(tmp_path)) == "NVIDIA H100 80GB HBM3"


def test_else_of_its_partition(tmp_path: Path) -> None:
    assert node_class(None, IN_JOB, str(tmp_path)) == "gpu"
    assert node_class(None, {}, str(tmp_path)) == ""
