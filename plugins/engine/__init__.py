"""The language-model engine: GGUF files of the Llama family, on the drivers that its worker loads."""

from clawai.plugins.engine.worker import Engine

claw_plugin = Engine()
