"""What pyproject.toml cannot declare: the C extensions that cffi builds in API mode."""

from setuptools import setup

setup(
    cffi_modules=[
        "plugins/accelerator/build_ops.py:ffibuilder",
        "sdk/build_native.py:ffibuilder",
    ]
)
