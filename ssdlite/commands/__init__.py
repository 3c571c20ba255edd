"""One module a verb of the command line; `ssdlite/cli.py` has their options.

Start with `train`. `arguments` checks what a person typed before PyTorch is imported, `console` prints.
"""
