"""Protocol 2's part of `hub`, until the switch is done."""
