"""The stable codes of errors, and what each means.

Two families: the caller's fault (``CALLER``) and the peer's, plugin's or box's fault (``PEER``).
The codes are part of the wire (``WIRE.md``, section Errors): a code is never renamed. Whoever
explains an error needs this list; who only passes one on, as the kernel does, does not load it.
"""

CALLER = {
    "bad_frame": "the bytes are not ZMTP or exceed a limit of the connection",
    "bad_message": "a header is not msgpack, has wrong types, or an unknown message type",
    "bad_version": "the peer speaks another major version of the wire",
    "bad_state": "the message does not fit the state of the connection or the task",
    "bad_params": "a parameter of the operation is missing, unknown, or out of range",
    "bad_model": "a model file is corrupt, malicious or of an unsupported kind",
    "bad_config": "the configuration or a manifest cannot be used",
    "bad_package": "a plugin's package is damaged, changed or hostile, or its signature is wrong",
    "bad_download": "a downloaded file is not the one that the catalogue names",
    "too_large": "a message, a frame or a result exceeds its limit",
    "unknown_operation": "no plugin offers this operation",
    "unknown_model": "no such model is stored here or listed in the catalogue",
    "unknown_task": "no such task of this client",
    "unknown_plugin": "no such plugin",
    "prompt_too_long": "the prompt does not fit the model's context",
    "deadline_passed": "the deadline passed before the task had ended",
    "deadline_unreachable": "the deadline cannot be met by what the operation is known to take",
    "never_fits": "the task needs more memory than the whole budget",
    "no_lease": "the lease is not one that the kernel gave to this client for this worker",
    "not_permitted": "the principal or the plugin lacks the permission",
    "not_granted": "the plugin asks for permissions that its owner has not granted to these files",
    "cancelled": "the task was cancelled by its owner",
    "would_deadlock": "a child task would wait for the one that waits for it, or too many deep",
}
PEER = {
    "queue_full": "the queue is full; try again later",
    "overloaded": "the task was given up for more urgent ones; try again later",
    "no_memory": "the memory is in use now; try again later",
    "interrupted": "the kernel ended while a task ran that may run only once",
    "worker_died": "the worker's process ended while it ran the task",
    "worker_failed": "the plugin raised an error",
    "worker_hung": "the worker stopped answering and was ended",
    "quarantined": "the plugin kept dying and is not started again for now",
    "sandbox_refused": "the sandbox that the plugin requires cannot be had on this system",
    "bad_worker": "the worker broke the wire protocol",
    "no_kernel": "no kernel answers",
    "connection_lost": "the connection broke while the request was open; it may have been done",
    "kernel_stopped": "the kernel is stopping",
    "disk_full": "the disk is full",
    "network": "a download or a connection failed",
    "address_in_use": "another process has the address",
    "unsupported_system": "the system lacks something that is required",
}
CODES = CALLER | PEER
