"""The report of a run: what its files say about themselves, as one page with figures."""
