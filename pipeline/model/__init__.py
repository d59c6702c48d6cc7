"""The networks: weights, and the engines that take an image and give logits, no more. The only room that imports torch.

No label is made here.
"""
