"""Lowers a graph to the executor's steps: what is fused, which buffers live when.

Fusions (see docs of each method): products that share an input become one matrix; gate, up and
SILU_MUL become one product with interleaved rows; a product followed by ADD adds in its epilogue;
normalisation quantizes for the products that read it and, for a single token, is folded into them;
rotations run where keys enter the cache; attention quantizes its own output.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from clawai.plugins.accelerator.arena import Buffer, align, place
from clawai.plugins.accelerator.graphcheck import GraphCheck
from clawai.plugins.accelerator.native import FORMATS, PACKED, is_int, lib
from clawai.plugins.accelerator.weights import Memory, Rotation, matrix, rotation, vector
from clawai.sdk.model.graph import Graph, Node, Op, Tensor


@dataclass(frozen=True, slots=True)
class View:
    """Activations: columns from ``column`` on of a buffer; no buffer means the caller's logits."""

    buffer: Buffer | None
    column: int = 0


@dataclass(slots=True)
class Step:
    """One record of the plan, with buffers instead of offsets."""

    code: int
    name: str
    flags: int = 0
    numbers: dict[str, int | float] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    q8: Buffer | None = None
    in_q8: Buffer | None = None
    folds: "Step | None" = None


GATES = (Op.SILU_MUL, Op.GELU_MUL)
KV_TYPES = ("f16", "q8")
"""What a KV cache may hold: halves; or int8 with an f16 scale for each 32 elements of a head."""


