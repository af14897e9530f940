#!/usr/bin/env python3
"""backends.py --sweroll FILE --instances FILE --endpoint URL [--rounds 3] [--count 20] [--concurrency 10]

The same graded episodes on Docker and on native, and the bare cost of their commands (floor.sh, in containers and in plain namespaces),
taking turns in one run by root. The instances are equal copies of one whose image has a repository /testbed with floor.sh's files; the
endpoint plays the fix. Docker by DOCKER_HOST. The image is taken into a store of the run's own. Prints seconds and ratios as Markdown.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("sweroll", "instances", "endpoint"):
    parser.add_argument("--" + name, required=True)
for name, value in (("rounds", 3), ("count", 20), ("concurrency", 10)):
    parser.add_argument("--" + name, type=int, default=value)
parser.add_argument("--model", default="mock")
parser.add_argument("--set", action="append", default=[], help="passed on to the native run, as KEY=VALUE")
args = parser.parse_args()

row = json.loads(Path(args.instances).read_text().splitlines()[0])
image, base = row["image_url"], row["parent_commit"]
floor = Path(__file__).parents[1] / "floor.sh"


def check(argv, **how):
    done = subprocess.run(argv, capture_output=True, text=True, **how)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, argv))}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
    root, store = Path(scratch, "root"), Path(scratch, "store")
    root.mkdir()
    container = check(["docker", "create", image, "true"]).strip()
    check(["sh", "-c", f"docker export {container} | tar -x -C {root}"])
    check(["docker", "rm", container])
    check(["sh", "-c", f"docker save {image} | {args.sweroll} images import --store {store} -"])
    runs = iter(range(10**6))

    def engine(backend, *more):
        out = Path(scratch, f"run{next(runs)}")
        begun = time.monotonic()
        check([args.sweroll, "run", "--instances", args.instances, "--out", out, "--endpoint", args.endpoint, "--model", args.model,
               "--limit", str(args.count), "--concurrency", str(args.concurrency), "--quiet", "--sandbox", backend, *more],
              env={**os.environ, "SWEROLL_IMAGES": str(store)})
        took = time.monotonic() - begun
        graded = check(["sh", "-c", f"cat {out}/shards/trajectories-*.zst | zstd -dcq | grep -c '\"resolved\":1' || true"]).strip()
        if graded != str(args.count):
            print(f"{backend}: {graded} of {args.count} resolved", file=sys.stderr)
        return took

    def bare(*more):
        return float(check([floor, image, base, str(args.count), str(args.concurrency), *map(str, more)]).split()[-1])

    native = [word for pair in args.set for word in ("--set", pair)]
    ways = {"docker": lambda: engine("docker"), "native": lambda: engine("native", *native),
            "commands in containers": bare, "commands alone": lambda: bare(root)}
    seconds = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, run in ways.items():
            seconds[way].append(run())
    middle = {way: statistics.median(times) for way, times in seconds.items()}
    print(f"{args.count} graded episodes, {args.concurrency} at once\n")
    print("| | wall s, each round | median | / docker | / commands alone |\n| --- | --- | ---: | ---: | ---: |")
    for way, times in seconds.items():
        each = " ".join(f"{t:.2f}" for t in times)
        m = middle[way]
        print(f"| {way} | {each} | {m:.2f} | {m / middle['docker']:.2f} | {m / middle['commands alone']:.2f} |")
