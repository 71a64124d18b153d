"""Which tensor gets which type, and what the new file's header says.

- Matrices, and what has more dimensions, get the wanted type, if their rows are whole blocks.
- The embedding and the output are where an error costs most: they get 8 bits, or stay as they are
  if they have fewer, unless the caller says otherwise.
- What has one dimension (norms, biases) is float32. Integers stay what they are.

Metadata is carried over byte by byte, but for the two keys that say how the file is quantized.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from clawai.sdk.model import gguf
from clawai.sdk.model.dtypes import DType
from clawai.sdk.model.gguf import GGUF, TensorInfo
from clawai.sdk.model.gguf_writer import NewTensor, encoded, header, padding

DELICATE = ("token_embd.weight", "output.weight")
"""The embedding and the output."""
FILE_TYPE = {DType.Q4_0: 2, DType.Q4_1: 3, DType.Q8_0: 7}
"""``general.file_type`` of a file that is mostly of a type."""
QUANTIZATION_VERSION = 2


@dataclass(frozen=True, slots=True)
class Step:
    """One tensor: what it was, and what it will be."""

    source: TensorInfo
    made: NewTensor

    @property
    def copied(self) -> bool:
        """It stays as it is."""
        return self.source.dtype is self.made.dtype


@dataclass(frozen=True, slots=True)
class Plan:
    """The new file."""

    head: tuple[bytes | memoryview, ...]
    steps: tuple[Step, ...]
    alignment: int

    @property
    def nbytes(self) -> int:
        """Of the whole file."""
        sizes = (each.made.nbytes for each in self.steps)
        data = sum(size + len(padding(size, self.alignment)) for size in sizes)
        return sum(map(len, self.head)) + data

    def pieces(self) -> Iterator[tuple[Step, bytes]]:
        """Each step and what follows its data."""
        for step in self.steps:
            yield step, padding(step.made.nbytes, self.alignment)


def plan(file: GGUF, wanted: DType, delicate: DType | None = None) -> Plan:
    """What the new file will be.

    Args:
        wanted: the type of matrices.
        delicate: that of embedding and output; None: 8 bits, or as they are if they have fewer.
    """
    alignment = gguf.alignment(file)
    steps = tuple(
        Step(each, NewTensor(each.name, each.shape, _type(each, wanted, delicate)))
        for each in file.tensors.values()
    )
    entries = dict(file.entries)
    entries["general.file_type"] = memoryview(encoded(FILE_TYPE[wanted]))
    entries["general.quantization_version"] = memoryview(encoded(QUANTIZATION_VERSION))
    head = header(entries, [step.made for step in steps], alignment)
    return Plan(tuple(head), steps, alignment)


def _type(tensor: TensorInfo, wanted: DType, delicate: DType | None) -> DType:
    if tensor.dtype is DType.I32:
        return DType.I32
    if len(tensor.shape) == 1:
        return DType.F32
    if tensor.name in DELICATE:
        few = _bits(tensor.dtype) <= _bits(DType.Q8_0)
        wanted = delicate or (tensor.dtype if few else DType.Q8_0)
    return tensor.dtype if tensor.shape[-1] % wanted.geometry.block else wanted


def _bits(dtype: DType) -> float:
    return 8 * dtype.geometry.nbytes / dtype.geometry.block


def figures(file: GGUF, made: Plan) -> dict[str, object]:
    """Sizes before and after, for people and programs."""
    was = [(step.source.dtype, step.source.nbytes) for step in made.steps]
    now = [(step.made.dtype, step.made.nbytes) for step in made.steps]
    block = {dtype: dtype.geometry for dtype, _ in was}
    parameters = sum(n // block[dtype].nbytes * block[dtype].block for dtype, n in was)
    found: dict[str, object] = {"parameters": parameters}
    for name, nbytes, tensors in (("source", file.nbytes, was), ("result", made.nbytes, now)):
        types: dict[str, int] = {}
        for dtype, size in tensors:
            types[dtype.name] = types.get(dtype.name, 0) + size
        bits = 8 * sum(types.values()) / max(parameters, 1)
        ranked = dict(sorted(types.items(), key=lambda each: -each[1]))
        found[name] = {"bytes": nbytes, "bits_per_weight": bits, "types": ranked}
    return found
