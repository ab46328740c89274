"""The splits of a folder: which images are trained on and which are tested."""
