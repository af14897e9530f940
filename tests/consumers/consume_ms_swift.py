#!/usr/bin/env python3
"""ms-swift, from `--dataset DIR` (and `DIR:SPLIT`) to labels, template `qwen3_nothinking`.

    consume_ms_swift.py DIR EXPECTED

It tokenises a turn apart from its header, so ids differ where a reply begins with a line feed; the text is the same. It drops
a system turn that is empty, does not train on the end of an empty reply before the last, and does not close a last reply whose text ends with a
literal `<|im_end|>` or `<|endoftext|>`.
"""
import sys
import tempfile

import check
import oracle


def main(folder: str, expected: str):
    import datasets
    from swift.dataset import load_dataset
    from swift.model import get_processor
    from swift.template import get_template

    score, records = check.Score("ms-swift", "ms-swift", "transformers", "datasets"), check.load(expected)
    with tempfile.TemporaryDirectory() as cache:
        processor = get_processor(oracle.model_folder(cache), model_type="qwen3")
        template = get_template(processor, template_type="qwen3_nothinking", max_length=10**7)
        template.set_mode("train")
        for split in check.splits(folder):
            loaded, _ = load_dataset([folder if split == "train" else f"{folder}:{split}"], num_proc=1, strict=True)
            ids = datasets.load_dataset(folder, split=split, cache_dir=cache)["trajectory_id"]
            score.equal(f"{split}: rows", len(loaded), len(ids))
            for id, row in zip(ids, loaded):
                made = template.encode(dict(row))
                mask = [label != -100 for label in made["labels"]]
                score.texts(records[id], made["input_ids"], mask, processor.decode, closes=("<|im_end|>", "<|endoftext|>"), trains_empty=False)
    score.done(at_least=check.report(folder)["written"]["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
