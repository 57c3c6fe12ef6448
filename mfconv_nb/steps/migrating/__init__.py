"""The run of one network of MindFormers as that of another: weights and optimizer."""
