"""How fast this machine trains, judges and predicts, and how much memory that takes."""
