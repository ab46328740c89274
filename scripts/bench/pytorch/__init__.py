"""PyTorch's side: runs under the interpreter that has torch and torchvision, and imports nothing of ours but sizes and
timing."""
