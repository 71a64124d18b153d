"""A plugin whose work is cheaper together: it finds the nearest of some points for many callers."""

import numpy as np

from clawai.sdk import Batch, ClawError, Params, Tensor, batched

POINTS = np.random.default_rng(7).standard_normal((4096, 32)).astype("<f4")


class Query(Params):
    """What one caller asks: the numbers of the points nearest to a vector."""

    vector: Tensor
    count: int = 1


@batched("nearest.find")
def find(queries: list[Query], batch: Batch) -> list[list[int] | ClawError]:
    """The numbers of the points that are nearest to ``vector``, the nearest first."""
    vectors = np.zeros((len(queries), POINTS.shape[1]), "<f4")
    results: list[list[int] | ClawError] = [[] for _ in queries]
    for place, (query, task) in enumerate(zip(queries, batch, strict=True)):
        array = task.array(query.vector)
        if array.shape != vectors[place].shape or not 1 <= query.count <= len(POINTS):
            wanted = f"vector of {POINTS.shape[1]} numbers, count of 1 to {len(POINTS)}"
            results[place] = ClawError("bad_params", "no such query", list(array.shape), wanted)
        else:
            vectors[place] = array
    # One product over all points for every caller at once: this is what a batch saves.
    distances = (POINTS**2).sum(1) - 2 * vectors @ POINTS.T
    batch.checkpoint()
    for place, query in enumerate(queries):
        if not isinstance(results[place], ClawError):
            order = np.argsort(distances[place], kind="stable")
            results[place] = [int(number) for number in order[: query.count]]
    return results
