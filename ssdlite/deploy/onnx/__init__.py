"""Writing ONNX files: the traced graph, what is put in front of it and behind it, and its precision."""
