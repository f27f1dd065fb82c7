"""Algorithms over one rank's shard, out of kernels and a communicator; knows nothing of Spark."""
