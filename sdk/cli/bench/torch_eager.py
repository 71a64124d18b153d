"""PyTorch in float32, eager, as a side of `claw bench decode`, from the `torch` extra.

    python -m clawai.sdk.cli.bench.torch_eager MODEL.gguf THREADS CONTEXT

The weights of the file are dequantized to float32 once, and the model's graph is run node by node
with PyTorch's own operations: linear layers, its fused attention, its RMS norm, in inference mode,
over a key-value cache that is allocated once. Nothing is copied that a model written by hand would
not copy. Its answers are checked against ours (``judge``).

It runs Llama and Qwen files; a sliding window or a soft cap is refused.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clawai.sdk.cli.bench import peer
from clawai.sdk.errors import ClawError
from clawai.sdk.model import gguf, llama
from clawai.sdk.model.dequant import dequantize
from clawai.sdk.model.graph import Graph, Node, Op


def dequantized(torch: Any, graph: Graph) -> Iterator[tuple[str, Any]]:
    """The weights of a graph in float32, one after the other."""
    for name, each in graph.tensors.items():
        if each.data is not None:
            shape = tuple(int(size) for size in each.shape)
            yield name, torch.from_numpy(dequantize(each.data, each.dtype, shape))
            gguf.let_go(each.data)


class Eager:
    """A model as PyTorch runs it when each operation is called from Python, greedy."""

    def __init__(
        self, torch: Any, graph: Graph, weights: Mapping[str, Any], threads: int, context: int
    ) -> None:
        self._torch, self._graph, self._weights = torch, graph, weights
        torch.set_num_threads(threads)
        self._functions = torch.nn.functional
        self._dtype = next(iter(weights.values())).dtype
        self._caches: dict[int, tuple[Any, ...]] = {}
        self._turns: dict[str, tuple[Any, Any]] = {}
        last = {name: node.output for node in graph.nodes for name in node.inputs}
        self._spent: dict[str, list[str]] = {}
        for name, output in last.items():
            self._spent.setdefault(output, []).append(name)
        for node in graph.nodes:
            self._prepare(node, context)
        self._tokens, self._next = 0, 0
        self._logits: Any = None

    def _prepare(self, node: Node, context: int) -> None:
        """The cache of an attention, the cosines and sines of a rotation."""
        torch, at = self._torch, node.attrs
        if at.get("window") or at.get("softcap") or node.op in (Op.SOFTCAP, Op.GELU_MUL):
            text = "PyTorch runs only Llama and Qwen models here"
            raise ClawError("bad_model", text, got=node.op.value)
        if node.op is Op.ATTENTION:
            shape = (1, at["kv_heads"], context, at["head_dim"])
            self._caches[at["layer"]] = tuple(torch.zeros(shape, dtype=self._dtype) for _ in "kv")
        if node.op is Op.ROPE:
            steps = torch.arange(0, at["rot_dim"], 2, dtype=torch.float64) / at["rot_dim"]
            rate = at["theta"] ** -steps / at.get("stretch", 1.0)
            if len(node.inputs) > 1:
                rate = rate / self._weights[node.inputs[1]]
            angle = torch.arange(context)[:, None, None] * rate
            self._turns[node.output] = (angle.cos().to(self._dtype), angle.sin().to(self._dtype))

    def _run(self, tokens: Sequence[int]) -> None:
        """Append ``tokens`` to the cache and keep the logits after the last of them."""
        with self._torch.inference_mode():
            values: dict[str, Any] = {self._graph.inputs[0]: self._torch.tensor(tokens)}
            for node in self._graph.nodes:
                values[node.output] = self._compute(node, values)
                for name in self._spent.get(node.output, ()):  # its memory is used again
                    values.pop(name, None)
        self._tokens += len(tokens)
        self._logits = values[self._graph.outputs[0]][-1]
        self._next = int(self._logits.argmax())

    def _compute(self, node: Node, values: Mapping[str, Any]) -> Any:
        ins = [values[name] if name in values else self._weights[name] for name in node.inputs]
        functions, at = self._functions, node.attrs
        if node.op is Op.MATMUL:
            return functions.linear(*ins)
        if node.op is Op.RMSNORM:
            return functions.rms_norm(ins[0], ins[1].shape, ins[1], at["eps"])
        if node.op is Op.HEAD_NORM:
            heads = ins[0].view(-1, at["heads"], at["head_dim"])
            return functions.rms_norm(heads, ins[1].shape, ins[1], at["eps"]).view(ins[0].shape)
        if node.op is Op.ROPE:
            return self._rotated(node, ins[0])
        if node.op is Op.ATTENTION:
            return self._attended(at, *ins)
        if node.op is Op.SILU_MUL:
            return functions.silu(ins[0]) * ins[1]
        if node.op is Op.EMBED:
            return functions.embedding(*ins)
        return ins[0] + ins[1] if node.op is Op.ADD else ins[0][-1:]

    def _rotated(self, node: Node, x: Any) -> Any:
        at, torch = node.attrs, self._torch
        cosine, sine = (
            each[self._tokens : self._tokens + len(x)] for each in self._turns[node.output]
        )
        heads = x.view(len(x), at["heads"], at["head_dim"])
        turned, rest = heads[..., : at["rot_dim"]], heads[..., at["rot_dim"] :]
        if at["style"] == "split":
            one, two = turned.chunk(2, dim=-1)
            made = torch.cat((one * cosine - two * sine, one * sine + two * cosine), -1)
        else:
            one, two = turned[..., 0::2], turned[..., 1::2]
            made = torch.stack((one * cosine - two * sine, one * sine + two * cosine), -1)
            made = made.flatten(-2)
        return (torch.cat((made, rest), -1) if rest.shape[-1] else made).reshape(x.shape)

    def _attended(self, at: Mapping[str, Any], q: Any, k: Any, v: Any) -> Any:
        """Heads that share keys are rows of one product where there is one token."""
        count, first, groups = len(q), self._tokens, at["heads"] // at["kv_heads"]
        kept = self._caches[at["layer"]]
        for cache, new in zip(kept, (k, v), strict=True):
            shape = (count, at["kv_heads"], at["head_dim"])
            cache[0, :, first : first + count] = new.view(shape).transpose(0, 1)
        keys, rows = (cache[:, :, : first + count] for cache in kept)
        attention = self._functions.scaled_dot_product_attention
        if count == 1:
            query = q.view(1, at["kv_heads"], groups, at["head_dim"])
            return attention(query, keys, rows, scale=at["scale"]).reshape(1, -1)
        if first:
            raise ClawError("worker_failed", "a prompt goes into an empty cache", got=first)
        query = q.view(1, count, at["heads"], at["head_dim"]).transpose(1, 2)
        keys, rows = (each.repeat_interleave(groups, 1) for each in (keys, rows))
        mixed = attention(query, keys, rows, is_causal=True, scale=at["scale"])
        return mixed.transpose(1, 2).reshape(count, -1)

    def prefill(self, tokens: Sequence[int]) -> float:
        """See ``peer.Peer``."""
        self._tokens = 0
        start = time.perf_counter()
        self._run(tokens)
        return time.perf_counter() - start

    def decode(self, count: int) -> float:
        """See ``peer.Peer``."""
        start = time.perf_counter()
        for _ in range(count):
            self._run([self._next])
        return time.perf_counter() - start

    def judge(self, tokens: Sequence[int]) -> list[float]:
        """See ``peer.Judge``."""
        gaps = []
        for token in tokens:
            gaps.append(float(self._logits.max() - self._logits[token]))
            self._run([token])
        return gaps


def main() -> None:
    """Load and take orders."""
    model, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    try:
        import torch
    except ImportError:
        peer.fail(
            ClawError(
                "unsupported_system",
                "PyTorch is not installed here",
                got="no package torch",
                hint="pip install 'clawai[torch]'",
            )
        )
        return
    try:
        graph = llama.graph(gguf.read(model))
        side = Eager(torch, graph, dict(dequantized(torch, graph)), threads, context)
    except ClawError as error:
        peer.fail(error)
        return
    peer.serve(side, {"name": "torch", "version": f"torch {torch.__version__}"})
    os._exit(0)


if __name__ == "__main__":
    main()
