"""A look at a folder of annotated images before anything is trained: what is in it, and what the network will see."""
