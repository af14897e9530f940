#!/usr/bin/env python3
"""LLaMA-Factory, from `dataset_info.json` to labels, template `qwen3_nothink`.

    consume_llama_factory.py DIR EXPECTED

It tokenises a turn apart from its header, so ids differ where a reply begins with a line feed; the text is the same. It drops
a system turn that is empty.
"""
import importlib.machinery
import importlib.util
import sys
import tempfile
import types

import check
import oracle

if not importlib.util.find_spec("torchaudio"):  # imported for sound alone
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)


def main(folder: str, expected: str):
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.data.loader import get_dataset
    from llamafactory.hparams import get_train_args
    import datasets
    import transformers

    score, records = check.Score("llama-factory", "llamafactory", "transformers", "datasets"), check.load(expected)
    with tempfile.TemporaryDirectory() as cache:
        model = oracle.model_folder(cache)
        for split in check.splits(folder):
            tokenizer = transformers.AutoTokenizer.from_pretrained(model)
            model_arguments, data_arguments, training_arguments, *_ = get_train_args({
                "stage": "sft", "do_train": True, "model_name_or_path": model, "template": "qwen3_nothink", "dataset_dir": folder,
                "dataset": f"sweroll_{split}", "cutoff_len": 10**6, "output_dir": cache + "/out", "overwrite_cache": True, "report_to": "none",
                "use_cpu": True, "finetuning_type": "full", "cache_dir": cache,
            })
            template = get_template_and_fix_tokenizer(tokenizer, data_arguments)
            loaded = get_dataset(template, model_arguments, data_arguments, training_arguments, stage="sft", tokenizer=tokenizer)
            ids = datasets.load_dataset(folder, split=split, cache_dir=cache)["trajectory_id"]
            score.equal(f"{split}: rows", len(loaded["train_dataset"]), len(ids))
            for id, row in zip(ids, loaded["train_dataset"]):
                mask = [label != -100 for label in row["labels"]]
                score.texts(records[id], row["input_ids"], mask, tokenizer.decode)
    score.done(at_least=check.report(folder)["written"]["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
