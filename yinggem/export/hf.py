"""--format hf: a folder that transformers loads, with a stock class, so without remote code, where there is one."""

import json
from pathlib import Path
from typing import Any

from yinggem.common.files import write_atomically
from yinggem.export.folder import CONFIG, check_replaceable, write_folder
from yinggem.export.hf_config import EXPRESSIBLE, MODELING, OWN, kind_of, to_config_json
from yinggem.export.hf_tokenizer import tokenizer_json
from yinggem.export.hf_weights import to_transformers
from yinggem.export.model_card import model_card
from yinggem.export.source import Source
from yinggem.inference.sampling import sampling_for
from yinggem.text.bpe import END_OF_TEXT

WEIGHTS = "model.safetensors"


def export(source: Source, output: Path) -> None:
    """Write the folder.

    Raises:
        UserError: the folder holds something else; the model has a setting that transformers has no place for.
    """
    check_replaceable(output)
    source.require("hf", EXPRESSIBLE, "--format safetensors")

    def write(folder: Path) -> None:
        from safetensors.torch import save

        own = kind_of(source.config) is OWN
        write_about(source, folder)
        write_atomically(folder / "README.md", model_card(source, own).encode())
        if own:
            write_atomically(folder / f"{MODELING}.py", Path(__file__).with_name(f"{MODELING}.py").read_bytes())
        tensors = to_transformers(source.model.state_dict(), source.config)
        write_atomically(folder / WEIGHTS, save(tensors, {"format": "pt"}))

    write_folder(output, write)


def write_about(source: Source, folder: Path) -> None:
    """Write what stands beside the weights: the architecture, the tokenizer, and how to generate."""
    dtype = str(source.model.norm.weight.dtype).removeprefix("torch.")
    contents: dict[str, Any] = {
        CONFIG: to_config_json(source.config, dtype, source.about_text, source.tokenizer.end_id),
        "generation_config.json": generation_config(source),
        "tokenizer_config.json": tokenizer_config(source),
    }
    for name, content in contents.items():
        write_atomically(folder / name, json.dumps(content, indent=2).encode())
    write_atomically(folder / "tokenizer.json", tokenizer_json(source.tokenizer).encode())


def tokenizer_config(source: Source) -> dict[str, Any]:
    """How transformers uses tokenizer.json: `<|endoftext|>` in a text is ordinary text there too."""
    named = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "split_special_tokens": True}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**12,
    } | (named if source.tokenizer.end_id is not None else {})


def generation_config(source: Source) -> dict[str, Any]:
    """The defaults of `yinggem generate`, as far as transformers has them."""
    sampling = sampling_for(source.tokenizer.name)
    return {
        "do_sample": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,  # transformers' own default is 50
        "repetition_penalty": sampling.repetition_penalty,
        "bos_token_id": source.tokenizer.end_id,
        "eos_token_id": source.tokenizer.end_id,
    }
