"""What became of a training, on one page that a person can read."""
