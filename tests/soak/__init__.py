"""Many users at once, each marked, and everything that any of them receives searched for the others' marks."""
