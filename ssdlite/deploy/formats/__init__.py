"""Files of other runtimes than ONNX Runtime: writing them, proving that they answer alike, predicting with them."""
