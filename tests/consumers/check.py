"""Holds what a trainer made of the rows of an export against what is expected of them. Needs nothing but Python."""
import json
import os
import sys
import tempfile
import unicodedata
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
CACHE = tempfile.TemporaryDirectory()  # nothing of an earlier export is taken for this one's
for name in ("HF_DATASETS_CACHE", "MODELSCOPE_CACHE"):
    os.environ[name] = CACHE.name


class Expected:
    """One record: what its text and its trained tokens are."""

    def __init__(self, row: dict):
        self.id, self.text, self.ids = row["id"], row["text"], row["ids"]
        self.replies = row["replies"]

    def mask(self, every=False) -> list:
        """1: trained on. `every`: all replies, whatever their `loss` says."""
        mask = [0] * len(self.ids)
        for _, _, trained, first, last in self.replies:
            if trained or every:
                mask[first : last + 1] = [1] * (last + 1 - first)
        return mask

    def trained(self, every=False) -> list:
        """The texts that are trained on."""
        return [nfc(self.text[begin:end]) for begin, end, trained, _, _ in self.replies if trained or every]

    def end(self) -> tuple:
        """Characters and tokens up to the end of the last trained reply."""
        return max((end, last + 1) for _, end, trained, _, last in self.replies if trained)


def nfc(text: str) -> str:
    """As Qwen3's tokenizer has it before it tells tokens apart."""
    return unicodedata.normalize("NFC", text)


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

    def tokens(self, expected: Expected, ids, mask, every=False, cut=False):
        """Token ids and mask are the expected ones. `cut`: nothing behind the last trained reply."""
        self.rows += 1
        size = expected.end()[1] if cut else len(expected.ids)
        if self.equal(f"{expected.id}, ids", list(ids), expected.ids[:size]):
            self.equal(f"{expected.id}, mask", [int(bool(on)) for on in mask], expected.mask(every)[:size])

    def texts(self, expected: Expected, ids, mask, decode, cut=False):
        """Where turns are tokenised apart from their headers: the same text, and the same of it is trained on."""
        self.rows += 1
        ids, size = list(ids), expected.end()[1] if cut else len(expected.ids)
        length = expected.end()[0] if cut else len(expected.text)
        self.note("rows with equal ids", int(ids == expected.ids[:size]))
        if self.equal(f"{expected.id}, text", decode(ids), nfc(expected.text[:length])):
            self.equal(f"{expected.id}, trained text", runs(ids, mask, decode), "".join(expected.trained()))

    def done(self, at_least: int):
        from importlib.metadata import version

        versions = ", ".join(f"{package} {version(package)}" for package in self.packages)
        notes = "".join(f"; {what}: {number}" for what, number in self.notes.items())
        print(f"{self.consumer}: {self.rows} rows checked, {self.wrong} wrong{notes} ({versions}, Python {sys.version.split()[0]})")
        if self.rows < at_least:
            print(f"{self.consumer}: {at_least} rows were to be checked")
        sys.exit(1 if self.wrong or self.rows < at_least else 0)


def runs(ids: list, mask, decode) -> str:
    return decode([token for token, on in zip(ids, mask, strict=True) if on])


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
