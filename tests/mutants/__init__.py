"""Mutants of the kernels, and the program that shows that the tests find them: `make mutants`."""
