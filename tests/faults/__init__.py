"""The fault harness: parts that attack or disturb a hub and its clients, and count what anybody lost."""
