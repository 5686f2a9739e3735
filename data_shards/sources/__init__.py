"""One file per footage format."""
