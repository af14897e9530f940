#!/usr/bin/env python3
"""Records with everything in them that has ever shifted a token: the same for the same number and seed.

    conversations.py OUT.jsonl[.zst] --number 5000 [--tame] [--seed 1]

Conversation n depends on n and the seed alone. `--tame`: as real runs are: answered calls with arguments that are JSON objects, one
system message, plain schemas; what trainers must take. Without it also what a model should not send and no trainer takes.
"""
import argparse
import json
import random

SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>",
    "</tool_response>", "<|im_start|>assistant\n", "<|im_end|>\n", "<|object_ref_start|>", "<|fim_middle|>", "<|im_end", "|>", "<|",
]
NFC_TRAPS = [
    "e\u0301", "\u0300", "\u0327", "\u0345", "A\u030a", "\u212b", "\u2126", "\u1e9b\u0323", "\u0958", "\ufb1d", "\u1100\u1161",
    "\u1100\u1161\u11a8", "\ud7a3", "\u0f73", "\u0f75", "\U0001d15e", "\u2adc", "a\u0315\u0300\u05ae\u0300b", "\u0344", "\u0340",
    "n\u0303" * 3, "<|im_end|>\u0338", "\u0338", ">\u0338", "\u3099", "か\u3099", "\u0fb2\u0f81", "\U0002f800",
]
WORDS = [
    "the", " def", "return self", " ", "  ", "\t", "'s", "'LL", "don't", "'ſ", "123", "٣", "Ⅷ", "²", "½", "é", "ﬀ", "中文", "日本語", "한국어",
    "العربية", "עברית", "हिन्दी", "ไทย", "🙂", "👩‍👩‍👧‍👦", "🇩🇪", "\u200b", "\u200d", "\ufeff", "\u00a0", "\u3000", "\u2028", "\u0085",
    "\x00", "\x1b[31m", "_", "__init__", "----", "####", '"', "'", "\\", "\\n", "{{ x }}", "{% if %}", "{{idx}}", "&<>", "“”", "Ǆ", "ß", "İ", "ı", "K",
    '{"a": 1}', "```python\ndef f(x):\n    return x\n```", "ls -la /repo", "https://example.org/?a=b&c=d", "x" * 50, "ab" * 40,
]
LINES = ["\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\n\n\n\n"]


