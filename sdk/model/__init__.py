"""Model files and graphs: readers that treat a file as hostile, and what engines compile."""
