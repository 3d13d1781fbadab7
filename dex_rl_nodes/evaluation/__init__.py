"""Protocol, metrics and reports of an evaluation."""
