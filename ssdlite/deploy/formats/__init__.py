"""Files of other runtimes than ONNX Runtime: converting into them, and running them."""
