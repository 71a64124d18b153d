"""The microkernel: it owns the memory pool and the task queue, and knows who offers what.

``core`` is pure (events in, instructions out); ``server`` is the only place with sockets,
processes and time.
"""
