"""Small experiments to learn from: what initialisation, optimizer and schedule do, and one step of a network with every number.

    initialisation.py   the same small network from different first weights
    descent.py          optimizers on a quadratic bowl
    rates.py            the learning rate of every schedule over the epochs
    example.py          one training step with all its arrays (fastcnn explain-net)
    figures.py          the pictures
    commands.py         fastcnn explore | explain-net
"""
