"""Data sets of text in images, one module each, all read into `dbnet.sample.Sample`."""
