"""The one thing pyproject.toml cannot declare: the C extension that cffi builds in API mode."""

from setuptools import setup

setup(cffi_modules=["plugins/accelerator/build_ops.py:ffibuilder"])
