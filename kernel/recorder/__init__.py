"""The recorder: a process beside the daemon that writes what must outlive it.

``store`` is the job journal, ``ring`` the files of the event journal, ``service`` the loop.
"""
