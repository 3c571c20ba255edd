"""Foreign checkpoints, one file a format, by tables that name every tensor."""
