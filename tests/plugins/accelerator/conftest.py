"""Runs these tests on another build of the C library if CLAW_TEST_OPS names one (check_c.sh)."""

import importlib.util
import os
import sys

NAME = "clawai.plugins.accelerator._ops"

if path := os.environ.get("CLAW_TEST_OPS"):
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[NAME] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
