"""Triton's system shared memory, by its own clients: arrays in memory of the client's."""

import os
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import gevent
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from doors_kit import Doors

X = np.float32([1, 2, 5])


@pytest.fixture(scope="module", autouse=True)
def hub() -> Iterator[None]:
    """What is there for longer than a client: its event loop, and who cleans up named memory."""
    gevent.sleep(0)
    resource_tracker.ensure_running()  # Python's, for named memory
    yield
    resource_tracker._resource_tracker._stop()
    gevent.get_hub().destroy(destroy_loop=True)


@pytest.fixture(params=[over_http, over_grpc], ids=["http", "grpc"])
def peer(request: Any, tensors: Doors) -> Iterator[Any]:
    """The module of a client, and one."""
    made = request.param.InferenceServerClient(f"127.0.0.1:{tensors.port}")
    yield request.param, made
    made.unregister_system_shared_memory()
    made.close()


@pytest.fixture
def region() -> Iterator[Any]:
    """64 bytes that the test lends."""
    made = shm.create_shared_memory_region("lent", f"/claw-test-{os.getpid()}", 64)
    yield made
    shm.destroy_shared_memory_region(made)


def key() -> str:
    return f"/claw-test-{os.getpid()}"


def names(client: Any) -> set[str]:
    """What is registered, as either client tells it."""
    found = client.get_system_shared_memory_status()
    return {each["name"] for each in found} if isinstance(found, list) else set(found.regions)


def test_arrays_are_read_and_written_where_they_lie(peer: Any, region: Any) -> None:
    triton, client = peer
    shm.set_shared_memory_region(region, [X])
    client.register_system_shared_memory("lent", key(), 64)
    assert names(client) == {"lent"}
    x = triton.InferInput("x", [3], "FP32")
    x.set_shared_memory("lent", 12)
    y = triton.InferRequestedOutput("y")
    y.set_shared_memory("lent", 12, 16)
    found = client.infer("half", [x], outputs=[y])
    told = found.get_output("y")
    told = told["parameters"] if isinstance(told, dict) else told.parameters
    assert "shared_memory_region" in told
    assert shm.get_contents_as_numpy(region, np.float32, [3], 16).tolist() == [2.5, 3.0, 4.5]
    client.unregister_system_shared_memory("lent")
    assert names(client) == set()
    with pytest.raises(InferenceServerException, match="no shared memory 'lent'"):
        client.infer("half", [x])


def test_texts_lie_there_too(peer: Any, region: Any) -> None:
    triton, client = peer
    client.register_system_shared_memory("lent", key(), 64)
    texts = np.array(["grün".encode(), b"x"], object)
    raw = triton.InferInput("t", [2], "BYTES")
    packed = b"".join(len(each).to_bytes(4, "little") + each for each in texts)
    shm.set_shared_memory_region(region, [np.frombuffer(packed, np.uint8)])
    raw.set_shared_memory("lent", len(packed))
    a, b = triton.InferInput("a", [2, 2], "INT64"), triton.InferInput("b", [2], "BOOL")
    a.set_data_from_numpy(np.int64([[1, 2], [3, 4]]))
    b.set_data_from_numpy(np.array([True, False]))
    wanted = [triton.InferRequestedOutput(name) for name in ("same", "sum")]
    wanted[0].set_shared_memory("lent", 32, 32)
    found = client.infer("mixed", [raw, a, b], outputs=wanted)
    assert found.as_numpy("sum").tolist() == [3, 7]
    same = shm.get_contents_as_numpy(region, np.object_, [2], 32)
    assert same.tolist() == ["grün".encode(), b"x"]


def test_more_than_there_is_is_refused(peer: Any, region: Any) -> None:
    triton, client = peer
    with pytest.raises(InferenceServerException, match="has 64 bytes"):
        client.register_system_shared_memory("lent", key(), 65)
    client.register_system_shared_memory("lent", key(), 16, 8)
    with pytest.raises(InferenceServerException, match="registered already"):
        client.register_system_shared_memory("lent", key(), 16)
    x = triton.InferInput("x", [3], "FP32")
    x.set_data_from_numpy(X)
    for size, offset, words in ((12, 8, "has 16 bytes"), (8, 0, "has 12 bytes; got room for 8")):
        y = triton.InferRequestedOutput("y")
        y.set_shared_memory("lent", size, offset)
        with pytest.raises(InferenceServerException, match=words):
            client.infer("half", [x], outputs=[y])
    x.set_shared_memory("lent", 12, 8)
    with pytest.raises(InferenceServerException, match="has 16 bytes"):
        client.infer("half", [x])


def test_memory_that_became_shorter_ends_nothing(peer: Any, region: Any) -> None:
    triton, client = peer
    client.register_system_shared_memory("lent", key(), 64)
    os.truncate(f"/dev/shm{key()}", 4)
    try:
        x = triton.InferInput("x", [3], "FP32")
        x.set_shared_memory("lent", 12)
        with pytest.raises(InferenceServerException, match="became shorter"):
            client.infer("half", [x])
        assert client.is_server_ready()
    finally:
        os.truncate(f"/dev/shm{key()}", 64)


@pytest.mark.parametrize("name", ["/../etc/passwd", "/a/b", "/claw-test-nothing", "/", "/."])
def test_only_names_in_the_folder(peer: Any, name: str) -> None:
    with pytest.raises(InferenceServerException, match=r"no name of|cannot be opened"):
        peer[1].register_system_shared_memory("lent", name, 8)
    assert names(peer[1]) == set()


def test_links_and_what_is_somebody_elses_are_refused(peer: Any, region: Any) -> None:
    link = Path(f"/dev/shm{key()}-link")
    link.symlink_to(f"/dev/shm{key()}")
    try:
        with pytest.raises(InferenceServerException, match="cannot be opened"):
            peer[1].register_system_shared_memory("lent", link.name, 8)
    finally:
        link.unlink()
    if os.geteuid() == 0:  # an ordinary user cannot give files away
        os.chown(f"/dev/shm{key()}", 65534, 65534)
        with pytest.raises(InferenceServerException, match="not that of the program"):
            peer[1].register_system_shared_memory("lent", key(), 8)
