"""Whether an exported file answers as its network does: numbers, detections, AP, and what runs it."""
