"""OpenAI's requests as vLLM understands them, and its errors; no I/O.

Number of prompt tokens: one per four characters of text, rounded up, over all messages; a load generator that wants
an exact number sends ``/v1/completions`` a list of token ids, as real vLLM allows. An answer ends by itself
(``finish_reason`` "stop") after the server's natural length, with ``ignore_eos`` never; ``max_tokens`` ends it with
"length". So ``ignore_eos`` with ``max_tokens`` gives exactly that many tokens, as on the real server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CHARACTERS_PER_TOKEN = 4
DEFAULT_COMPLETION_TOKENS = 16


class RequestRefused(Exception):
    """A request that gets an error answer. Not one of Tidegate's errors: it is what a client of vLLM would see."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": status}}


def bad_request(message: str, param: str | None = None) -> RequestRefused:
    return RequestRefused(400, "BadRequestError", message, param)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a chat or text completion asks for. ``output_tokens`` is how many the answer will have."""

    chat: bool
    prompt_text: str
    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    finish_reason: str
    stream: bool
    include_usage: bool


def parse_generation(
    body: object, *, chat: bool, served_model: str, max_model_len: int, natural_length: int
) -> GenerationRequest:
    """Raises ``RequestRefused`` with vLLM's status and error type."""
    if not isinstance(body, dict):
        raise RequestRefused(400, "Bad Request", "the body is a JSON object")
    check_model(body, served_model)
    if body.get("n") not in (None, 1):
        raise bad_request("n is 1: this server gives one answer per request", "n")
    stream = _flag(body, "stream")
    stream_options = body.get("stream_options") or {}
    if not isinstance(stream_options, dict):
        raise bad_request("stream_options is an object", "stream_options")
    if stream_options and not stream:
        raise bad_request("stream_options is for stream=true only", "stream_options")
    prompt_text, prompt_tokens = _chat_prompt(body) if chat else _completion_prompt(body)
    max_tokens = _max_tokens(body, chat, prompt_tokens, max_model_len)
    ends_by_itself = not _flag(body, "ignore_eos") and natural_length < max_tokens
    return GenerationRequest(
        chat=chat,
        prompt_text=prompt_text,
        prompt_tokens=prompt_tokens,
        output_tokens=natural_length if ends_by_itself else max_tokens,
        max_tokens=max_tokens,
        finish_reason="stop" if ends_by_itself else "length",
        stream=stream,
        include_usage=_flag(stream_options, "include_usage"),
    )


def check_model(body: Mapping[str, Any], served_model: str) -> None:
    """A request that names no model means the one there is."""
    model = body.get("model")
    if model not in (None, served_model):
        raise RequestRefused(404, "NotFoundError", f"The model `{model}` does not exist.", "model")


def text_tokens(text: str) -> int:
    return max(1, -(-len(text) // CHARACTERS_PER_TOKEN))


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad_request(f"{name} is true or false", name)
    return bool(value)


def _chat_prompt(body: Mapping[str, Any]) -> tuple[str, int]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages is a list of at least one message", "messages")
    texts = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise bad_request("each message is an object with a role and a content", "messages")
        texts.append(_content_text(message.get("content")))
    text = "\n".join(texts)
    return text, text_tokens(text)


def _content_text(content: object) -> str:
    """A message's content: a string, or a list of parts of which the text counts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    raise bad_request("a message's content is a string or a list of parts", "messages")


def _completion_prompt(body: Mapping[str, Any]) -> tuple[str, int]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt, text_tokens(prompt)
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return "", len(prompt)
    raise bad_request("prompt is one string or one list of token ids", "prompt")


def _max_tokens(body: Mapping[str, Any], chat: bool, prompt_tokens: int, max_model_len: int) -> int:
    room = max_model_len - prompt_tokens
    if room < 1:
        raise bad_request(
            f"This model's maximum context length is {max_model_len} tokens; the prompt has {prompt_tokens}, "
            "which leaves none for the answer. Shorten the prompt."
        )
    name = "max_completion_tokens" if chat and body.get("max_completion_tokens") is not None else "max_tokens"
    asked = body.get(name)
    if asked is None:
        return room if chat else min(DEFAULT_COMPLETION_TOKENS, room)
    if type(asked) is not int or asked < 1:
        raise bad_request(f"{name} is a whole number of at least 1", name)
    if asked > room:
        raise bad_request(
            f"{name} is too large: {asked}. This model's maximum context length is {max_model_len} tokens; the "
            f"prompt has {prompt_tokens}, which leaves {room}.",
            name,
        )
    return asked
