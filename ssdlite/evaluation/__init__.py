"""How good the detections are: COCO and VOC figures, and the loop that gathers detections."""
