"""Stanford cs231n, assignment 2, the parts that have to do with convolutional networks: loops in layers.py, columns in fast_layers.py."""
