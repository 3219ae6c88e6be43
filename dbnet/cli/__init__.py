"""One module per command. They stand above every layer, like `dbnet.__main__`, and import what they need when run."""
