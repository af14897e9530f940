"""What `transformers` makes of a record: text, token ids, and the mask of the tokens that are trained on.

Needs the directory SWEROLL_SFT with `qwen3-tokenizer.json`, `qwen3-tokenizer_config.json` and the official templates
`qwen3_instruct_2507.jinja` and `qwen3.jinja`, and PyPI's `tokenizers`, `transformers`, `jinja2` and `trl`, of which only the files of its
training templates are used (`pip install --no-deps trl` is enough).
"""
import importlib.util
import io
import itertools
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

TARGETS = {"qwen3-instruct-2507": "qwen3_instruct_2507", "qwen3": "qwen3"}


def sft() -> Path:
    folder = Path(os.environ.get("SWEROLL_SFT", "../shared/sft"))
    if not (folder / "qwen3-tokenizer.json").is_file():
        raise SystemExit(f"{folder} holds no qwen3-tokenizer.json: set SWEROLL_SFT to the directory of the reference files")
    return folder.resolve()


def read(*paths) -> "itertools.chain[bytes]":
    """The lines of shard files, of whatever compression, and of the directories that hold them."""
    return itertools.chain.from_iterable(map(_lines, itertools.chain.from_iterable(map(_files, map(Path, paths)))))


def _files(path: Path) -> list:
    """A run's shards, or those of a sealed dataset where there are no others."""
    found = [path] if path.is_file() else sorted(path.glob("shards/trajectories-*.jsonl.zst"))
    found = found or sorted(path.glob("data/trajectories-*.jsonl.zst"))
    if not found:
        raise SystemExit(f"{path} holds no shards")
    return found


def _lines(file: Path):
    with open(file, "rb") as raw:
        if file.suffix != ".zst":
            yield from raw
            return
        import zstandard

        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw, read_across_frames=True) as plain:
            yield from io.BufferedReader(plain, 1 << 20)


def model_folder(into: str) -> str:
    """A directory that `AutoTokenizer` loads, as it would be for the model."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        link = Path(into) / name
        if not link.exists():
            link.write_bytes((sft() / f"qwen3-{name}").read_bytes())
    template = Path(into) / "chat_template.jinja"
    template.write_text((sft() / "qwen3_instruct_2507.jinja").read_text())
    (Path(into) / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
    return into


def marked(template: str) -> str:
    """The official template with generation marks where TRL's training templates have them; it renders the same text."""
    begin = template.index('message.role == "assistant"')
    end = template.index('message.role == "tool"', begin)
    reply, head, close = template[begin:end], "{{- '<|im_start|>' + message.role + '\\n", "{{- '<|im_end|>\\n' }}"
    # Every branch writes the header: it is written once, before the condition around them.
    condition = "{%- if loop.index0 > ns.last_query_index %}"
    first = condition if condition in reply else head
    at = reply.index(first)
    reply = reply[:at] + head + "' }}{%- generation %}" + reply[at:].replace(head, "{{- '").replace(close, close + "{%- endgeneration %}")
    return template[:begin] + reply + template[end:]


class Oracle:
    """One per process."""

    def __init__(self):
        import tokenizers
        import transformers

        self.plain = tokenizers.Tokenizer.from_file(str(sft() / "qwen3-tokenizer.json"))
        self.folder = tempfile.TemporaryDirectory()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model_folder(self.folder.name))
        self.tokenizer.model_max_length = 10**9
        trl = importlib.util.find_spec("trl")
        if trl is None:
            raise SystemExit("trl is not installed: pip install --no-deps trl")
        folder = Path(trl.submodule_search_locations[0]) / "chat_templates"
        self.official = {target: (sft() / f"{name}.jinja").read_text() for target, name in TARGETS.items()}
        self.training = {target: (folder / f"{name}_training.jinja").read_text() for target, name in TARGETS.items()}
        self.marked = {target: marked(template) for target, template in self.official.items()}

    def render(self, template: str, messages: list, tools: str) -> str:
        return self.tokenizer.apply_chat_template(messages, tools=_tools(tools), chat_template=template, tokenize=False)

    def ids(self, text: str) -> list:
        """As `transformers` and as `tokenizers` alone."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids != self.plain.encode(text, add_special_tokens=False).ids:
            raise AssertionError("transformers and tokenizers do not agree with each other")
        return ids

    def mask(self, template: str, messages: list, tools: str) -> tuple:
        """1: trained on; and the trained tokens of each reply. Those whose message says `loss: false` have none."""
        made = self.tokenizer.apply_chat_template(
            messages, tools=_tools(tools), chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
        mask, replies, trained = [], [], [message["loss"] for message in messages if message["role"] == "assistant"]
        for is_reply, run in itertools.groupby(made["assistant_masks"]):
            run = list(run)
            if is_reply:
                run = run if trained[len(replies)] else [0] * len(run)
                replies.append(sum(run))
            mask += run
        if len(replies) != len(trained):
            raise AssertionError(f"the template marks {len(replies)} replies, there are {len(trained)}")
        return mask, replies


    def replies(self, template: str, messages: list, tools: str) -> list:
        """`[begin, end, trained]` of what each reply says, in characters of the text."""
        from transformers.utils.chat_template_utils import render_jinja_template

        _, spans = render_jinja_template([messages], tools=_tools(tools), chat_template=template, return_assistant_tokens_mask=True)
        trained = [message["loss"] for message in messages if message["role"] == "assistant"]
        return [[begin, end, loss] for (begin, end), loss in zip(spans[0], trained, strict=True)]


def _tools(tools: str):
    return (json.loads(tools) if tools else None) or None


def versions(*names) -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            pass
    return ", ".join(found)
