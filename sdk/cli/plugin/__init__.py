"""`claw plugin ...`: one module a verb, named in ``command.VERBS``."""
