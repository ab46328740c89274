"""Several processes that work as one: their start, what they tell each other, their end, and arrays on all devices."""