class Writer:
    """Makes one conversation."""

    def __init__(self, number: int, seed: int, tame: bool):
        self.random = random.Random(f"{seed}:{number}")
        self.number, self.tame = number, tame

    def maybe(self, share: float) -> bool:
        return self.random.random() < share

    def pick(self, *of):
        return self.random.choice(of)

    def scalar(self) -> str:
        """Any character of any plane that UTF-8 can hold."""
        low, high = self.pick((0x20, 0x7F), (0, 0x3000), (0, 0x110000), (0x3000, 0x20000), (0x1F300, 0x1FAFF))
        code = self.random.randrange(low, high)
        return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)

    def fragment(self) -> str:
        kind = self.random.random()
        if kind < 0.5:
            return self.random.choice(WORDS)
        if kind < 0.65:
            return self.random.choice(LINES)
        if kind < 0.75:
            return self.random.choice(SPECIAL)
        if kind < 0.85:
            return self.random.choice(NFC_TRAPS)
        if kind < 0.9:
            return self.random.choice(WORDS + LINES) * self.pick(2, 3, 7, 30)
        return "".join(self.scalar() for _ in range(self.random.randint(1, 12)))

    def text(self, most: int = 8) -> str:
        return "".join(self.fragment() for _ in range(self.random.randint(0, most)))

    def content(self, most: int = 10) -> str:
        kind = self.random.random()
        if kind < 0.06:
            return ""
        if kind < 0.12:
            return self.pick(" ", "  ", "\n", " \n ", "\t", "\u3000", "\r\n")
        if kind < 0.2:
            return self.pick("\n", "\n\n", "\r\n", " ", " \n") + self.text(most)
        if kind < 0.28:
            return self.text(most) + self.pick("\n", "\n\n", "\r\n", " ")
        return self.text(most)

    def code(self, tokens: int) -> str:
        """About so many tokens of what tools print."""
        lines, made = [], 0
        while made < tokens:
            line = self.pick(
                f"    {self.random.randrange(10**6)}: value_{self.random.randrange(999)} = compute(self.items[{self.random.randrange(99)}])",
                f"tests/test_{self.random.randrange(99)}.py::test_case[{self.random.random()}] PASSED",
                "E   AssertionError: assert " + repr(self.text(2)),
                self.text(6),
            )
            lines.append(line)
            made += max(1, len(line) // 3)
        return "\n".join(lines)

    def number_(self):
        return self.pick(
            0, -1, 1, 2**53, 2**64, 10**20, -(10**25), 0.0, -0.0, 1.0, 1.5, 1e15, 1e16, 123456789.123, 1e-5, 1e-4, 0.00012, 1e300, 5e-324,
            3.141592653589793, 1e22, 100000.0, self.random.random(), self.random.random() * 10 ** self.random.randint(-20, 20),
        )

    def value(self, depth: int = 0):
        kind = self.random.random()
        if depth > 3 or kind < 0.35:
            return self.text(3)
        if kind < 0.55:
            return self.number_()
        if kind < 0.65:
            return self.pick(True, False, None)
        if kind < 0.8:
            return [self.value(depth + 1) for _ in range(self.random.randint(0, 3))]
        return {self.text(2): self.value(depth + 1) for _ in range(self.random.randint(0, 4))}

    def dump(self, value) -> str:
        return json.dumps(value, ensure_ascii=self.maybe(0.5), indent=self.pick(None, None, 2), separators=self.pick(None, (",", ":")))

    def schema(self, depth: int = 0) -> dict:
        if depth > 2 or self.maybe(0.5):
            schema = {"type": self.pick("string", "integer", "number", "boolean"), "description": self.text(4)}
            if self.maybe(0.3):
                schema["enum"] = [self.text(2) for _ in range(self.random.randint(1, 3))]
            if schema["type"] == "number":
                schema |= {"minimum": self.pick(0.0, -1.5, 1e-7, 1e22), "default": self.number_()}
            return schema
        if self.maybe(0.4):
            return {"type": "array", "items": self.schema(depth + 1)}
        names = self.random.sample(["command", "path", "view_range", "é", "z", "a", "type", "items"], self.random.randint(0, 4))
        return {"type": "object", "properties": {name: self.schema(depth + 1) for name in names}, "required": names[:1]}

    def tool(self) -> dict:
        name = self.pick("bash", "edit", "search", "naïve") if self.tame else self.pick("bash", "edit", "naïve", self.text(2))
        parameters = self.schema() if self.maybe(0.7) else {"type": "object", "properties": {"command": {"type": "string"}}}
        if not self.tame and self.maybe(0.4):
            parameters[self.text(1)] = self.value()
        return {"type": "function", "function": {"name": name, "description": self.text(), "parameters": parameters}}

    def tools(self) -> str:
        tools = self.dump([self.tool() for _ in range(self.pick(0, 1, 1, 2, 4))])
        return self.pick("[]", "") if tools == "[]" and not self.tame else tools

    def arguments(self) -> str:
        if self.tame or self.maybe(0.6):
            names = self.random.sample(["command", "path", "new_str", "timeout", "view_range"], self.random.randint(0, 3))
            return self.dump({name: self.value(2 if self.tame else 0) for name in names})
        return self.text() if self.maybe(0.5) else self.pick("", '{"command": "ls', "null", "[]", '"x"', "{}}", "1e999")

    def reply(self, calls: int, reasons: bool) -> dict:
        content = self.content()
        if not self.tame and self.maybe(0.1):
            content = self.pick("<think>\n", "<think>") + self.text(3) + self.pick("\n</think>\n\n", "</think>") + content
        if self.maybe(0.06):
            content = "\n" * self.random.randint(1, 3) + self.pick("", " ", "  \n") + content
        name = self.pick("bash", "edit", "search") if self.tame else self.pick("bash", "edit", 'é"x', self.text(1))
        made = [
            {"id": f"call_{self.random.randrange(10**9)}_{at}", "type": "function", "function": {"name": name, "arguments": self.arguments()}}
            for at in range(calls)
        ]
        thoughts = self.pick(self.text(6), "\n" + self.text(3) + "\n\n", self.content()) if reasons and self.maybe(0.8) else ""
        return message("assistant", content, reasoning_content=thoughts, tool_calls=made, loss=not self.maybe(0.12))

    def answers(self, reply: dict) -> list:
        answers = []
        for call in reply["tool_calls"]:
            content = self.code(self.pick(20, 20, 60, 300)) if self.maybe(0.4) else self.content()
            answers.append(message("tool", content, tool_call_id=call["id"]))
        return answers

    def messages(self) -> list:
        out = []
        if self.maybe(0.8):
            out.append(message("system", self.content()))
        if self.tame or self.maybe(0.93) or not out:
            out.append(message("user", self.content(16)))
        reasons = self.maybe(0.5)
        long = self.number % 1000 == 7
        for turn in range(self.pick(1, 2, 3, 5, 8)):
            reply = self.reply(self.pick(0, 1, 1, 1, 2, 4), reasons)
            out += [reply, *self.answers(reply)]
            if long and turn == 0:
                out.append(message("user", self.code(100_000)))
            elif not reply["tool_calls"]:
                out.append(message("user", self.content()))  # a reminder
            elif not self.tame and self.maybe(0.1):
                out += self.odd()
        # Most end with the model's word, some with an observation or a reminder.
        return out if self.maybe(0.4) else [*out, self.reply(0, reasons)]

    def odd(self) -> list:
        """What breaks a template's assumptions."""
        return self.pick(
            [message("tool", self.content()), message("tool", self.content())],
            [message("system", self.content())],
            [self.reply(1, True), self.reply(0, True)],
            [message("user", "<tool_response>\n" + self.text() + "\n</tool_response>")],
            [message("user", self.text()), message("user", self.text())],
        )


def message(role: str, content: str, reasoning_content="", tool_calls=(), tool_call_id="", loss=False) -> dict:
    return {
        "role": role, "content": content, "reasoning_content": reasoning_content, "tool_calls": list(tool_calls),
        "tool_call_id": tool_call_id, "loss": loss,
    }


ZERO = {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0, "reasoning_tokens": 0}


def turn(reply: dict) -> dict:
    return {
        "model": "generated", "finish_reason": "tool_calls" if reply["tool_calls"] else "stop", "usage": ZERO, "cost_usd": 0.0,
        "latency_ms": 1, "tries": 1, "extra": {},
        "calls": [
            {"tool_call_id": call["id"], "tool": call["function"]["name"], "duration_ms": 1, "exit_code": 0, "truncated": False,
             "timed_out": False, "malformed": False, "failed": False}
            for call in reply["tool_calls"]
        ],
    }


META = {
    "grade": None, "failure": None, "failure_class": None, "sampling": {}, "models_answered": ["generated"], "image": "", "image_digest": "",
    "scaffold_digest": "", "dataset_digest": "", "engine_version": "0", "base_tree": "", "reminders": 0, "malformed_calls": 0,
    "began_at_ms": 1_700_000_000_000, "setup_ms": 0, "duration_ms": 1, "peak_memory": 0, "cpu_ms": 0, "oom_kills": 0, "url": "", "counted": None,
}


def record(number: int, seed: int = 1, tame: bool = False) -> dict:
    """A record of version 2, as a shard holds it."""
    writer = Writer(number, seed, tame)
    messages, tools = writer.messages(), writer.tools()
    replies = [each for each in messages if each["role"] == "assistant"]
    if tame and not any(reply["loss"] for reply in replies):
        replies[-1]["loss"] = True
    instance, sample, resolved = f"generated_{number // 2}", number % 2, writer.pick(-1, 0, 1)
    return {
        "schema_version": 2, "trajectory_id": f"{instance}@{sample}.1", "instance_id": instance, "repo": "example/generated",
        "base_commit": "0" * 40, "sample": sample, "attempt": 1, "model": "generated", "scaffold": "generated", "messages": messages,
        "tools": tools or "[]" if tame else tools, "model_patch": writer.pick("", "diff --git a/x b/x\n"), "resolved": resolved,
        "reward": float(resolved == 1), "exit_reason": "submitted", "num_turns": len(replies), "num_tokens": -1, "num_loss_tokens": -1,
        "cost_usd": 0.0, "suspect": "[]", "usage": json.dumps({"total": ZERO, "turns": [turn(reply) for reply in replies]}),
        "meta": json.dumps(META),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--number", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tame", action="store_true")
    given = parser.parse_args()
    lines = (json.dumps(record(number, given.seed, given.tame), ensure_ascii=False).encode() + b"\n" for number in range(given.number))
    with open(given.out, "wb") as file:
        if given.out.endswith(".zst"):
            import zstandard

            frame = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=True)
            lines = map(frame.compress, lines)
        for line in lines:
            file.write(line)


if __name__ == "__main__":
    main()
