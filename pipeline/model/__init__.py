"""The networks, their weights, what goes in, and the engines that run them."""
