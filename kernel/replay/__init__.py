"""Replay of event journals: what the core did in the field, again, event by event.

``files`` reads the files, ``thaw`` turns what they hold into the core and its events, ``run`` feeds
and compares, ``__main__`` is the program that `claw replay` starts. Never loaded by the daemon.
"""
