"""Emulated devices that speak bytes on a pseudo-terminal, to prove drivers without hardware."""
