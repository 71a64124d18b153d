"""Graphs of every architecture against llama.cpp's figures (``architectures.json``)."""

import json
from typing import Any

import numpy as np
import pytest

from clawai.sdk.model import llama
from clawai.sdk.model.families import FAMILIES
from clawai.sdk.model.gguf import parse
from oracle.architectures import HERE, LENGTHS, MODELS, PROMPT, build
from reference import ReferenceDriver
from tiny_llama import compiled

ORACLE: dict[str, Any] = json.loads((HERE / "architectures.json").read_text())


def test_every_architecture_is_there() -> None:
    assert {each["architecture"] for each in MODELS.values()} == set(FAMILIES)


def logits_of(name: str, driver: str) -> Any:
    graph = llama.graph(parse(memoryview(build(name))))
    if driver == "reference":
        return (
            ReferenceDriver().compile(graph, context=256).sequences[0].run(PROMPT, all_logits=True)
        )
    plan = compiled(graph, context=256, threads=2)
    try:
        return plan.sequences[0].run(PROMPT, all_logits=True)
    finally:
        plan.close()


@pytest.mark.parametrize("driver", ["reference", "ours"])
@pytest.mark.parametrize("name", list(MODELS))
def test_log_probabilities_are_those_of_llama_cpp(name: str, driver: str) -> None:
    logits = np.asarray(logits_of(name, driver), np.float64)
    top = logits.max(1, keepdims=True)
    ours = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    for length, best in zip(LENGTHS, ORACLE[name], strict=True):
        for token, theirs in best.items():
            assert abs(ours[length - 1, int(token)] - theirs) < 2e-3, (length, token)
