"""A detector as one HTML page: network, ONNX Runtime Web and code inside, opened from disk, without a network."""
