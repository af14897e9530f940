#!/usr/bin/env python3
"""Whether real runs keep a real, limited endpoint full: `benches/full.py --sweroll FILE [--seconds 120] [CASE ...]`.

Each case starts `sweroll endpoint` with a token bucket, one or two `sweroll run --sandbox null` with more to do than it lets
through, and counts by the endpoint's own `/stat` what it served and refused. A Redis is started where a case needs one.
Prints a Markdown table."""

import argparse, json, pathlib, re, shutil, signal, socket, subprocess, tempfile, time, urllib.request

HERE = pathlib.Path(__file__).resolve().parent.parent
WARM = 15  # Seconds before anything is counted: the first replies are on their way.


class Endpoint:
    def __init__(self, sweroll, rpm, more):
        command = [sweroll, "endpoint", "--script", "wander", "--wander-turns", "30", "--listen", "127.0.0.1:0", "--latency-ms", "2000"]
        command += ["--instances", HERE / "src/cli/demo.jsonl", "--rpm", rpm, "--burst", max(rpm // 60, 1), *more]
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = re.search(r"http://\S+", self.process.stdout.readline())[0]
        self.began = time.monotonic()
        self.looks = 0

    def stat(self):
        with urllib.request.urlopen(self.url.rsplit("/v1", 1)[0] + "/stat") as reply:
            stat = json.load(reply)
        replies = {int(status): n for status, n in stat["replies"].items()}
        self.looks += 1  # Whose replies count too.
        return replies.get(200, 0) - self.looks, sum(n for status, n in replies.items() if status >= 429)


class Redis:
    def __init__(self, port=None):
        if port is None:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
        self.port = port
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def end(self):
        self.process.kill()
        self.process.wait()


class Run:
    def __init__(self, sweroll, endpoint, rpm, out, more):
        self.events, self.out, self.errors = out.with_suffix(".events"), out, out.with_suffix(".err")
        command = [sweroll, "run", "--instances", HERE / "src/cli/demo.jsonl", "--out", out, "--endpoint", endpoint.url, "--model", "m"]
        command += ["--sandbox", "null", "--samples", "2000", "--concurrency", max(64, rpm // 5), "--events", self.events, "--quiet"]
        command += ["--set", "endpoint.limits.in_flight_max=1024", *more]
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=self.errors.open("w"))

    def requests(self):
        """By the endpoint status that was told last."""
        told = [line for line in self.events.read_text().splitlines() if '"endpoints"' in line]
        return sum(one["requests"] for one in json.loads(told[-1])["endpoints"])

    def end(self):
        for _ in range(2):
            self.process.send_signal(signal.SIGINT)
            time.sleep(1)
        self.process.wait()

    def lost(self):
        """Attempts that did not end well for another reason than this script's."""
        lines = self.events.read_text().splitlines()
        return sum('"endpoint_unavailable"' in line and '"endpoints"' not in line for line in lines)


def case(sweroll, name, rpm, seconds, set_rate=True, endpoint_more=(), processes=1, redis=False, outage=None):
    temp = pathlib.Path(tempfile.mkdtemp(prefix="full-"))
    endpoint = Endpoint(sweroll, rpm, endpoint_more)
    server = Redis() if redis else None
    more = ["--set", f"endpoint.limits.requests_per_minute={rpm if set_rate else 0}"]
    more += ["--set", f"endpoint.share.url=redis://127.0.0.1:{server.port}/0"] if redis else []
    runs = [Run(sweroll, endpoint, rpm, temp / f"run{n}", more) for n in range(processes)]
    time.sleep(WARM - (time.monotonic() - endpoint.began))
    looks = [endpoint.stat()]
    for second in range(1, seconds + 1):
        time.sleep(max(0, endpoint.began + WARM + second - time.monotonic()))
        looks.append(endpoint.stat())
        if redis and second == seconds // 3:
            server.end()
        if redis and second == 2 * seconds // 3:
            server = Redis(server.port)
    for run in runs:
        run.end()
    endpoint.process.kill()
    if redis:
        server.end()
    served = [b[0] - a[0] for a, b in zip(looks, looks[1:])]
    refused = looks[-1][1] - looks[0][1]
    kept, total, recovered = sum(served) * 60 / seconds / rpm, sum(served), ""
    if outage:
        begin, end = outage[0] - WARM, outage[0] - WARM + outage[1]
        outside = served[:begin] + served[end + 60 :]
        kept = sum(outside) * 60 / len(outside) / rpm
        full = [at for at in range(end, seconds - 10) if sum(served[at : at + 10]) >= 0.95 * rpm / 6]
        recovered = f"{full[0] - end} s" if full else "never"
    shares = [run.requests() for run in runs]
    fair = f"{min(shares) / max(shares):.3f}" if processes > 1 else ""
    told = max(run.errors.read_text().count("is away") for run in runs) if redis else ""
    lost = sum(run.lost() for run in runs)
    row = [name, f"{total * 60 / seconds:.1f}", f"{100 * kept:.1f} %", f"{100 * refused / max(1, refused + total):.2f} %"]
    print("| " + " | ".join(map(str, [*row, recovered, fair, lost, told])) + " |", flush=True)
    shutil.rmtree(temp)


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--sweroll", required=True)
    args.add_argument("--seconds", type=int, default=120)
    args.add_argument("cases", nargs="*")
    args = args.parse_args()
    s = args.seconds
    at, lasts = WARM + s // 4, s // 4
    brownout = lambda what: {"endpoint_more": ["--brownout", f"{at},{lasts},{what}"], "outage": (at, lasts), "seconds": s + 60}
    cases = {
        "set": ("600 requests/min, set", 600, {}),
        "told": ("600 requests/min, told by the endpoint alone", 600, {"set_rate": False}),
        "fast": ("6000 requests/min, set", 6000, {}),
        "503": (f"600 requests/min, 503 for {lasts} s", 600, brownout("503")),
        "500": (f"600 requests/min, 500 for {lasts} s", 600, brownout("500")),
        "redis": (f"600 requests/min, two processes, Redis away for {s // 3} s of {s}", 600, {"processes": 2, "redis": True}),
    }
    print("| case | served/min | of the limit | refused | full speed after | fairness | replies lost | told that Redis is away |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for key, (name, rpm, more) in cases.items():
        if not args.cases or key in args.cases:
            case(args.sweroll, name, rpm, **{"seconds": s, **more})


if __name__ == "__main__":
    main()
