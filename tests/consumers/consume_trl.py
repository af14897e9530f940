#!/usr/bin/env python3
"""TRL's `SFTTrainer` with `assistant_only_loss`: labels of every row are the expected ones, and two optimizer steps are taken on a tiny
random model of Qwen3's architecture, on the CPU.

    consume_trl.py DIR EXPECTED

TRL has no flag per message: every reply is trained on.
"""
import json
import math
import sys
import tempfile

import check
import oracle

SHORT = 1500  # tokens of a row that the tiny model is trained on


def main(folder: str, expected: str):
    import datasets
    import torch
    import transformers
    import trl

    form = check.report(folder)["form"]
    score, records = check.Score(f"trl {form}", "trl", "transformers", "torch", "datasets"), check.load(expected)
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as cache:
        tokenizer = transformers.AutoTokenizer.from_pretrained(oracle.model_folder(cache))
        config = transformers.Qwen3Config(
            vocab_size=151_936, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            head_dim=8, tie_word_embeddings=True, max_position_embeddings=1 << 17, eos_token_id=151_645, pad_token_id=151_643,
        )
        model = transformers.Qwen3ForCausalLM(config)
        for split, rows in datasets.load_dataset(folder, cache_dir=cache).items():
            def trainer(rows, **more):
                arguments = trl.SFTConfig(
                    output_dir=cache + "/out", assistant_only_loss=True, max_length=None, use_cpu=True, report_to="none", bf16=False,
                    per_device_train_batch_size=2, max_steps=2, save_strategy="no", disable_tqdm=True, logging_steps=1,
                    gradient_checkpointing=False, **more,
                )
                return trl.SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)

            made = trainer(rows).train_dataset
            score.equal(f"{split}: rows", len(made), len(rows))
            for row, id in zip(made, rows["trajectory_id"]):
                score.tokens(records[id], row["input_ids"], [label != -100 for label in row["labels"]], every=True)
                score.equal(f"{id}, labels are the ids", [l for l, t in zip(row["labels"], row["input_ids"]) if l not in (-100, t)], [])
            if split == "train":
                short = [at for at, id in enumerate(rows["trajectory_id"]) if len(records[id].ids) <= SHORT]
                before = {name: value.clone() for name, value in model.state_dict().items()}
                training = trainer(rows.select(short))
                result = training.train()
                losses = [entry["loss"] for entry in training.state.log_history if "loss" in entry]
                moved = sum(not torch.equal(before[name], value) for name, value in training.model.state_dict().items())
                score.equal("optimizer steps", training.state.global_step, 2)
                score.equal("losses are finite", all(map(math.isfinite, losses)) and math.isfinite(result.training_loss), True)
                score.equal("weights moved", moved > 0, True)
                print(f"two optimizer steps: losses {losses}")
    score.done(at_least=check.report(folder)["written"]["rows"])


if __name__ == "__main__":
    main(*sys.argv[1:])
