"""A BERT encoder in numpy, float32, several texts at a time without padding.

The tokens of all texts lie one behind the other: products and norms take them all at once, only
attention goes text by text. Sources: Devlin et al. 2018 (arXiv 1810.04805), mean pooling of
Reimers and Gurevych 2019 (arXiv 1908.10084).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from clawai.sdk.errors import ClawError
from clawai.sdk.model.safetensors import SafeTensor

F32 = NDArray[np.float32]
_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]


class Config(msgspec.Struct, frozen=True):
    """``config.json``: what changes the result and is not listed here is refused."""

    model_type: Literal["bert"]
    hidden_size: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    intermediate_size: Annotated[int, msgspec.Meta(ge=1, le=65536)]
    num_attention_heads: Annotated[int, msgspec.Meta(ge=1, le=256)]
    num_hidden_layers: Annotated[int, msgspec.Meta(ge=1, le=256)]
    max_position_embeddings: Annotated[int, msgspec.Meta(ge=2, le=8192)]
    vocab_size: _Count
    type_vocab_size: _Count = 2
    layer_norm_eps: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1e-12
    hidden_act: Literal["gelu"] = "gelu"
    position_embedding_type: Literal["absolute"] = "absolute"

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size is no multiple of num_attention_heads")


@dataclass(frozen=True, slots=True)
class Linear:
    """x -> x W' + b"""

    weight: F32
    """(out, in)"""
    bias: F32

    def __call__(self, x: F32) -> F32:
        """(tokens, in) -> (tokens, out)"""
        y: F32 = x @ self.weight.T
        y += self.bias
        return y


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation (arXiv 1607.06450)."""

    gain: F32
    bias: F32
    eps: float

    def __call__(self, x: F32) -> F32:
        """Normalise each row of (tokens, width), in place."""
        x -= x.mean(axis=1, keepdims=True)
        spread = np.sqrt(np.einsum("ij,ij->i", x, x) / np.float32(x.shape[1]) + self.eps)
        x /= spread.astype(np.float32)[:, None]
        x *= self.gain
        x += self.bias
        return x


@dataclass(frozen=True, slots=True)
class Layer:
    """One of the encoder."""

    query: Linear
    key: Linear
    value: Linear
    mixed: Linear
    mixed_norm: Norm
    wide: Linear
    narrow: Linear
    norm: Norm


class Bert:
    """An encoder; weights are views of the file.

    Raises:
        ClawError: bad_model, a tensor is missing, or of another shape or type.
    """

    def __init__(self, config: Config, tensors: Mapping[str, SafeTensor]) -> None:
        self.config = config
        self._tensors = tensors
        self._prefix = "bert." if "bert.embeddings.word_embeddings.weight" in tensors else ""
        width, places = config.hidden_size, config.max_position_embeddings
        at = "embeddings."
        self._words = self._take(f"{at}word_embeddings.weight", config.vocab_size, width)
        self._places = self._take(f"{at}position_embeddings.weight", places, width)
        types = self._take(f"{at}token_type_embeddings.weight", config.type_vocab_size, width)
        self._type = types[0]
        self._norm = self._layer_norm(f"{at}LayerNorm")
        numbers = range(config.num_hidden_layers)
        self._layers = [self._layer(f"encoder.layer.{number}.") for number in numbers]
        del self._tensors

    def _take(self, name: str, *shape: int) -> F32:
        found = self._tensors.get(self._prefix + name)
        if found is None or found.dtype != "F32" or found.shape != shape:
            got = f"{found.dtype} {list(found.shape)}" if found else "no such tensor"
            raise ClawError("bad_model", f"the tensor {name}", got, f"F32 {list(shape)}")
        return np.frombuffer(found.data, np.float32).reshape(shape)

    def _linear(self, name: str, out: int, into: int) -> Linear:
        return Linear(self._take(f"{name}.weight", out, into), self._take(f"{name}.bias", out))

    def _layer_norm(self, name: str) -> Norm:
        width = self.config.hidden_size
        gain, bias = self._take(f"{name}.weight", width), self._take(f"{name}.bias", width)
        return Norm(gain, bias, self.config.layer_norm_eps)

    def _layer(self, at: str) -> Layer:
        width, hidden = self.config.hidden_size, self.config.intermediate_size
        return Layer(
            query=self._linear(f"{at}attention.self.query", width, width),
            key=self._linear(f"{at}attention.self.key", width, width),
            value=self._linear(f"{at}attention.self.value", width, width),
            mixed=self._linear(f"{at}attention.output.dense", width, width),
            mixed_norm=self._layer_norm(f"{at}attention.output.LayerNorm"),
            wide=self._linear(f"{at}intermediate.dense", hidden, width),
            narrow=self._linear(f"{at}output.dense", width, hidden),
            norm=self._layer_norm(f"{at}output.LayerNorm"),
        )

    def encode(self, texts: Sequence[Sequence[int]], obey: Callable[[], None]) -> F32:
        """The mean of each text's last hidden states.

        Args:
            texts: token ids, of each text at least one and at most ``max_position_embeddings``.
            obey: called between two layers; what it raises ends the run.

        Returns:
            float32 (texts, hidden_size), not normalised.
        """
        ends = np.cumsum([0, *map(len, texts)])
        spans = [slice(begin, end) for begin, end in pairwise(ends.tolist())]
        x = self._words[np.concatenate([np.asarray(ids, np.intp) for ids in texts])]
        x += np.concatenate([self._places[: len(ids)] for ids in texts])
        x += self._type
        x = self._norm(x)
        for layer in self._layers:
            obey()
            out = layer.mixed(self._attend(layer, x, spans))
            out += x
            x = layer.mixed_norm(out)
            out = layer.narrow(gelu(layer.wide(x)))
            out += x
            x = layer.norm(out)
        return np.stack([x[span].mean(axis=0) for span in spans])

    def _attend(self, layer: Layer, x: F32, spans: Sequence[slice]) -> F32:
        heads = self.config.num_attention_heads
        size = x.shape[1] // heads
        q, k, v = (
            part(x).reshape(-1, heads, size) for part in (layer.query, layer.key, layer.value)
        )
        q *= np.float32(size**-0.5)
        mixed = np.empty_like(x)
        for span in spans:
            scores = q[span].transpose(1, 0, 2) @ k[span].transpose(1, 2, 0)
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            part = scores @ v[span].transpose(1, 0, 2)
            mixed[span] = part.transpose(1, 0, 2).reshape(-1, x.shape[1])
        return mixed


def gelu(x: F32) -> F32:
    """x * Phi(x), the exact form, in place of ``x``.

    erf by formula 7.1.26 of Abramowitz and Stegun, whose error is below 1.5e-7.
    """
    z = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    factors = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
    tail = np.zeros_like(t)
    for factor in factors:
        tail += np.float32(factor)
        tail *= t
    np.multiply(z, -z, out=z)
    np.exp(z, out=z)
    tail *= z  # 1 - erf(|x| / sqrt 2)
    tail *= np.float32(0.5)
    np.subtract(1, tail, out=tail, where=x > 0)
    x *= tail
    return x


def parsed(config: bytes | memoryview) -> Config:
    """``config.json``.

    Raises:
        ClawError: bad_model.
    """
    try:
        found: Any = msgspec.json.decode(config, type=Config)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ClawError("bad_model", f"config.json: {error}", None, "a BERT encoder's") from None
    checked: Config = found
    return checked
