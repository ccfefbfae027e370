"""Encoding and decoding one gateway's summary of one second, and pydantic's time for the same beside it."""

from __future__ import annotations

import dataclasses
import random
import timeit
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, TypeAdapter

from benchmarks.base import Measurement
from broker.model.signals import RequestSummary
from broker.model.sketch import Sketch
from broker.model.wire import codec_of, decode, encode, field_hints


def run() -> list[Measurement]:
    summary = busy_second()
    data = encode(summary)
    adapter, same = pydantic_twin(summary)
    return [
        Measurement(
            "wire_encode",
            microseconds(lambda: encode(summary)),
            "us",
            10.0,
            details={"pydantic_us": microseconds(lambda: adapter.dump_python(same, mode="json"))},
        ),
        Measurement(
            "wire_decode",
            microseconds(lambda: decode(RequestSummary, data)),
            "us",
            40.0,
            details={"pydantic_us": microseconds(lambda: adapter.validate_python(data))},
        ),
    ]


def busy_second() -> RequestSummary:
    """A gateway with 30 requests a second: sketches of 7 to 60 buckets."""
    random_numbers = random.Random(1)

    def sketch(count: int) -> Sketch:
        return Sketch.of(random_numbers.lognormvariate(0.0, 1.0) for _ in range(count))

    return RequestSummary(
        model_id="chat",
        gateway_id="gateway",
        boot_id="boot",
        sequence=7,
        observed_at=1.7e9,
        received_at=1.7e9 + 0.1,
        interval_s=1.0,
        arrived=30,
        finished=29,
        in_flight=30,
        waiting=3,
        oldest_waiting_since=1.7e9 - 5.0,
        queue_age=sketch(30),
        time_to_first_token=sketch(10),
        inter_token=sketch(300),
        prompt_tokens=sketch(10),
        output_tokens=sketch(10),
    )


def pydantic_twin(summary: RequestSummary) -> tuple[TypeAdapter[Any], Any]:
    """The same fields as a dataclass that pydantic encodes and decodes, with our own form of a sketch."""
    of_sketch = codec_of(Sketch)
    travelling = Annotated[Sketch, PlainSerializer(of_sketch.encode), PlainValidator(of_sketch.decode)]
    hints = {name: travelling if hint is Sketch else hint for name, hint in field_hints(RequestSummary).items()}
    twin = dataclasses.make_dataclass("Twin", list(hints.items()), frozen=True, slots=True)
    return TypeAdapter(twin), twin(**{name: getattr(summary, name) for name in hints})


def microseconds(call: Callable[[], object]) -> float:
    """The best of several runs: the others measured the machine's neighbours."""
    return round(min(timeit.repeat(call, number=1000, repeat=7)) / 1000 * 1e6, 2)
