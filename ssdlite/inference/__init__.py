"""Images, videos and cameras through any model, and out again as pictures, films and records; without PyTorch.

Start with `pipeline`; `inputs` and `outputs` are its ends, `images` finds objects in one image.
"""
