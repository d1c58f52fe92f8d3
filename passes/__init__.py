"""Transformations of a graph, one a file; importing one imports no other that it does not use."""
