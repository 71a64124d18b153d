"""The network broker: a process beside the kernel through which plugins reach other hosts.

``service`` is the process, ``keeper`` is its end in the steward, which also binds what plugins
listen on; ``addresses`` says which addresses may be connected to, ``resolve`` asks for names,
``dial`` connects, ``relay`` carries the bytes, ``jail`` takes rights away, ``audit`` writes down.
"""
