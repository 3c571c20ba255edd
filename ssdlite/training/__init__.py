"""The training loop and what it stands on. Receives ready objects."""
