"""Checks of devices before anything may move. They only ask: no byte sent here moves, sets or clears anything."""
