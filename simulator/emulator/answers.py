"""OpenAI's answers in the shapes that vLLM gives them, and the words they are made of; no I/O."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Vocabulary:
    """The words that answers are made of: the same seed and prompt give the same text on every replica."""

    SIZE = 1024

    def __init__(self, seed: int) -> None:
        generator = random.Random(seed)
        syllables = [onset + vowel for onset in "bdfgklmnprstvz" for vowel in "aeiou"]
        self._words = [" " + "".join(generator.choices(syllables, k=generator.randint(1, 3))) for _ in range(self.SIZE)]
        self._encoded = [word.encode() for word in self._words]

    def start(self, prompt_text: str) -> int:
        return zlib.crc32(prompt_text.encode())

    def word(self, start: int, index: int) -> bytes:
        """Token ``index`` of an answer; letters and spaces, so that it needs no escaping in JSON."""
        return self._encoded[(start + index * 7) % self.SIZE]

    def text(self, start: int, tokens: int) -> str:
        return "".join(self._words[(start + index * 7) % self.SIZE] for index in range(tokens))


@dataclass(frozen=True, slots=True)
class AnswerShape:
    """One answer's identity, and the bodies made of it."""

    answer_id: str
    created: int
    model: str
    chat: bool

    def whole(self, text: str, finish_reason: str, prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
        """The answer to a request without ``stream``."""
        common = {"index": 0, "logprobs": None, "finish_reason": finish_reason, "stop_reason": None, "token_ids": None}
        if self.chat:
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "tool_calls": []}
            choice: dict[str, Any] = {"index": 0, "message": message, **common}
        else:
            choice = {"index": 0, "text": text, **common}
        return {
            **self._head("chat.completion" if self.chat else "text_completion"),
            "choices": [choice],
            "usage": usage(prompt_tokens, output_tokens),
        }

    def role_chunk(self) -> bytes:
        """What a chat stream begins with, at its first token."""
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return _event({**self._chunk_head(), "choices": [choice], "prompt_token_ids": None})

    def token_chunk(self, finish_reason: str | None = None) -> tuple[bytes, bytes]:
        """What stands before and after a token's text in its chunk; ``finish_reason`` for the last."""
        end = {"logprobs": None, "finish_reason": finish_reason}
        if finish_reason is not None or not self.chat:
            end["stop_reason"] = None
        part = {"delta": {"content": _PLACE}} if self.chat else {"text": _PLACE}
        body = {**self._chunk_head(), "choices": [{"index": 0, **part, **end, "token_ids": None}]}
        before, _, after = _event(body).partition(_PLACE.encode())
        return before, after

    def usage_chunk(self, prompt_tokens: int, output_tokens: int) -> bytes:
        return _event({**self._chunk_head(), "choices": [], "usage": usage(prompt_tokens, output_tokens)})

    def _chunk_head(self) -> dict[str, Any]:
        return self._head("chat.completion.chunk" if self.chat else "text_completion")

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.answer_id, "object": kind, "created": self.created, "model": self.model}


DONE = b"data: [DONE]\n\n"
_PLACE = "@TEXT@"


def usage(prompt_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "completion_tokens": output_tokens,
        "prompt_tokens_details": None,
    }


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"
