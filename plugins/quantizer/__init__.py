"""The quantizer: a model's GGUF file with its weights in fewer bits, as a stream.

    claw quantize smollm2 --to q4_1

What is written is decided from the shapes alone (``plan.py``); weights pass through in pieces of a
few MiB, whatever the size of the model. The arithmetic is a driver's, asked for by
``claw_quantize``.
"""

from clawai.plugins.quantizer.worker import Quantizer

claw_plugin = Quantizer()
