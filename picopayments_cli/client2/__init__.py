"""Protocol 2's part of `client`, until the switch is done."""
