"""Small trace files written by hand, in the shape of the known formats."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
10,ChatGPT,100,20,120,Conversation log
11,GPT-4,200,0,200,API log
12.5,ChatGPT,300,40,340,Something else
"""

BURSTGPT_3 = """\
Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
0,alpha,3.5,ChatGPT,100,20,120,Conversation log
1,,2.0,ChatGPT,50,5,55,API log
2,alpha,3.5,ChatGPT,150.0,20,170,Conversation log
"""

AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens\r
2024-02-29 23:59:59.9000000,400,50\r
2024-03-01 00:00:00.4000001,500,60\r
"""

AZURE_ZONES = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 02:00:00+02:00,10,1
2024-05-10 00:00:01.5+00:00,10,1
2024-05-10T00:00:03Z,10,1
2024-05-09 19:30:04-04:30,10,1
"""

MOONCAKE = """\
{"timestamp": 1000, "input_length": 700, "output_length": 30, "hash_ids": [1, 2]}

{"timestamp": 1250, "input_length": 800, "output_length": 40, "hash_ids": [1, 3]}
"""


def written(folder: Path, content: str | bytes, name: str = "trace") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def zipped(folder: Path, content: str | bytes, name: str = "trace.gz") -> Path:
    return written(folder, gzip.compress(content.encode() if isinstance(content, str) else content), name)


def burstgpt_at(timestamps: Iterable[float]) -> str:
    """A BurstGPT file whose rows arrive at these times; the prompt length is the row's number."""
    header = "Timestamp,Request tokens,Response tokens\n"
    return header + "".join(f"{timestamp!r},{number},1\n" for number, timestamp in enumerate(timestamps))
