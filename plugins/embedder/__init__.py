"""The embedder: sentences to vectors whose angle says how alike they are in meaning.

    claw pull minilm

Models are BERT encoders as sentence-transformers publishes them: the weights, the configuration and
the tokenizer, in one archive. ``bert.py`` computes, in float32.
"""

from clawai.plugins.embedder.worker import Embedder

claw_plugin = Embedder()
