import os

from hypothesis import settings

# No deadline: the machines that run this are shared, and slowness is not what these tests are about.
settings.register_profile("ci", max_examples=300, deadline=None)
settings.register_profile("long", max_examples=30_000, deadline=None)
settings.load_profile(os.environ.get("QGUARD_HYPOTHESIS", "ci"))
