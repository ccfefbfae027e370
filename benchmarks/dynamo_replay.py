"""Run by the interpreter of another environment, which has ``ai-dynamo-runtime`` and nothing of ours: reads a question
in JSON on standard input, replays a trace, and answers with times and counts on the last line of standard output."""

import importlib
import json
import sys
import time


def main() -> None:
    replay = importlib.import_module("dynamo._core").run_mocker_trace_replay
    question = json.load(sys.stdin)
    times = []
    for _ in range(question["runs"]):
        cpu, wall = time.process_time(), time.perf_counter()
        result = replay(
            [question["trace"]],
            extra_engine_args={"engine": question["engine"]},
            num_workers=question["workers"],
            router_mode="round_robin",
            trace_block_size=question["trace_block_size"],
            capture_planner_details=False,
        )
        times.append([time.process_time() - cpu, time.perf_counter() - wall])
    summary = result.summary() if callable(result.summary) else result.summary
    print(json.dumps({"times": times, "summary": summary}))


if __name__ == "__main__":
    main()
