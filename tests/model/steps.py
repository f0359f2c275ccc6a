"""The steps of a sequence: each makes a call with arguments that were drawn, and compares the answer."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.model import faults, looking, writing
from tests.model.disk import Killed
from tests.model.world import World

STEPS: tuple[tuple[float, Callable[[World], None]], ...] = (
    (14, writing.append), (5, writing.append_reaction), (10, writing.append_batch), (2, writing.sync),
    (4, writing.post), (3, writing.index_work), (3, writing.time_passes), (3, looking.get), (3, looking.get_many),
    (4, looking.read), (3, looking.read_stream), (4, looking.go_on), (4, looking.query), (1, looking.stale_place),
    (3, looking.stream), (2, looking.by_scope), (2, looking.by_fact), (2, looking.latest), (2, looking.place_at),
    (2, looking.walk_ancestors), (3, looking.causes_and_effects), (1, looking.verify_chain), (1.5, looking.stats),
    (1.5, looking.anchor), (1, looking.diagnostics), (1.5, looking.open_read_only), (3, looking.refresh),
    (0.6, looking.locked), (2, faults.reopen), (0.6, faults.closed), (0.6, faults.forked), (0.5, faults.kill),
    (17, faults.kill_within), (5.5, faults.kill_in_recovery), (3, faults.interrupted), (1, faults.no_space),
    (0.6, faults.failed_sync), (0.6, faults.bug_in_reader), (0.6, faults.bug_in_writer), (0.6, faults.reentrant),
    (0.8, faults.damaged), (1, faults.damaged_run), (0.6, faults.too_new), (0.8, faults.wrong_format),
    (7, faults.invalid),
)  # fmt: skip
WEIGHTS, ACTIONS = zip(*STEPS, strict=True)


def run_step(world: World, number: int) -> None:
    """Run the step of that number; what it does depends on the world's seed, its number and where the world stands."""
    world.random = Random(f"{world.seed}/{number}")
    action = world.random.choices(ACTIONS, WEIGHTS)[0]
    world.counts.steps += 1
    world.trace.append(f"{number}: {action.__name__}")
    world.collect()
    try:
        action(world)
    except Killed:
        world.kill(world.trap.sprung)
