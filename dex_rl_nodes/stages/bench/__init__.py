"""Experiments and speed figures, each written as JSON with its command, machine, seed and N."""
