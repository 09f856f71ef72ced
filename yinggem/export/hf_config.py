"""A `ModelConfig` as the config.json of the class of transformers that means the same, and back."""

from dataclasses import fields
from typing import Any, NamedTuple

from yinggem.common.errors import UserError
from yinggem.model.activations import ACTIVATIONS
from yinggem.model.config import ModelConfig

ACTIVATION_NAMES = {"geglu": "gelu_pytorch_tanh", "swiglu": "silu", "relu2": "relu2"}  # of ours: theirs
# Fields of ModelConfig that a config.json has a place for.
EXPRESSIBLE = {
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "attention_window", "rope_theta", "rms_norm_eps", "bias", "qk_norm", "tie_word_embeddings", "activation", "norm",
    "head_bias", "document_end",  # of which a text of one document does not depend
}  # fmt: skip
# Keys of a config.json without which other defaults than ours hold, those that change no logits, and those that may not
# be there at all.
REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "hidden_act", "rms_norm_eps", "tie_word_embeddings")  # fmt: skip
FREE = {
    "initializer_range", "attention_dropout", "use_cache", "dtype", "torch_dtype", "yinggem", "auto_map", "rope_theta",
    "max_window_layers", "bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "sliding_window",
}  # fmt: skip
NONE_OF = ("rope_scaling", "quantization_config")
LONGEST = 1 << 15  # positions that are declared: rotary embeddings in a window have no end, and software asks for one
MODELING = "modeling_yinggem"


class Kind(NamedTuple):
    """A class of transformers. The last three are what its models have, None where the configuration says it."""

    architecture: str
    model_type: str
    qk_norm: bool | None
    bias: bool | None
    head_bias: bool | None


QWEN3 = Kind("Qwen3ForCausalLM", "qwen3", qk_norm=True, bias=False, head_bias=False)
MISTRAL = Kind("MistralForCausalLM", "mistral", qk_norm=False, bias=False, head_bias=False)
SMOLLM3 = Kind("SmolLM3ForCausalLM", "smollm3", qk_norm=False, bias=True, head_bias=False)
OWN = Kind("YingGemForCausalLM", "yinggem", None, None, None)  # modeling_yinggem.py
KINDS = {kind.architecture: kind for kind in (QWEN3, MISTRAL, SMOLLM3, OWN)}


def kind_of(config: ModelConfig) -> Kind:
    """The class that means the same: a stock one where there is one."""
    stock = config.norm == "rms" and ACTIVATIONS[config.activation].gated and config.activation in ACTIVATION_NAMES
    wanted = (config.qk_norm, config.bias, config.head_has_bias)
    return next((kind for kind in KINDS.values() if stock and kind[2:] == wanted), OWN)


def to_config_json(config: ModelConfig, dtype: str, about: dict[str, Any], end_id: int | None = None) -> dict[str, Any]:
    """The content of config.json.

    Args:
        dtype: of the weights, such as "float32".
        about: plain data of ours, which other software passes over.
        end_id: what stands before and behind every text; None where there is no such id.
    """
    kind, sliding = kind_of(config), config.attention_window is not None
    content: dict[str, Any] = {
        "architectures": [kind.architecture],
        "model_type": kind.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_size,
        "hidden_act": ACTIVATION_NAMES[config.activation],
        "max_position_embeddings": LONGEST,
        "sliding_window": config.attention_window,
        "rope_theta": config.rope_theta,  # transformers 4
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},  # transformers 5
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "initializer_range": config.initializer_range,
        "attention_dropout": config.attention_dropout,
        "bos_token_id": end_id,
        "eos_token_id": end_id,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": dtype,
        "torch_dtype": dtype,
        "yinggem": about | {"dropout": config.dropout, "document_end": config.document_end},
    }
    if kind is not MISTRAL:
        layers = config.num_hidden_layers
        content |= {"use_sliding_window": sliding, "max_window_layers": 0, "attention_bias": config.bias}
        content["layer_types"] = ["sliding_attention" if sliding else "full_attention"] * layers
    if kind is SMOLLM3:
        content |= {"mlp_bias": True, "no_rope_layers": [1] * config.num_hidden_layers}
    if kind is OWN:
        content |= {"mlp_bias": config.bias, "head_bias": config.head_has_bias, "qk_norm": config.qk_norm}
        content |= {"norm": config.norm, "gated_mlp": ACTIVATIONS[config.activation].gated}
        content["auto_map"] = {"AutoConfig": f"{MODELING}.YingGemConfig"}
        content["auto_map"] |= {"AutoModelForCausalLM": f"{MODELING}.{kind.architecture}"}
    return content


def from_config_json(content: Any, place: str) -> ModelConfig:
    """The architecture that a config.json describes.

    Args:
        place: the file, for the sentence.

    Raises:
        UserError: another class, or a setting that `ModelConfig` has no place for, which the sentence names.
    """
    listed = content.get("architectures") if isinstance(content, dict) else None
    kind = KINDS.get(str(listed[0])) if isinstance(listed, list) and len(listed) == 1 else None
    if kind is None:
        raise UserError(f"{place} describes {str(listed)[:80]}; only {', '.join(KINDS)} can be imported.")
    for name in REQUIRED:
        if content.get(name) is None:
            raise UserError(f"{place} lacks {name}; add it, for every class has a default of its own.")
    about = content["yinggem"] if isinstance(content.get("yinggem"), dict) else {}
    names = {field.name for field in fields(ModelConfig)} - {"attention_window", "activation"}
    values = {name: content[name] for name in names & content.keys()}
    bias = content.get("attention_bias", False) if kind.bias is None else kind.bias
    head_bias = content.get("head_bias", False) if kind.head_bias is None else kind.head_bias
    values |= {
        "bias": bias,
        "head_bias": None if head_bias == bias else head_bias,
        "qk_norm": content.get("qk_norm", False) if kind.qk_norm is None else kind.qk_norm,
        "rope_theta": _rope_theta(content),
        "attention_window": _window(content, kind),
        "activation": _activation(content.get("hidden_act")),
        "dropout": about.get("dropout", 0.0),
        "document_end": about.get("document_end"),
    }
    if values.get("num_key_value_heads") == values.get("num_attention_heads"):
        values["num_key_value_heads"] = None
    try:
        config = ModelConfig.from_dict(values)
    except UserError as error:
        raise UserError(f"{place} cannot be imported: {error}") from None
    if kind is not OWN and not ACTIVATIONS[config.activation].gated:
        raise UserError(
            f"{place} has hidden_act={content['hidden_act']} with a gate, which YingGem has no setting for."
        )
    _check_nothing_else(content, config, place)
    return config


def _window(content: dict[str, Any], kind: Kind) -> Any:
    used = kind is MISTRAL or content.get("use_sliding_window", False)
    return content.get("sliding_window") if used else None


def _rope_theta(content: dict[str, Any]) -> Any:
    parameters = content.get("rope_parameters")
    return parameters.get("rope_theta") if isinstance(parameters, dict) else content.get("rope_theta")


def _activation(name: Any) -> Any:
    return next((ours for ours, theirs in ACTIVATION_NAMES.items() if theirs == name), name)


def _check_nothing_else(content: dict[str, Any], config: ModelConfig, place: str) -> None:
    """Refuse what this configuration does not come to: the settings that change what a model computes."""
    expected = to_config_json(config, "", {}) | dict.fromkeys(NONE_OF)
    for name, value in expected.items():
        if name not in FREE and content.get(name) not in (None, value):
            raise UserError(f"{place} has {name}={str(content[name])[:80]}, which YingGem has no setting for.")
