"""What the network is: one frozen, validated dataclass, which needs the standard library only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from yinggem.common.checks import check_number, check_whole_number
from yinggem.common.errors import UserError
from yinggem.model.activations import ACTIVATIONS
from yinggem.model.norms import NORMS

# Far above anything this framework is for. A hostile or mistyped file must not be able to ask for terabytes.
MAX_SIZE = 1 << 20
MAX_LAYERS = 1024
MAX_WINDOW = 1 << 30
MAX_PARAMETERS = 1 << 40

QUANTIZATIONS = ("int8", "int4")  # how weights can be kept, beside floats


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of a `Transformer`, and nothing about how it is trained or run.

    Defaults are YingGem-T1. `num_key_value_heads=None` means as many as query heads; `attention_window=None`
    means full causal attention; `head_bias=None` gives the head a bias where `bias` is true. Dropout rates are
    probabilities. `activation` and `norm` are names in `yinggem.model.activations.ACTIVATIONS` and
    `yinggem.model.norms.NORMS`; `rms_norm_eps` is the eps of every norm. `document_end` is the id behind which a token
    sees nothing that stood before it; None: there is none.

    Raises:
        UserError: a value has the wrong type or is out of range; the sentence names it and the remedy.
    """

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    intermediate_size: int = 1024
    attention_window: int | None = 512
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    bias: bool = True
    qk_norm: bool = False
    tie_word_embeddings: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    activation: str = "geglu"
    norm: str = "rms"
    head_bias: bool | None = None
    document_end: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "intermediate_size"):
            self._check_whole(name, 1, MAX_SIZE)
        self._check_whole("num_hidden_layers", 1, MAX_LAYERS)
        self._check_whole("num_attention_heads", 1, self.hidden_size)
        self._check_whole("num_key_value_heads", 1, self.num_attention_heads, optional=True)
        self._check_whole("attention_window", 1, MAX_WINDOW, optional=True)
        for name in ("dropout", "attention_dropout"):
            self._check_number(name, 0.0, 1.0, excluded="high")
        self._check_number("rope_theta", 1.0, 1e12)
        self._check_number("rms_norm_eps", 0.0, 1.0)
        self._check_number("initializer_range", 0.0, 10.0)
        for name in ("bias", "qk_norm", "tie_word_embeddings"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"model.{name} must be true or false, not {getattr(self, name)!r}.")
        self._check_whole("document_end", 0, self.vocab_size - 1, optional=True)
        if not isinstance(self.head_bias, bool | None):
            raise UserError(f"model.head_bias must be true, false or null, not {self.head_bias!r}.")
        self._check_name("activation", ACTIVATIONS)
        self._check_name("norm", NORMS)
        self._check_heads()

    def _check_whole(self, name: str, low: int, high: int, optional: bool = False) -> None:
        check_whole_number(f"model.{name}", getattr(self, name), low, high, optional)

    def _check_number(self, name: str, low: float, high: float, excluded: str = "") -> None:
        check_number(f"model.{name}", getattr(self, name), low, high, excluded)

    def _check_name(self, name: str, known: Mapping[str, Any]) -> None:
        value, (*names, last) = getattr(self, name), known
        if not isinstance(value, str) or value not in known:
            raise UserError(f"model.{name} must be {', '.join(names)} or {last}, not {str(value)[:80]!r}.")

    def _check_heads(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"model.hidden_size={self.hidden_size} is not divisible by model.num_attention_heads="
                f"{self.num_attention_heads}; choose a hidden_size that is a multiple of the number of heads."
            )
        if self.head_size % 2:
            raise UserError(
                f"model.hidden_size={self.hidden_size} over model.num_attention_heads={self.num_attention_heads} gives "
                f"an odd head size of {self.head_size}, and rotary embeddings need an even one; change either value."
            )
        if self.num_attention_heads % self.key_value_heads:
            raise UserError(
                f"model.num_key_value_heads={self.key_value_heads} does not divide model.num_attention_heads="
                f"{self.num_attention_heads}; choose one of its divisors."
            )
        if self.parameters > MAX_PARAMETERS:
            raise UserError(f"The model would have {self.parameters:.2e} parameters; choose smaller sizes.")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def key_value_heads(self) -> int:
        """Number of key/value heads with the default resolved."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_has_bias(self) -> bool:
        """`head_bias` with the default resolved."""
        return self.bias if self.head_bias is None else self.head_bias

    @property
    def parameters(self) -> int:
        """Number of trainable parameters of the `Transformer` this describes."""
        hidden, inner, bias = self.hidden_size, self.intermediate_size, int(self.bias)
        query, key = hidden, self.key_value_heads * self.head_size
        attention = (hidden + bias) * (query + 2 * key) + (query + bias) * hidden
        mlp = (hidden + bias) * (2 if ACTIVATIONS[self.activation].gated else 1) * inner + (inner + bias) * hidden
        vectors = 1 + int(self.bias and NORMS[self.norm].has_bias)  # of a norm: its weight and perhaps a bias
        norms = vectors * (2 * hidden + (2 * self.head_size if self.qk_norm else 0))
        head = int(self.head_has_bias) * self.vocab_size + (0 if self.tie_word_embeddings else hidden * self.vocab_size)
        return self.vocab_size * hidden + self.num_hidden_layers * (attention + mlp + norms) + vectors * hidden + head

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "ModelConfig":
        """Rebuild from `to_dict`; UserError when the data is not that."""
        if not isinstance(values, dict):
            raise UserError("model_config is not a mapping; this is not a YingGem checkpoint.")
        known = {field.name for field in fields(cls)}
        unknown = sorted(str(name) for name in values if name not in known)
        if unknown or "vocab_size" not in values:
            raise UserError(f"model_config does not fit this version: {', '.join(unknown) or 'vocab_size is missing'}.")
        return cls(**values)
