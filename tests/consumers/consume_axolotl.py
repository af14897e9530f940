#!/usr/bin/env python3
"""Axolotl's `ChatTemplateStrategy`, as the export's card configures it.

    consume_axolotl.py DIR EXPECTED

It does not train on the line feed behind a reply's `<|im_end|>`, and not on the end of a reply that is empty.
"""
import sys
import tempfile

import check
import oracle


def main(folder: str, expected: str):
    import datasets
    import transformers
    from axolotl.prompt_strategies.chat_template import ChatTemplatePrompter, ChatTemplateStrategy

    score, records = check.Score("axolotl", "axolotl", "transformers", "datasets"), check.load(expected)
    with tempfile.TemporaryDirectory() as cache:
        tokenizer = transformers.AutoTokenizer.from_pretrained(oracle.model_folder(cache))
        prompter = ChatTemplatePrompter(tokenizer, tokenizer.chat_template, message_field_training="train", max_length=10**7)
        strategy = ChatTemplateStrategy(
            prompter, tokenizer=tokenizer, train_on_inputs=False, sequence_len=10**7, roles_to_train=[], train_on_eos="turn"
        )
        for split in datasets.load_dataset(folder, cache_dir=cache).values():
            for row in split:
                record, score.rows = records[row["trajectory_id"]], score.rows + 1
                try:
                    made = strategy.tokenize_prompt(dict(row))
                except Exception as error:
                    score.fail(f"{record.id}: {error!r}")
                    continue
                mask = record.mask()
                for reply in record.replies:
                    if reply["trained"] and reply["said"] == check.EMPTY:
                        score.note("empty replies not trained on")
                        mask[reply["first"] : reply["last"]] = [0] * (reply["last"] - reply["first"])
                    mask[reply["last"]] = 0
                if score.equal(f"{record.id}, ids", list(made["input_ids"]), record.ids):
                    score.equal(f"{record.id}, mask", [int(label != -100) for label in made["labels"]], mask)
    score.done(at_least=check.report(folder)["written"]["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
