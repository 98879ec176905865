"""The entries of `make break` follow the code: a line that is gone would only be noticed when somebody runs it."""

import pytest

from scripts.break_guarantees import BREAKS, ROOT, Break


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: f"{broken.guarantee}-{broken.file}")
def test_each_break_finds_its_line_and_its_test(broken: Break) -> None:
    assert (ROOT / broken.file).read_text().count(broken.old) == 1
    assert broken.new != broken.old
    assert (ROOT / "tests" / broken.test).is_file()
