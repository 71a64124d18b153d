"""Speech: what is said in a recording, as text, sentence by sentence.

    claw pull moonshine

Models are Moonshine's (arXiv 2410.15608): an encoder, a decoder and a vocabulary in one archive,
run by ONNX Runtime.
"""

from clawai.plugins.speech.worker import Speech

claw_plugin = Speech()
