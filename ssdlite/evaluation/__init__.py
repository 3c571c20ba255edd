"""The quality of detections: COCO's and VOC's figures, error types, curves, sizes, calibration.

Start with `evaluate` (from a predictor and images to figures) and `analysis` (everything the report shows).
"""
