"""Random changes of training images and their boxes, as pure functions of numbers drawn before."""
