"""Models in ONNX files, run by ONNX Runtime: named arrays in, named arrays out."""

from clawai.plugins.onnx.worker import Engine

claw_plugin = Engine()
