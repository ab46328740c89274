"""Inspection of a folder of annotated images before training: its contents, and the network's input."""
