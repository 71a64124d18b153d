"""The worker's resource limits; hard and soft together, so that they cannot be raised again.

RLIMIT_DATA counts private writable memory and thread stacks; shared memory escapes it, so the
system call filter forbids the worker to create any. RLIMIT_NPROC counts within a user namespace;
without one it would count all processes of the owner, so it is left alone there.
"""

import resource

from clawai.sandbox.policy import Policy

_UNLIMITED = resource.RLIM_INFINITY


def apply(policy: Policy, own_user_count: bool) -> None:
    """Set every limit; ``own_user_count`` says whether RLIMIT_NPROC counts this worker alone."""
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
        resource.RLIMIT_SIGPENDING: 128,
        resource.RLIMIT_STACK: 8 << 20,
        resource.RLIMIT_DATA: policy.memory_bytes,
        resource.RLIMIT_AS: policy.address_bytes or _UNLIMITED,
        resource.RLIMIT_FSIZE: policy.file_bytes,
        resource.RLIMIT_NOFILE: policy.max_fds,
    }
    if own_user_count:
        # One more: the stage lives in the same user namespace.
        wanted[resource.RLIMIT_NPROC] = policy.max_threads + 1
    for limit, value in wanted.items():
        hard = resource.getrlimit(limit)[1]
        capped = value if hard == _UNLIMITED else hard if value == _UNLIMITED else min(value, hard)
        resource.setrlimit(limit, (capped, capped))
