"""Two Hypothesis profiles: `fast` for every run, `deep` for `make hunt`."""

import os

from hypothesis import settings

# A slow machine is no failure of the code, so no deadline. The fast run repeats itself exactly;
# the deep one is there to find what is new, and prints how to repeat it.
settings.register_profile("fast", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("deep", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))
