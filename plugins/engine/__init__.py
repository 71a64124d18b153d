"""The language-model engine: GGUF files of the Llama family, on the drivers of its worker."""

from clawai.plugins.engine.worker import Engine

claw_plugin = Engine()
