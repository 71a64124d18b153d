"""What ``claw_load_model`` answers: a model that an engine can run, whatever format it came in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clawai.sdk.model import gguf, gguf_writer
from clawai.sdk.model.gguf import GGUF
from clawai.sdk.model.graph import Graph


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A graph, and what its tokenizer is built from."""

    graph: Graph
    """Weights are views of the file, or of memory that the plugin has reserved."""
    text: GGUF
    """Metadata under GGUF's keys: ``tokenizer.ggml.model``, ``.pre``, ``.tokens``, ``.token_type``,
    ``.merges``, ``.bos_token_id``, ..., and ``tokenizer.chat_template``. A GGUF file is that by
    itself; for another format see ``described``."""


def described(metadata: Mapping[str, Any]) -> GGUF:
    """Metadata of another format, as if it had stood in a GGUF file, with all limits of one.

    Args:
        metadata: values are bool, int, float, str, or lists of one of these.

    Raises:
        ModelFileError: a limit is exceeded.
    """
    entries = {key: gguf_writer.encoded(value) for key, value in metadata.items()}
    return gguf.parse(memoryview(b"".join(gguf_writer.header(entries, ()))))
