"""Settings: defaults, limits exactly at and one past, and typed refusals."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from batpak.clock import SystemClock
from batpak.config import RestartPolicy, StoreConfig
from batpak.errors import InvalidConfigError
from batpak.testing.clock import HandClock

DAY = 86_400.0


def with_setting(field: str, value: object) -> StoreConfig:
    change: dict[str, Any] = {field: value}
    return replace(StoreConfig(), **change)


def refusal(field: str, value: object) -> InvalidConfigError:
    with pytest.raises(InvalidConfigError) as caught:
        with_setting(field, value)
    assert caught.value.field == field
    return caught.value


def test_the_defaults_are_those_of_the_documentation() -> None:
    config = StoreConfig()
    assert {field.name: getattr(config, field.name) for field in fields(config)} == {
        "durable": False,
        "segment_bytes": 64 * 1024 * 1024,
        "sync_every_events": 1000,
        "sync_every_seconds": 1.0,
        "segment_format": None,
        "max_payload_bytes": 16 * 1024 * 1024,
        "max_batch_events": 4096,
        "max_batch_bytes": 8 * 1024 * 1024,
        "mailbox_capacity": 4096,
        "restart": RestartPolicy.once(),
        "driver": "assisted",
        "append_on_loop": False,
        "clock": SystemClock(),
        "verify_on_open": "recovery",
        "slow_command_seconds": 0.5,
    }


@pytest.mark.parametrize(
    ("field", "lowest", "highest"),
    [
        ("segment_bytes", 4096, 2**30),
        ("sync_every_events", 1, 1_000_000),
        ("max_payload_bytes", 1, 2**26),
        ("max_batch_events", 1, 65_536),
        ("max_batch_bytes", 1, 2**26),
        ("mailbox_capacity", 1, 2**20),
    ],
)
def test_an_int_is_accepted_at_its_limits_and_refused_one_past(field: str, lowest: int, highest: int) -> None:
    for value in (lowest, highest):
        assert getattr(with_setting(field, value), field) == value
    for value in (lowest - 1, highest + 1):
        error = refusal(field, value)
        assert (error.found, error.expected) == (str(value), f"an int from {lowest} to {highest}")
    for wrong in (True, 4096.0, "4096", None):
        assert refusal(field, wrong).found == repr(wrong)


@pytest.mark.parametrize("field", ["sync_every_seconds", "slow_command_seconds"])
def test_seconds_are_above_0_and_at_most_a_day(field: str) -> None:
    for value in (1e-9, 1, DAY):
        assert getattr(with_setting(field, value), field) == value
    for wrong in (0, -1.0, DAY + 0.001, float("nan"), float("inf"), True, "1", None):
        error = refusal(field, wrong)
        assert (error.found, error.expected) == (repr(wrong), "a number above 0, at most 86400")


@pytest.mark.parametrize("field", ["durable", "append_on_loop"])
def test_a_switch_is_a_bool(field: str) -> None:
    assert getattr(with_setting(field, True), field) is True
    for wrong in (0, 1, None, "yes"):
        error = refusal(field, wrong)
        assert (error.found, error.expected) == (repr(wrong), "a bool")


@pytest.mark.parametrize(
    ("field", "choices", "wrong"),
    [
        ("segment_format", (None, 1, 2), (0, 3, True, 1.0, "2")),
        ("driver", ("assisted", "threaded", "stepped"), ("", "Assisted", None, 1)),
        ("verify_on_open", ("recovery", "checksums", "chain"), ("none", None, True)),
    ],
)
def test_a_choice_is_one_of_its_values(field: str, choices: tuple[object, ...], wrong: tuple[object, ...]) -> None:
    for choice in choices:
        assert getattr(with_setting(field, choice), field) == choice
    for value in wrong:
        error = refusal(field, value)
        assert (error.found, error.expected) == (repr(value), " or ".join(map(repr, choices)))


def test_a_clock_is_anything_with_both_methods() -> None:
    clock = HandClock()
    assert StoreConfig(clock=clock).clock is clock
    for wrong in (None, object(), SystemClock):
        assert refusal("clock", wrong).expected == "a Clock, with now_us() and monotonic()"


def test_a_restart_policy_is_a_value_of_its_type() -> None:
    for wrong in (None, "once", RestartPolicy, 1):
        assert refusal("restart", wrong).expected == "a RestartPolicy"


def test_a_restart_policy_has_three_spellings() -> None:
    assert RestartPolicy.never() == RestartPolicy(0, None)
    assert RestartPolicy.once() == RestartPolicy(1, None)
    assert RestartPolicy.bounded(5, 60) == RestartPolicy(5, 60.0)


def test_a_restart_policy_is_refused_one_past_its_limits() -> None:
    assert RestartPolicy(1000, DAY).max_restarts == 1000
    for wrong in (-1, 1001, True, 1.0, None):
        with pytest.raises(InvalidConfigError) as caught:
            RestartPolicy(wrong)  # type: ignore[arg-type]
        assert caught.value.field == "max_restarts"
        assert caught.value.expected == "an int from 0 to 1000"
    for seconds in (0, -1, DAY + 1, float("nan"), "1"):
        with pytest.raises(InvalidConfigError) as caught:
            RestartPolicy.bounded(1, seconds)  # type: ignore[arg-type]
        assert caught.value.field == "within_seconds"


def test_a_long_value_is_shortened_in_the_message() -> None:
    assert len(str(refusal("driver", "x" * 100_000))) < 200


def test_settings_take_keywords_only_and_cannot_be_changed() -> None:
    assert all(field.kw_only for field in fields(StoreConfig))
    with pytest.raises(FrozenInstanceError):
        StoreConfig().durable = True  # type: ignore[misc]


def test_settings_compare_hash_and_pickle_by_value() -> None:
    config = StoreConfig(durable=True, restart=RestartPolicy.bounded(3, 10))
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert hash(again) == hash(config)
    assert config != StoreConfig()
