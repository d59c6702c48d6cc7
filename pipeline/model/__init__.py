"""The networks: their weights, and the engines that turn an image into logits. The only room that imports torch.

This room makes no labels.
"""
