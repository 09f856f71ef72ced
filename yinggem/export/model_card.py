"""README.md of an exported folder, which model hubs show: what it learnt from, how good it is, how to load it."""

from yinggem.export.source import Source

PARTS = {"": "the network alone", "counting_": "counting its training text alone", "together_": "both together"}


def model_card(source: Source, needs_code: bool) -> str:
    """The card, in Markdown.

    Args:
        needs_code: whether transformers has to run the modeling file of the folder.
    """
    trust = ", trust_remote_code=True" if needs_code else ""
    code = (
        "No stock class means the same, so `modeling_yinggem.py` in this folder is run: read it first.\n"
        if needs_code
        else ""
    )
    config = source.config
    window = f"the last {config.attention_window} tokens" if config.attention_window else "all tokens before it"
    begin = "" if source.tokenizer.end_id is None else "\nids = [tokenizer.eos_token_id, *ids]  # begins every text"
    end = f"There is {'no' if source.tokenizer.end_id is None else 'a'} token for the end of a text."
    return f"""---
license: {_plain(source.license)}
library_name: transformers
pipeline_tag: text-generation
tags: [yinggem]
---

# A small language model

A decoder-only transformer, trained with YingGem: {config.parameters:,} parameters,
{config.num_hidden_layers} layers, {config.hidden_size} wide, {config.vocab_size:,} tokens ({source.tokenizer.name}).
A token sees {window}.

## Text

{_text(source)}

## Figures

{_figures(source)}

## Use

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER"{trust})
ids = tokenizer("ROMEO.")["input_ids"]{begin}
print(tokenizer.decode(model.generate(torch.tensor([ids]), max_new_tokens=100)[0]))
```

{code}It was trained on windows of {source.context_length} tokens and can go on for ever. {end}
`yinggem import FOLDER` makes a checkpoint of it again. The training text is not in this folder.
"""


def _text(source: Source) -> str:
    data = source.data
    if not data:
        return "The checkpoint does not say which text it was trained on."
    name = _plain(str(data.get("path") or data.get("source")))
    fraction, unit = data.get("val_fraction"), data.get("split_by")
    if not isinstance(fraction, float | int) or data.get("source") == "streaming":
        return f"Trained on {name}."
    share = f"the first {100 - fraction * 100:g} %"
    return f"Trained on {share} of {name}, by {_plain(str(unit))}; the rest is for validation."


def _figures(source: Source) -> str:
    found = {part: source.figures.get(f"{part}bits_per_byte") for part in PARTS}
    rows = [f"| {PARTS[part]} | {value:.4f} |" for part, value in found.items() if isinstance(value, float)]
    if not rows:
        return "Not known here; `yinggem evaluate` measures them from the checkpoint."
    head = "| validation text, one full pass | bits per byte |\n| --- | --- |"
    return "\n".join([head, *rows]) + "\n\nThis folder holds the network alone."


def _plain(text: str) -> str:
    """A word or name on one line that is no markup."""
    return "".join(c if c.isalnum() or c in " ._-/+" else "_" for c in text)[:200] or "unknown"
