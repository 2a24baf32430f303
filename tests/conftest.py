"""How hard hypothesis tries: HYPOTHESIS_PROFILE=slow tries ten times as hard. And interrupts, that processes get."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("slow", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
