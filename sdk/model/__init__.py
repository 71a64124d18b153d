"""Model files and graphs: readers that treat a file as hostile, and the graph that engines compile."""
