"""PyTorch's side: runs under the interpreter with torch and torchvision; of this repository it only imports sizes and
timing.
"""
