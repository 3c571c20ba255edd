"""Would a GPU have a kernel for every operator of a piece of work? Answered on a machine that has no GPU.

`recorder` runs the work on tensors without values that say they lie on a GPU, and writes down each operator with
its dtypes and the line of ours that asked for it; `tables` is what PyTorch says of its operators; `rules` compares
the two; `workloads` are what ssdlite launches. Start reading in `rules`.
"""
