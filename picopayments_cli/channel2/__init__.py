"""Protocol 2's part of `channel`, until the switch is done."""
