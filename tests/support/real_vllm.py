"""A real vLLM on CPU, in an environment of its own below ``build/vllm``, and a tiny model for it.

python -m tests.support.real_vllm

installs it: 3 GB to fetch, 5 GB on the disk, some minutes. ``TIDEGATE_VLLM`` names another environment that has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

from tests.support.command_line import ROOT

RELEASE = "0.32.0"
REQUIREMENTS = Path(__file__).with_name("vllm-requirements.txt")
FOLDER = Path(os.environ.get("TIDEGATE_VLLM") or ROOT / "build" / "vllm")
VLLM = FOLDER / "bin" / "vllm"
INSTALLED = FOLDER / "installed"
"""Written last: an environment without it was not finished."""
WORDS = 1024
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
OPTIONS = (
    "--load-format", "dummy", "--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "4",
    "--num-gpu-blocks-override", "64", "--shutdown-timeout", "30",
)  # fmt: skip


def why_not() -> str | None:
    return None if VLLM.exists() else f"needs {VLLM}: `make test-vllm` installs it"


def install() -> None:
    """Does nothing where it is done. Raises ``CalledProcessError``."""
    if why_not() is None and (INSTALLED.exists() or "TIDEGATE_VLLM" in os.environ):
        return
    venv.create(FOLDER, with_pip=True)
    pip = [str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--only-binary", ":all:", "-r", str(REQUIREMENTS)], check=True)
    # `vllm` looks for its own release under the name of the package for GPUs, and takes the platform from it.
    (packages,) = FOLDER.glob("lib/python3.*/site-packages")
    (packages / f"vllm-{RELEASE}+cpu.dist-info").mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {RELEASE}+cpu\n"
    (packages / f"vllm-{RELEASE}+cpu.dist-info" / "METADATA").write_text(metadata)
    INSTALLED.touch()


def write_model(folder: Path) -> None:
    """A Llama of two layers, whose weights vLLM makes up, and whose words are ``w0`` to ``w1023``."""
    folder.mkdir()
    words = {f"w{number}": number for number in range(WORDS)}
    special = {"id": 1, "content": "w1", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special | {"special": True}],
        "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    }  # fmt: skip
    model = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": WORDS, "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
        "head_dim": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": False, "eos_token_id": 1, "torch_dtype": "bfloat16",
    }  # fmt: skip
    of_tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w1", "unk_token": "w0"}
    files = {"tokenizer.json": tokenizer, "config.json": model, "tokenizer_config.json": of_tokenizer}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


if __name__ == "__main__":
    try:
        install()
    except subprocess.CalledProcessError as error:
        sys.exit(f"vLLM was not installed into {FOLDER}: pip ended with status {error.returncode}, see above")
