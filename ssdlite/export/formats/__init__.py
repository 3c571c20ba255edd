"""One module a runtime other than ONNX Runtime: how its file is written and how it is run.

Start with `base` (which formats there are and what each can hold) and `registry` (from a suffix to its
runtime).
"""
