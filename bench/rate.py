"""How exact a limit is that several workers keep together: `python -m bench.rate`.

More is asked for than the limit admits, by wrk over connections that are spread over the workers, against an
upstream that answers at once. Over the whole run a limit of R/s with a burst of B admits B + R x seconds, as
it was not used before.

admitted    answers with 200
exact       what the limit admits in the time that wrk says it took
asked for   all answers, per second: at most what the machine can do
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from bench.proxy import running
from shadowcat.testing.canned import CannedUpstream

_BODY = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}'
_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Accept"] = "application/json, text/event-stream"
wrk.body = '%s'
function done(summary)
    print("@@" .. summary.duration .. " " .. summary.requests .. " " .. summary.errors.status)
end
"""


def ask(url: str, connections: int, seconds: int) -> tuple[float, int, int]:
    """One run of wrk: its seconds, all answers, those with a status from 400 up."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "calls.lua"
        script.write_text(_SCRIPT % _BODY)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    microseconds, answers, refused = done.stdout.rpartition("@@")[2].split()
    return int(microseconds) / 1e6, int(answers), int(refused)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", type=int, default=10_000, help="per second")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    limits = {"per_ip": f"{options.rate}/s"}
    print(f"{json.dumps(limits)}, {options.workers} workers")
    print("admitted      exact     off  asked for")
    with CannedUpstream() as upstream:
        for _ in range(options.rounds):
            config = {
                "workers": options.workers,
                "limits": limits,
                "routes": [{"path": "/mcp", "upstreams": [{"url": upstream.url}]}],
            }
            with running(config) as proxy:
                url = f"http://{proxy.host}:{proxy.port}/mcp"
                seconds, answers, refused = ask(url, options.connections, options.seconds)
            admitted, exact = answers - refused, options.rate * (1 + seconds)
            print(f"{admitted:8} {exact:10.0f} {admitted / exact - 1:7.2%} {answers / seconds:8.0f}/s")


if __name__ == "__main__":
    main()
