"""Writing a file and verifying it before it gets its name: `onnx`, and `formats` for all other runtimes."""
