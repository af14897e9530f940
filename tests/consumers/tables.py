#!/usr/bin/env python3
"""Loads an export, a sealed dataset or a run's shards with Hugging Face `datasets` (map and streaming), pandas and pyarrow.

    tables.py DIR...

Every row that comes out must be the row in the file: no key more or less, no value changed, none null.
"""
import glob
import importlib.util
import io
import json
import sys
import tempfile
import warnings
from pathlib import Path

import check


def rows_of(files: list) -> list:
    """The rows as they lie, without any library that guesses types."""
    rows = []
    for file in files:
        if file.endswith(".parquet"):
            import pyarrow.parquet

            table = pyarrow.parquet.ParquetFile(file)
            assert all(table.metadata.row_group(at).column(0).compression == "ZSTD" for at in range(table.num_row_groups))
            rows += [row for batch in table.iter_batches() for row in batch.to_pylist()]
        elif file.endswith(".zst"):
            import zstandard

            with open(file, "rb") as raw:
                # As strict as a reader with its default window.
                plain = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
                rows += [json.loads(line) for line in io.BufferedReader(plain)]
        else:
            with open(file, "rb") as lines:
                rows += [json.loads(line) for line in lines]
    return rows


def nulls(value) -> bool:
    if isinstance(value, dict):
        return any(map(nulls, value.values()))
    return any(map(nulls, value)) if isinstance(value, list) else value is None


def through_datasets(score, folder: str, files: dict, arguments: dict):
    """`files`: by split. `arguments`: of `load_dataset`."""
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        mapped = datasets.load_dataset(**arguments, cache_dir=cache)
        score.equal(f"{folder}: splits", sorted(mapped), sorted(files))
        for split, paths in files.items():
            rows = rows_of(paths)
            score.equal(f"{folder}: {split} is free of nulls", any(map(nulls, rows)), False)
            for kind, loaded in (
                ("map", mapped[split]),
                ("streaming", datasets.load_dataset(**arguments, split=split, streaming=True)),
            ):
                number = 0
                for at, (found, row) in enumerate(zip(loaded, rows)):
                    number += score.equal(f"{folder}: {kind}, {split}, row {at}", found, row)
                score.equal(f"{folder}: {kind}, rows of {split}", (number, sum(1 for _ in loaded)), (len(rows), len(rows)))
                score.rows += number


def through_pandas(score, folder: str, files: dict):
    import pandas

    for path in [path for paths in files.values() for path in paths]:
        rows, where = rows_of([path]), f"{folder}: pandas, {Path(path).name}"
        if path.endswith(".parquet"):
            import pyarrow.parquet

            found = pandas.read_parquet(path).to_dict("list")
            score.equal(where + ", pyarrow table", pyarrow.parquet.read_table(path).to_pylist(), rows)
        else:
            compression = "zstd" if path.endswith(".zst") else None
            found = pandas.read_json(path, lines=True, compression=compression, dtype=False, convert_dates=False).to_dict("list")
        score.equal(where + ", columns", list(found), list(rows[0]))
        for column, values in found.items():
            if column not in ("messages",):
                score.equal(f"{where}, {column}", values, [row[column] for row in rows])
            else:
                score.equal(f"{where}, {column}", [plain(value) for value in values], [row[column] for row in rows])
        score.rows += len(rows)


def plain(value):
    """Arrow's arrays as lists."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(each) for each in value]
    return {key: plain(each) for key, each in value.items()} if isinstance(value, dict) else value


warnings.simplefilter("ignore")


def main(*folders: str):
    packages = [name for name in ("datasets", "pandas", "pyarrow", "zstandard") if importlib.util.find_spec(name)]
    score = check.Score("tables", *packages)
    for folder in folders:
        if (Path(folder) / "run.toml").exists() and not (Path(folder) / "data").exists():
            pattern = f"{folder}/shards/trajectories-*.jsonl.zst"
            files = {"train": sorted(glob.glob(pattern))}
            arguments = {"path": "json", "data_files": pattern}
        elif (Path(folder) / "export.json").exists():
            files, arguments = check.splits(folder), {"path": folder}
        else:
            files = {"train": sorted(glob.glob(f"{folder}/data/trajectories-*.jsonl.zst"))}
            arguments = {"path": folder}
            attempts = sorted(glob.glob(f"{folder}/data/attempts-*.jsonl.zst"))
            if attempts and "datasets" in packages:
                through_datasets(score, folder, {"train": attempts}, arguments | {"name": "attempts"})
        if "datasets" in packages:
            through_datasets(score, folder, files, arguments)
        if "pandas" in packages and "pyarrow" in packages:
            through_pandas(score, folder, files)
    score.done(at_least=len(folders))


if __name__ == "__main__":
    main(*sys.argv[1:])
