"""What the kernel sees of an append or a read is what is expected, and nothing else."""

from __future__ import annotations

import pytest

from tests.counts.kernel import strace_is_there, system_calls
from tests.counts.scenes import SCENES
from tests.counts.table import Kind, differences


@pytest.mark.skipif(not strace_is_there(), reason="strace is not installed")
@pytest.mark.parametrize("scene", [scene.name for scene in SCENES])
def test_the_kernel_sees_what_is_expected_and_nothing_else(scene: str) -> None:
    changed = differences(scene, system_calls(scene), Kind.SYSTEM)
    if changed:
        pytest.fail("\n".join(changed), pytrace=False)
