"""`claw bench`: measurements of this box in one form (``report``), each in a module of its own."""
