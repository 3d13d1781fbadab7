"""Device protocols: bytes in, numbers out."""
