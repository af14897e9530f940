#!/usr/bin/env python3
"""verl's `MultiTurnSFTDataset`, with its own check of ids on.

    consume_verl.py DIR EXPECTED

Of a reply that begins with a line feed it does not train on the token that the header shares.
"""
import sys
import tempfile

import check
import oracle


def main(folder: str, expected: str):
    import pandas
    import transformers
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    score, records = check.Score("verl", "verl", "transformers", "torch", "pandas"), check.load(expected)
    with tempfile.TemporaryDirectory() as cache:
        tokenizer = transformers.AutoTokenizer.from_pretrained(oracle.model_folder(cache))
        for split, files in check.splits(folder).items():
            config = {"pad_mode": "no_padding", "max_length": 10**7, "truncation": "error", "messages_key": "messages"}
            rows = MultiTurnSFTDataset(list(files), tokenizer, config)
            ids = [id for file in files for id in pandas.read_parquet(file)["trajectory_id"]]
            for at, id in enumerate(ids):
                try:
                    row = rows[at]
                except Exception as error:
                    score.fail(f"{id}: {error!r}")
                    continue
                found = row["input_ids"].tolist()
                # A folded row ends with the last reply that is trained on.
                cut = len(found) != len(records[id].ids)
                score.note("rows cut behind their last trained reply", int(cut))
                score.tokens(records[id], found, row["loss_mask"].tolist(), cut=cut, header_apart=True)
    score.done(at_least=check.report(folder)["written"]["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
