"""What the emulator makes of a request's body, and of its own command line."""

from __future__ import annotations

import pytest

from broker.model.errors import ConfigError
from simulator.emulator.answers import Vocabulary
from simulator.emulator.openai import GenerationRequest, RequestRefused, parse_generation
from simulator.emulator.options import parse_options


def parse(body: object, *, chat: bool = False) -> GenerationRequest:
    return parse_generation(body, chat=chat, served_model="chat", max_model_len=1000, natural_length=100)


@pytest.mark.parametrize(
    ("body", "chat", "prompt_tokens", "output_tokens", "finish_reason"),
    [
        pytest.param({"prompt": [7] * 50}, False, 50, 16, "length", id="token ids, default of 16"),
        pytest.param({"prompt": "x" * 41}, False, 11, 16, "length", id="four characters a token, rounded up"),
        pytest.param({"prompt": ["abcd"], "max_tokens": 3}, False, 1, 3, "length", id="a list of one string"),
        pytest.param({"prompt": [[1, 2]]}, False, 2, 16, "length", id="a list of one list of token ids"),
        pytest.param({"messages": [{"role": "user", "content": "abcd"}]}, True, 1, 100, "stop", id="ends by itself"),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "abcdefgh"}]}], "max_tokens": 9},
            True, 2, 9, "length", id="content in parts",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": "a"}], "max_tokens": 5, "max_completion_tokens": 7},
            True, 1, 7, "length", id="max_completion_tokens goes first",
        ),
        pytest.param({"prompt": [1], "max_tokens": 500}, False, 1, 100, "stop", id="ends before max_tokens"),
        pytest.param(
            {"prompt": [1], "max_tokens": 500, "ignore_eos": True}, False, 1, 500, "length", id="ignore_eos goes on"
        ),
        pytest.param({"model": "chat", "prompt": [1], "n": 1}, False, 1, 16, "length", id="model and n given"),
    ],
)  # fmt: skip
def test_lengths_follow_from_the_body(
    body: object, chat: bool, prompt_tokens: int, output_tokens: int, finish_reason: str
) -> None:
    asked = parse(body, chat=chat)
    assert (asked.prompt_tokens, asked.output_tokens, asked.finish_reason) == (
        prompt_tokens,
        output_tokens,
        finish_reason,
    )


@pytest.mark.parametrize(
    ("body", "chat", "status", "kind", "words"),
    [
        pytest.param([], False, 400, "Bad Request", "JSON object", id="not an object"),
        pytest.param({"model": "x", "prompt": "a"}, False, 404, "NotFoundError", "`x` does not exist", id="model"),
        pytest.param({"prompt": "a", "n": 2}, False, 400, "BadRequestError", "n is 1", id="two answers"),
        pytest.param({}, False, 400, "BadRequestError", "prompt is", id="no prompt"),
        pytest.param({"prompt": ["a", "b"]}, False, 400, "BadRequestError", "prompt is", id="two prompts"),
        pytest.param({"messages": []}, True, 400, "BadRequestError", "messages", id="no messages"),
        pytest.param({"messages": [{"role": 1}]}, True, 400, "BadRequestError", "role", id="message without role"),
        pytest.param(
            {"messages": [{"role": "user", "content": 5}]}, True, 400, "BadRequestError", "content", id="content"
        ),
        pytest.param({"prompt": [1] * 1000}, False, 400, "BadRequestError", "context length", id="long prompt"),
        pytest.param({"prompt": [1], "max_tokens": 1000}, False, 400, "BadRequestError", "too large", id="long answer"),
        pytest.param({"prompt": [1], "max_tokens": 0}, False, 400, "BadRequestError", "at least 1", id="no answer"),
        pytest.param({"prompt": [1], "stream": "yes"}, False, 400, "BadRequestError", "true or false", id="flag"),
        pytest.param(
            {"prompt": [1], "stream_options": {"include_usage": True}},
            False, 400, "BadRequestError", "stream=true", id="stream options without a stream",
        ),
        pytest.param(
            {"prompt": [1], "stream": True, "stream_options": 1},
            False, 400, "BadRequestError", "an object", id="stream options of another kind",
        ),
    ],
)  # fmt: skip
def test_a_bad_body_gets_vllms_error(body: object, chat: bool, status: int, kind: str, words: str) -> None:
    with pytest.raises(RequestRefused, match=words) as refused:
        parse(body, chat=chat)
    assert refused.value.status == status
    assert refused.value.body["error"]["type"] == kind
    assert refused.value.body["error"]["code"] == status


def test_the_same_seed_and_prompt_give_the_same_text_on_every_replica() -> None:
    one, other = Vocabulary(7), Vocabulary(7)
    text = one.text(one.start("hello"), 20)
    assert text == other.text(other.start("hello"), 20)
    assert text != other.text(other.start("goodbye"), 20)
    assert text != Vocabulary(8).text(one.start("hello"), 20)
    assert text == b"".join(one.word(one.start("hello"), index) for index in range(20)).decode()


def test_options_override_the_profile_under_vllms_names() -> None:
    limits = ["--max-num-seqs", "4", "--num-gpu-blocks-override", "64", "--load-time", "500ms"]
    faults = ["--fault", "wrong-model", "--fault", "crash-after=5s"]
    options = parse_options(["--model", "chat", *limits, *faults], {"VLLM_API_KEY": "secret"})
    assert (options.profile.load_time_s, options.profile.max_num_seqs, options.profile.num_blocks) == (0.5, 4, 64)
    assert options.max_model_len == 64 * 16
    assert options.api_keys == ("secret",)
    assert options.served_model == "not-chat"
    assert options.faults.crash_after_s == 5.0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        pytest.param(["--profile", "x"], "no engine profile 'x'", id="profile"),
        pytest.param(["--fault", "smoke"], "no fault 'smoke'; there are freeze", id="fault"),
        pytest.param(["--fault", "crash-after"], "no fault 'crash-after'", id="fault without its time"),
        pytest.param(["--load-time", "soon"], "--load-time: 'soon' is not a duration", id="duration"),
        pytest.param(["--max-model-len", "9000"], "more than the KV cache", id="model longer than the cache"),
        pytest.param(["--max-num-seqs", "0"], "at least 1", id="no sequences"),
    ],
)
def test_options_that_cannot_be_are_refused_with_what_would_be_right(arguments: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_options(["--model", "chat", *arguments], {})
