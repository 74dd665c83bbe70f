"""Language models on this machine, never from the network.

Find, load in 4-bit NF4, chat template, greedy generation with several adapters.
"""
