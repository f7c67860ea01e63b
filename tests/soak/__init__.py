"""Many users at once, each marked, and all that any of them receives searched for the others' marks."""
