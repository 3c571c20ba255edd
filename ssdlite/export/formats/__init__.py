"""One module a runtime other than ONNX Runtime: how its file is written and how it is run.

Start with `base` (what a `Runtime` is) and `registry` (which there are, and which one a file is for).
"""
