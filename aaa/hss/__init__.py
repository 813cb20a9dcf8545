"""The home subscriber server: the port that the AAA server asks, and the one in this process."""
