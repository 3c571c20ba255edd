"""From the Detector's output and the targets to named loss terms."""