class Lowering:
    """The steps, buffers, weights and cache layout of one plan."""

    def __init__(self, graph: Graph, context: int, chunk: int, kv: str) -> None:
        self.graph = graph
        self.kv = kv
        self.check = GraphCheck(graph)
        self.chunk = chunk
        self.context = context
        self.weights, self.tables = Memory(), Memory()
        self.steps: list[Step] = []
        self.buffers: list[Buffer] = []
        self.cache_block = 0
        """Bytes that 64 positions of all layers take in the KV memory."""
        self._views: dict[str, View] = {}
        self._q8: dict[str, tuple[Buffer, Step]] = {}
        self._emitted: set[str] = set()
        self._makers = {node.output: node for node in graph.nodes}
        self._readers: dict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            for name in node.inputs:
                self._readers[name].append(node)
        last = graph.nodes[-1]
        # What the last node caps is capped where it lies.
        self._logits = {*graph.outputs, *(last.inputs if last.op is Op.SOFTCAP else ())}
        self._late = self._absorbed()
        for node in graph.nodes:
            if node.output not in self._emitted and node.output not in self._late:
                getattr(self, f"_{node.op.value}")(node)
        self.cache_bytes = -(-context // lib.CLAW_POSITIONS) * self.cache_block
        self.arena_bytes = self._place()

    # ---- what is fused with what ----

    def _absorbed(self) -> set[str]:
        """Outputs of nodes that a later node computes as part of itself."""
        late: set[str] = set()
        for node in self.graph.nodes:
            if node.op in GATES and self._gated(node):
                late.update(node.inputs)
            elif node.op is Op.ADD and (name := self._added(node)):
                late.add(name)
            elif node.op is Op.ATTENTION:
                late.update(self._turned(node))
        return late

    def _only_reader(self, name: str) -> bool:
        return len(self._readers[name]) == 1 and name not in self.graph.outputs

    def _matmul_format(self, node: Node) -> str:
        return PACKED[self.graph.tensors[node.inputs[1]].dtype]

    def _gated(self, node: Node) -> bool:
        """Gate and up can be one product: same input, format and rows, no bias, no other reader."""
        parts = [self._makers.get(name) for name in node.inputs]
        if node.inputs[0] == node.inputs[1] or not all(
            p is not None and p.op is Op.MATMUL and len(p.inputs) == 2 for p in parts
        ):
            return False
        gate, up = (p for p in parts if p is not None)
        return (
            gate.inputs[0] == up.inputs[0]
            and self._matmul_format(gate) == self._matmul_format(up)
            and all(self._only_reader(name) for name in node.inputs)
        )

    def _added(self, node: Node) -> str | None:
        """The input of an ADD that is a product nobody else reads, if there is one."""
        for name in node.inputs:
            maker = self._makers.get(name)
            if maker is not None and maker.op is Op.MATMUL and self._only_reader(name):
                return name if node.inputs[0] != node.inputs[1] else None
        return None

    def _turned(self, node: Node) -> list[str]:
        """Rotated queries and keys that only this attention reads, with one rotation for both."""
        names, keys = [], set()
        for name, heads in zip(node.inputs[:2], ("heads", "kv_heads"), strict=True):
            maker = self._makers.get(name)
            if (
                maker is None
                or maker.op is not Op.ROPE
                or not self._only_reader(name)
                or not self._only_reader(maker.inputs[0])
                or (maker.attrs["heads"], maker.attrs["head_dim"])
                != (node.attrs[heads], node.attrs["head_dim"])
            ):
                return []
            names.append(name)
            keys.add(rotation_of(maker))
        return names if len(keys) == 1 and names[0] != names[1] else []

    # ---- values ----

    def _buffer(self, nbytes: int, width: int) -> Buffer:
        buffer = Buffer(align(nbytes), width)
        self.buffers.append(buffer)
        return buffer

    def _float(self, name: str, width: int) -> View:
        """A new view for an activation; the graph's output goes to the caller's memory."""
        if name in self._logits:
            view = View(None)
        else:
            # Rows start on cache lines, so that two threads rarely write one.
            stride = -(-width // 16) * 16
            view = View(self._buffer(4 * stride * self.chunk, stride))
        self._views[name] = view
        return view

    def _q8_buffer(self, width: int) -> Buffer:
        return self._buffer(self.chunk * (width + width // lib.CLAW_GROUP * 8), width)

    def _emit(self, step: Step, output: str) -> Step:
        if output in self.check.rows_only:
            step.flags |= lib.CLAW_ROWS
        self.steps.append(step)
        self._emitted.add(output)
        return step

    def _wants(self, name: str) -> tuple[bool, bool]:
        """Whether anything reads ``name`` as floats, and whether any product reads it quantized."""
        quantized = [
            node.op is Op.MATMUL and is_int(self._matmul_format(node))
            for node in self._readers[name]
        ]
        return not all(quantized) or not quantized, any(quantized)

    def _outputs(self, step: Step, name: str, width: int, *, q8_fits: bool) -> None:
        """Where a step that can write floats, quantized activations or both puts ``name``."""
        floats, q8 = self._wants(name)
        q8 = q8 and q8_fits
        if q8:
            step.flags |= lib.CLAW_TO_Q8
            step.q8 = self._q8_buffer(width)
            self._q8[name] = (step.q8, step)
        if floats or not q8:
            step.flags |= lib.CLAW_TO_F32
            step.views["y"] = self._float(name, width)

    def _quantized(self, name: str) -> tuple[Buffer, Step]:
        """The quantized form of an activation, made by its own step if nothing made it yet."""
        if name not in self._q8:
            width = self.check.width[name]
            flags = lib.CLAW_TO_Q8 | lib.CLAW_FOLDED
            step = Step(lib.CLAW_QUANT, f"quantize {name}", flags, {"k": width})
            step.views["a"] = self._views[name]
            step.q8 = self._q8_buffer(width)
            if name in self.check.rows_only:
                step.flags |= lib.CLAW_ROWS
            self.steps.append(step)
            self._q8[name] = (step.q8, step)
        return self._q8[name]

    # ---- one method a node ----

    def _embed(self, node: Node) -> None:
        table = self.graph.tensors[node.inputs[1]]
        rows, width = (int(d) for d in table.shape)
        numbers: dict[str, int | float] = {"rows": rows, "k": width}
        numbers |= {"format": FORMATS.index(PACKED[table.dtype])}
        numbers |= {"weight": matrix(self.weights, (table,))}
        numbers |= {"scale": float(node.attrs.get("scale", 1.0))}
        step = Step(lib.CLAW_EMBED, node.output, 0, numbers)
        step.views["y"] = self._float(node.output, width)
        self._emit(step, node.output)

    def _rmsnorm(self, node: Node) -> None:
        width = self.check.width[node.output]
        gain = vector(self.weights, (self.graph.tensors[node.inputs[1]],))
        numbers = {"k": width, "eps": float(node.attrs["eps"]), "weight": gain}
        step = Step(lib.CLAW_NORM, node.output, 0, numbers)
        step.views["a"] = self._views[node.inputs[0]]
        self._outputs(step, node.output, width, q8_fits=True)
        if not step.flags & lib.CLAW_TO_F32:
            step.flags |= lib.CLAW_FOLDED
        self._emit(step, node.output)

    def _head_norm(self, node: Node) -> None:
        gain = vector(self.weights, (self.graph.tensors[node.inputs[1]],))
        step = Step(lib.CLAW_HEAD_NORM, node.output)
        step.numbers |= {"heads": int(node.attrs["heads"]), "kv_heads": 1}
        step.numbers |= {"head_dim": int(node.attrs["head_dim"])}
        step.numbers |= {"eps": float(node.attrs["eps"]), "weight": gain}
        step.views["a"] = self._views[node.inputs[0]]
        step.views["y"] = self._float(node.output, self.check.width[node.output])
        self._emit(step, node.output)

    def _softcap(self, node: Node) -> None:
        width = self.check.width[node.output]
        step = Step(lib.CLAW_SOFTCAP, node.output, 0, {"k": width})
        step.numbers["cap"] = float(node.attrs["cap"])
        step.views["a"] = self._views[node.inputs[0]]
        step.views["y"] = self._float(node.output, width)
        self._emit(step, node.output)

    def _matmul(self, node: Node) -> None:
        """This product and the later ones that can share its matrix (same input and format)."""
        group = [node]
        for other in self._readers[node.inputs[0]]:
            if (
                other is not node
                and other.op is Op.MATMUL
                and other.output not in self._late
                and other.output not in self._emitted
                and not {node.output, other.output} & self._logits
                and self._matmul_format(other) == self._matmul_format(node)
                and all(self.check.width[n.output] % 8 == 0 for n in group)
            ):
                group.append(other)
        widths = [self.check.width[n.output] for n in group]
        tensors = tuple(self.graph.tensors[n.inputs[1]] for n in group)
        step = self._product(group[0], tensors, sum(widths), "+".join(n.output for n in group))
        if any(len(n.inputs) == 3 for n in group):
            biases = (self._bias(n) for n in group)
            step.numbers["extra"] = vector(self.weights, tuple(biases))
            step.flags |= lib.CLAW_BIAS
        step.views["y"] = view = self._float(node.output, sum(widths))
        for n, column in zip(group, (sum(widths[:i]) for i in range(len(group))), strict=True):
            self._views[n.output] = View(view.buffer, column)
            self._emitted.add(n.output)
        step.flags |= lib.CLAW_TO_F32
        self._emit(step, node.output)

    def _bias(self, node: Node) -> Tensor | int:
        return (
            self.graph.tensors[node.inputs[2]]
            if len(node.inputs) == 3
            else self.check.width[node.output]
        )

    def _product(
        self, node: Node, tensors: tuple[Tensor, ...], rows: int, name: str, *, gated: bool = False
    ) -> Step:
        """The record of a product with the input and format of ``node``; no outputs yet."""
        fmt = PACKED[tensors[0].dtype]
        numbers: dict[str, int | float] = {"rows": rows, "k": self.check.width[node.inputs[0]]}
        numbers |= {"format": FORMATS.index(fmt)}
        numbers |= {"weight": matrix(self.weights, tensors, alternate=gated)}
        step = Step(lib.CLAW_MATMUL, name, 0, numbers)
        if is_int(fmt):
            step.in_q8, maker = self._quantized(node.inputs[0])
            if maker.flags & lib.CLAW_FOLDED:
                step.folds = maker
        else:
            step.views["a"] = self._views[node.inputs[0]]
        return step

    def _silu_mul(self, node: Node) -> None:
        self._gate(node, 0, lib.CLAW_SILU_MUL)

    def _gelu_mul(self, node: Node) -> None:
        self._gate(node, lib.CLAW_GELU, lib.CLAW_GELU_MUL)

    def _gate(self, node: Node, flags: int, alone: int) -> None:
        """One product with interleaved rows where that can be, else a step of its own."""
        width = self.check.width[node.output]
        if self._late.issuperset(node.inputs) and self._gated(node):
            gate, up = (self._makers[name] for name in node.inputs)
            tensors = tuple(self.graph.tensors[n.inputs[1]] for n in (gate, up))
            step = self._product(gate, tensors, width, node.output, gated=True)
            step.flags |= lib.CLAW_SILU | flags
            self._outputs(step, node.output, width, q8_fits=width % lib.CLAW_GROUP == 0)
            self._emitted.update(node.inputs)
            self._emit(step, node.output)
        else:
            self._pairwise(node, alone)

    def _add(self, node: Node) -> None:
        name = self._added(node)
        if name is None:
            self._pairwise(node, lib.CLAW_ADD)
            return
        product = self._makers[name]
        other = next(n for n in node.inputs if n != name)
        width = self.check.width[node.output]
        step = self._product(product, (self.graph.tensors[product.inputs[1]],), width, node.output)
        if len(product.inputs) == 3:
            step.numbers["extra"] = vector(self.weights, (self.graph.tensors[product.inputs[2]],))
            step.flags |= lib.CLAW_BIAS
        step.flags |= lib.CLAW_PLUS | lib.CLAW_TO_F32
        step.views["b"] = self._views[other]
        self._emitted.add(name)
        step.views["y"] = self._in_place(node, other, step) or self._float(node.output, width)
        self._emit(step, node.output)

    def _in_place(self, node: Node, other: str, step: Step) -> View | None:
        """The sum may overwrite ``other`` if nothing reads it later, this product included."""
        view = self._views[other]
        shared = sum(v.buffer is view.buffer for v in self._views.values()) > 1
        read_here = step.folds is not None and step.folds.views["a"].buffer is view.buffer
        read_here = read_here or ("a" in step.views and step.views["a"].buffer is view.buffer)
        later = any(n is not node and self._pending(n, step) for n in self._readers[other])
        if view.buffer is None or shared or read_here or later or node.output in self.graph.outputs:
            return None
        self._views[node.output] = view
        return view

    def _pending(self, reader: Node, step: Step) -> bool:
        """Whether ``reader``, or a product that folds it, still has to read its input."""
        if reader.output not in self._emitted:
            return True
        if reader.op is not Op.RMSNORM or reader.output not in self._q8:
            return False
        if step.folds is self._q8[reader.output][1]:
            return True
        return any(n.output not in self._emitted for n in self._readers[reader.output])

    def _pairwise(self, node: Node, code: int) -> None:
        width = self.check.width[node.output]
        step = Step(code, node.output, 0, {"k": width})
        step.views |= {"a": self._views[node.inputs[0]], "b": self._views[node.inputs[1]]}
        step.views["y"] = self._float(node.output, width)
        self._emit(step, node.output)

    def _rope(self, node: Node) -> None:
        step = Step(lib.CLAW_ROPE, node.output)
        self._rotate(step, node)
        step.numbers |= {"heads": int(node.attrs["heads"]), "kv_heads": 1}
        step.numbers["head_dim"] = int(node.attrs["head_dim"])
        step.views["a"] = self._views[node.inputs[0]]
        step.views["y"] = self._float(node.output, self.check.width[node.output])
        self._emit(step, node.output)

    def _rotate(self, step: Step, node: Node) -> None:
        turn = rotation_of(node)
        divisors = self.graph.tensors[node.inputs[1]] if len(node.inputs) == 2 else None
        table = rotation(self.tables, turn, self.context, divisors)
        step.numbers |= {"rot_dim": turn.rot_dim, "extra": table}
        if turn.interleaved:
            step.flags |= lib.CLAW_INTERLEAVED

    def _attention(self, node: Node) -> None:
        numbers = {n: int(node.attrs[n]) for n in ("heads", "kv_heads", "head_dim")}
        names = list(node.inputs)
        flags = lib.CLAW_KV_Q8 if self.kv == "q8" else 0
        append = Step(lib.CLAW_KV, f"cache {node.output}", flags, dict(numbers))
        for i, name in enumerate(self._turned(node)):
            append.flags |= lib.CLAW_ROPE_Q if i == 0 else lib.CLAW_ROPE_K
            self._rotate(append, self._makers[name])
            names[i] = self._makers[name].inputs[0]
            self._emitted.add(name)
        for key, name in zip("abc", names, strict=True):
            append.views[key] = self._views[name]
        append.numbers["cache"] = self.cache_block
        self._emit(append, node.output)
        step = Step(lib.CLAW_ATTEND, node.output, flags, dict(numbers))
        step.numbers |= {"cache": self.cache_block, "scale": float(node.attrs["scale"])}
        window = int(node.attrs.get("window", 0))
        step.numbers |= {"window": window if window < self.context else 0}
        step.numbers |= {"cap": float(node.attrs.get("softcap", 0.0))}
        step.views["a"] = self._views[names[0]]
        fits = numbers["head_dim"] % lib.CLAW_GROUP == 0
        self._outputs(step, node.output, self.check.width[node.output], q8_fits=fits)
        self._emit(step, node.output)
        per_head = head_cache_bytes(numbers["head_dim"], self.kv)
        self.cache_block += align(2 * numbers["kv_heads"] * per_head)

    def _last(self, node: Node) -> None:
        width = self.check.width[node.output]
        step = Step(lib.CLAW_LAST, node.output, 0, {"k": width})
        step.views["a"] = self._views[node.inputs[0]]
        step.views["y"] = self._float(node.output, width)
        self._emit(step, node.output)

    # ---- memory ----

    def _place(self) -> int:
        for i, step in enumerate(self.steps):
            used = [view.buffer for view in step.views.values()] + [step.q8, step.in_q8]
            if step.folds is not None:
                used.append(step.folds.views["a"].buffer)
            for buffer in used:
                if buffer is not None:
                    buffer.touch(i)
        return place(self.buffers)


def head_cache_bytes(head_dim: int, kv: str) -> int:
    """Bytes of the keys or values of one head in a block of positions (``csrc/core/plan.h``)."""
    scales = -(-head_dim // lib.CLAW_GROUP)
    return int(lib.CLAW_POSITIONS) * (head_dim + 2 * scales if kv == "q8" else 2 * head_dim)


def rotation_of(node: Node) -> Rotation:
    """The rotation of a ROPE node whose attributes have been checked."""
    style = node.attrs["style"] == "interleaved"
    return Rotation(
        float(node.attrs["theta"]),
        int(node.attrs["rot_dim"]),
        style,
        float(node.attrs.get("stretch", 1.0)),
        node.inputs[1] if len(node.inputs) == 2 else "",
    )
