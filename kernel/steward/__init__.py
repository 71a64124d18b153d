"""The process beside the daemon that does what need not be in its loop, and its launchers.

It reads settings, manifests and the model store, accepts connections, proves what the box offers,
watches it, starts workers, writes the log and makes the listings. The daemon never imports it.
"""
