"""Several processes that work as one: start, messages, end, and arrays on all devices."""
