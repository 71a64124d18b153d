"""The steward: the process beside the daemon that launches workers and watches the box."""
