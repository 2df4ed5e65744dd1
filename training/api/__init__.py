"""The published training interface of text-to-video transformers, thin over the package's loop, path and methods."""
