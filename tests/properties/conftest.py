import os

from hypothesis import Phase, settings

# No deadline: the machines that run this are shared, and slowness is not what these tests are about.
settings.register_profile("ci", max_examples=1_000, deadline=None)
settings.register_profile("long", max_examples=100_000, deadline=None)
# To try things out: few examples, and none made smaller.
settings.register_profile(
    "quick",
    max_examples=int(os.environ.get("QGUARD_EXAMPLES", "100")),
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
)
# For mutation testing: thousands of runs, each the same.
settings.register_profile(
    "mutants",
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)
settings.load_profile(os.environ.get("QGUARD_HYPOTHESIS", "ci"))
