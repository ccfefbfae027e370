"""A process that behaves like an engine as far as an actuator can tell. Run as a script; it ends itself in a minute.

It listens, answers 200 to its key and 401 to anything else, and exits some time after SIGTERM. Every run appends one
line ``engine runs`` to its output, by which tests count how often an action took effect.
"""

import argparse
import http.server
import os
import signal
import subprocess
import sys
import threading
import time


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == f"Bearer {os.environ['VLLM_API_KEY']}"
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="")
    parser.add_argument("--exit-s", type=float, default=0.0, help="how long it drains after SIGTERM")
    parser.add_argument("--silent", action="store_true", help="never listen")
    parser.add_argument("--helper", action="store_true", help="start a child that ignores SIGTERM, like a stuck core")
    parser.add_argument("--write-bytes", type=int, default=0, help="how much to log first")
    parser.add_argument("--share-port", action="store_true", help="set SO_REUSEPORT, as vLLM does")
    options = parser.parse_args()
    signal.alarm(60)

    def on_sigterm(number: int, frame: object) -> None:
        print("SIGTERM", flush=True)
        threading.Thread(target=leave).start()

    def leave() -> None:
        time.sleep(options.exit_s)
        os._exit(0)

    signal.signal(signal.SIGTERM, on_sigterm)
    print("engine runs", flush=True)
    for line in range(options.write_bytes // 100):
        print(f"line {line} ".ljust(99, "."), flush=True)
    if options.helper:
        code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.alarm(60); signal.pause()"
        subprocess.Popen([sys.executable, "-c", code], env={})
    if options.silent:
        while True:
            signal.pause()
    http.server.ThreadingHTTPServer.allow_reuse_port = options.share_port
    http.server.ThreadingHTTPServer((options.host, options.port), Answer).serve_forever()


if __name__ == "__main__":
    main()
