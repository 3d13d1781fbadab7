"""Action interfaces, policies, critics, algorithms, replay, reward."""
