"""Sets up a machine: a private environment and the built package. Imports the standard library alone."""
