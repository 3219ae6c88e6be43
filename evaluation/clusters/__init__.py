"""A Ray cluster that runs a model on many images: the digits of one process, and a lost worker costs its piece alone.

`pieces` cuts and puts together (no Ray in it), `places` chooses what a worker needs of a node, `versions` compares what
has to be the same everywhere, `process` is what runs there, `connecting` finds a cluster, `team` hands out the work,
`remote` is the work, and `evaluating` an evaluation of it. Ray is imported when a cluster is asked for, and not before.
"""
