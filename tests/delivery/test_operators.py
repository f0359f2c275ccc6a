"""The operators of subscriptions, beside plain functions on lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batpak import InvalidRequestError, Region, Store, StoreClosedError, Subscription
from batpak.delivery.pipeline import SKIPPED, Pipeline
from tests.store.journals import EVERYTHING, Loose, Task, new_events

pytestmark = pytest.mark.usefixtures("no_backstop")

Operator: TypeAlias = tuple[Literal["filter", "map", "scan"], Callable[..., Any]] | tuple[Literal["take"], int]


def sequences(store: Store, **options: int) -> Subscription[int]:
    """Return a subscription to the global sequences of what comes."""
    return store.subscribe(EVERYTHING, **options).map(lambda each: each.global_sequence)


def there(subscription: Subscription[Any]) -> list[Any]:
    """Return the items that are there by now."""
    return list(iter(subscription.poll, None))


def grow(store: Store, count: int) -> None:
    if count:
        store.append_batch(new_events(*range(count)))


# One by one ------------------------------------------------------------------------------------------------------


def test_p41_several_filters_must_all_say_yes(store: Store) -> None:
    even = sequences(store).filter(lambda number: number % 2 == 0)
    both = even.filter(lambda number: number % 3 == 0)
    grow(store, 20)
    assert there(both) == [0, 6, 12, 18]


def test_p41_map_skips_where_it_returns_none(store: Store) -> None:
    odd = sequences(store).map(lambda number: f"odd {number}" if number % 2 else None)
    grow(store, 6)
    assert there(odd) == ["odd 1", "odd 3", "odd 5"]


def test_p41_map_delivers_what_is_false_and_not_none(store: Store) -> None:
    zero = sequences(store).map(lambda number: [0, "", False, []][number])
    grow(store, 4)
    assert [next(zero) for _ in range(4)] == [0, "", False, []]


def test_p41_take_ends_at_once_while_the_store_lives(store: Store) -> None:
    three = sequences(store).take(3)
    task = Task(lambda: list(three))
    grow(store, 3)
    assert task.outcome() == [0, 1, 2]
    assert three.poll() is None
    assert three.pull() is None
    assert list(three) == []
    grow(store, 1)
    assert three.pull() is None


def test_p41_take_of_nothing_ends_before_the_first_event(store: Store) -> None:
    assert list(sequences(store).take(0)) == []
    assert sequences(store).take(0).pull() is None


def test_p41_take_takes_no_more_than_it_gives(store: Store) -> None:
    seen: list[int] = []

    def note(number: int) -> bool:
        seen.append(number)
        return True

    two = sequences(store).filter(note).take(2)
    grow(store, 10)
    assert list(two) == [0, 1]
    assert seen == [0, 1]


def test_p41_what_is_skipped_behind_a_take_has_been_taken(store: Store) -> None:
    odd = sequences(store).take(4).filter(lambda number: number % 2)
    grow(store, 10)
    assert list(odd) == [1, 3]


def test_p41_the_smallest_of_several_takes_counts(store: Store) -> None:
    two = sequences(store).take(5).take(2).take(9)
    grow(store, 10)
    assert list(two) == [0, 1]


def test_p41_scan_delivers_each_new_state(store: Store) -> None:
    sums = sequences(store).scan(100, lambda total, number: total + number)
    grow(store, 5)
    assert there(sums) == [100, 101, 103, 106, 110]


def test_p41_scan_keeps_its_state_where_the_fold_returns_none(store: Store) -> None:
    even = sequences(store).scan(0, lambda total, number: total + number if number % 2 == 0 else None)
    grow(store, 7)
    assert there(even) == [0, 2, 6, 12]


def test_p41_operators_are_applied_in_the_order_in_which_they_were_added(store: Store) -> None:
    mapped = sequences(store).map(lambda number: number * 10).filter(lambda number: number > 20).take(2)
    filtered = sequences(store).filter(lambda number: number > 2).map(lambda number: number * 10).take(2)
    taken = sequences(store).take(2).filter(lambda number: number > 2)
    grow(store, 8)
    assert there(mapped) == there(filtered) == [30, 40]
    assert list(taken) == []


def test_p41_what_is_skipped_does_not_end_a_wait(store: Store) -> None:
    late = sequences(store).filter(lambda number: number >= 5)
    task = Task(lambda: next(late))
    for _ in range(5):
        grow(store, 1)
    grow(store, 1)
    assert task.outcome() == 5


def test_p41_a_function_that_raises_is_heard_and_its_item_is_gone(store: Store) -> None:
    def change(number: int) -> int:
        if number == 1:
            raise LookupError
        return number

    changed = sequences(store).map(change)
    grow(store, 3)
    assert changed.poll() == 0
    with pytest.raises(LookupError):
        changed.poll()
    assert changed.poll() == 2


def test_p41_operators_do_not_outlive_their_store(store: Store) -> None:
    mapped = sequences(store).take(3)
    grow(store, 1)
    store.close()
    with pytest.raises(StoreClosedError):
        list(mapped)


def test_p41_close_ends_what_the_operators_were_added_to(store: Store) -> None:
    source = sequences(store)
    mapped = source.map(str)
    mapped.close()
    grow(store, 1)
    assert there(mapped) == there(source) == []


@pytest.mark.parametrize(
    "add",
    [
        lambda each: each.filter(None),
        lambda each: each.map(3),
        lambda each: each.scan(0, "fold"),
        lambda each: each.take(-1),
        lambda each: each.take(1.5),
        lambda each: each.take(True),
        lambda each: each.take(None),
    ],
)
def test_p41_an_operator_that_cannot_work_is_refused_when_it_is_added(store: Store, add: Loose) -> None:
    with pytest.raises(InvalidRequestError):
        add(store.subscribe(Region()))


# Laws ------------------------------------------------------------------------------------------------------------

ITEMS = st.lists(st.integers(-50, 50), max_size=30)
PREDICATES: Sequence[Callable[[int], object]] = [
    lambda item: item % 2,
    lambda item: item > 0,
    lambda item: item % 3 == 0,
    lambda _: True,
    lambda _: None,
]
CHANGES: Sequence[Callable[[int], int | None]] = [
    lambda item: item + 1,
    lambda item: -item,
    lambda item: item * 3 if item % 2 else None,
    lambda _: 0,
    lambda item: item or None,
]
FOLDS: Sequence[Callable[[int, int], int | None]] = [
    lambda state, item: state + item,
    max,
    lambda state, item: state - item if item % 3 else None,
]
predicates, changes, folds = st.sampled_from(PREDICATES), st.sampled_from(CHANGES), st.sampled_from(FOLDS)


def run(pipeline: Pipeline, items: Sequence[Any]) -> list[Any]:
    """Return what comes out of *pipeline*, which is asked for no more once it has ended."""
    out: list[Any] = []
    for item in items:
        if pipeline.ended:
            break
        found = pipeline.push(item)
        if found is not SKIPPED:
            out.append(found)
    return out


@given(ITEMS, predicates, predicates)
def test_p41_law_two_filters_are_one_that_asks_both(items: list[int], first: Any, second: Any) -> None:
    fused = Pipeline().filter(lambda item: first(item) and second(item))
    assert run(Pipeline().filter(first).filter(second), items) == run(fused, items)
    assert run(Pipeline().filter(first), items) == list(filter(first, items))


@given(ITEMS, changes, changes)
def test_p41_law_two_maps_are_one_of_both(items: list[int], first: Any, second: Any) -> None:
    def both(item: int) -> Any:
        between = first(item)
        return None if between is None else second(between)

    assert run(Pipeline().map(first).map(second), items) == run(Pipeline().map(both), items)
    assert run(Pipeline().map(first), items) == [new for item in items if (new := first(item)) is not None]


@given(ITEMS, st.integers(0, 12), st.integers(0, 12))
def test_p41_law_two_takes_are_one_of_the_smaller(items: list[int], first: int, second: int) -> None:
    assert run(Pipeline().take(first).take(second), items) == items[: min(first, second)]


@given(ITEMS, st.integers(-5, 5))
def test_p41_law_scan_is_accumulate(items: list[int], start: int) -> None:
    sums = list(accumulate(items, initial=start))[1:]
    assert run(Pipeline().scan(start, lambda state, item: state + item), items) == sums


OPERATORS = st.one_of(
    st.tuples(st.just("filter"), predicates),
    st.tuples(st.just("map"), changes),
    st.tuples(st.just("scan"), folds),
    st.tuples(st.just("take"), st.integers(0, 10)),
)


def on_a_stream(operator: Any, items: Iterator[int]) -> Iterator[int]:
    """Do to an iterator what an operator does to a subscription."""
    match operator:
        case ("filter", keep):
            yield from filter(keep, items)
        case ("map", change):
            yield from (new for item in items if (new := change(item)) is not None)
        case ("scan", fold):
            state = 7
            for item in items:
                new = fold(state, item)
                if new is not None:
                    state = new
                    yield new
        case ("take", count):
            for _, item in zip(range(count), items, strict=False):
                yield item


def added(to: Any, operator: Any) -> Any:
    """Add an operator to a pipeline or a subscription."""
    name, argument = operator
    return to.scan(7, argument) if name == "scan" else getattr(to, name)(argument)


@given(ITEMS, st.lists(OPERATORS, max_size=6))
def test_p41_law_any_composition_is_that_of_the_plain_functions(items: list[int], operators: list[Any]) -> None:
    pipeline, wanted = Pipeline(), iter(items)
    for operator in operators:
        pipeline, wanted = added(pipeline, operator), on_a_stream(operator, wanted)
    assert run(pipeline, items) == list(wanted)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 4), max_size=6), st.lists(OPERATORS, max_size=4))
def test_p41_law_a_subscription_delivers_it_however_the_events_come(
    store: Store, counts: list[int], operators: list[Any]
) -> None:
    start = store.stats().next_global_sequence
    subscription: Any = sequences(store)
    wanted: Iterator[int] = iter(range(start, start + sum(counts)))
    for operator in operators:
        subscription, wanted = added(subscription, operator), on_a_stream(operator, wanted)
    got = []
    for count in counts:
        grow(store, count)
        got += there(subscription)
    assert got == list(wanted)
