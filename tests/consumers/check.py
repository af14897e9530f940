"""Holds what a trainer made of the rows of an export against what is expected of them. Needs nothing but Python."""
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
CACHE = tempfile.TemporaryDirectory()  # nothing of an earlier export is taken for this one's
for name in ("HF_DATASETS_CACHE", "MODELSCOPE_CACHE"):
    os.environ[name] = CACHE.name


EMPTY = "<|im_end|>\n"
NO_SYSTEM = "<|im_start|>system\n<|im_end|>\n"


class Expected:
    """One record: what its text and its trained tokens are."""

    def __init__(self, row: dict):
        self.id, self.text, self.ids, self.replies = row["id"], row["text"], row["ids"], row["replies"]

    def mask(self, every=False) -> list:
        """1: trained on. `every`: all replies, whatever their `loss` says."""
        mask = [0] * len(self.ids)
        for reply in self.replies:
            if reply["trained"] or every:
                mask[reply["first"] : reply["last"] + 1] = [1] * (reply["last"] + 1 - reply["first"])
        return mask

    def said(self) -> list:
        """The texts that are trained on."""
        return [reply["said"] for reply in self.replies if reply["trained"]]

    def end(self) -> int:
        """Tokens up to the end of the last trained reply."""
        return max(reply["last"] + 1 for reply in self.replies if reply["trained"])


def load(path: str) -> dict:
    with open(path) as lines:
        return {row["id"]: Expected(row) for row in map(json.loads, lines)}


class Score:
    """Counts rows and shows the first that differ; `done` ends the process."""

    def __init__(self, consumer: str, *packages: str, show: int = int(os.environ.get("SWEROLL_SHOW", "5"))):
        self.consumer, self.packages, self.show = consumer, packages, show
        self.rows, self.notes, self.wrong = 0, {}, 0

    def note(self, what: str, number: int = 1):
        self.notes[what] = self.notes.get(what, 0) + number

    def fail(self, what: str):
        self.wrong += 1
        if self.wrong <= self.show:
            print("MISMATCH", self.consumer, what, flush=True)

    def equal(self, what: str, found, expected) -> bool:
        if found == expected:
            return True
        self.fail(f"{what}: {differ(found, expected)}")
        return False

    def tokens(self, record: Expected, ids, mask, every=False, cut=False, header_apart=False):
        """Token ids and mask are the expected ones. `cut`: nothing behind the last trained reply. `header_apart`: a first token that a
        reply shares with its header counts as the header's."""
        self.rows += 1
        size, expected = record.end() if cut else len(record.ids), record.mask(every)
        for reply in record.replies if header_apart else ():
            if reply["merged"] and reply["trained"]:
                expected[reply["first"]] = 0
                self.note("replies without their first line feed")
        if self.equal(f"{record.id}, ids", list(ids), record.ids[:size]):
            self.equal(f"{record.id}, mask", [int(bool(on)) for on in mask], expected[:size])

    def texts(self, record: Expected, ids, mask, decode, closes=(), trains_empty=True):
        """Up to the last trained reply the text is the expected one, and so is what is trained on of it; token ids may differ, where turns
        are tokenised apart from their headers. Allowed and counted: an empty system turn is lost; a last reply which ends with one of
        `closes` as text is not closed again; without `trains_empty`, nothing is learned of an empty reply before the last."""
        self.rows += 1
        ids, expected = list(ids), record.ids[: record.end()]
        self.note("rows with equal ids", int(ids == expected))
        text, said = decode(expected), record.said()
        if text.startswith(NO_SYSTEM) and not decode(ids[:8]).startswith(NO_SYSTEM):
            self.note("empty system turns lost")
            text = text.removeprefix(NO_SYSTEM)
        if any(said[-1].endswith(close + EMPTY) for close in closes) and not decode(ids).endswith(EMPTY):
            self.note("last replies that close themselves")
            text, said[-1] = text.removesuffix(EMPTY), said[-1].removesuffix(EMPTY)
        if not trains_empty:
            self.note("empty replies not trained on", said[:-1].count(EMPTY))
            said = [each for each in said[:-1] if each != EMPTY] + said[-1:]
        if self.equal(f"{record.id}, text", decode(ids), text):
            self.equal(f"{record.id}, trained text", decode([token for token, on in zip(ids, mask, strict=True) if on]), "".join(said))

    def done(self, at_least: int):
        from importlib.metadata import version

        versions = "".join(f"{package} {version(package)}, " for package in self.packages)
        notes = "".join(f"; {what}: {number}" for what, number in self.notes.items())
        print(f"{self.consumer}: {self.rows} rows checked, {self.wrong} wrong{notes} ({versions}Python {sys.version.split()[0]})")
        if self.rows < at_least:
            print(f"{self.consumer}: {at_least} rows were to be checked")
        sys.exit(1 if self.wrong or self.rows < at_least else 0)


def differ(found, expected, around: int = 6) -> str:
    try:
        at = next((at for at, (a, b) in enumerate(zip(found, expected)) if a != b), min(len(found), len(expected)))
    except TypeError:
        return f"found {found!r}, expected {expected!r}"
    cut = slice(max(0, at - around), at + around) if not isinstance(found, str) else slice(max(0, at - 40), at + 40)
    return f"first at {at} of {len(found)} and {len(expected)}: found {found[cut]!r}, expected {expected[cut]!r}"


def report(folder: str) -> dict:
    """What `sweroll export` says of what it wrote."""
    return json.loads((Path(folder) / "export.json").read_text())


def splits(folder: str) -> dict:
    """Data files by split."""
    found = {}
    for file in sorted(Path(folder).rglob("*")):
        if file.name.endswith((".jsonl.zst", ".jsonl", ".parquet")):
            found.setdefault(file.name.split("-")[0], []).append(str(file))
    return found
