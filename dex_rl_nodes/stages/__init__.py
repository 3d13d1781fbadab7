"""The stages of a run in one process: collect, train, learn online, evaluate, bench."""
