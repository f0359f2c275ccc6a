"""The command as a user types it: what it prints, where, and how it exits."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from typer.testing import CliRunner, Result

from batpak import Coordinate, EventKind, ReadOnlyStore, Region, Store, StoreConfig
from batpak.cli.app import app
from batpak.cli.screen import quiet_log
from batpak.storage import watermark
from tests.cli.stores import life
from tests.cli.test_check import fingerprint, place_file_of_version_9
from tests.store.processes import ROOT, start_python, told

PLACED = EventKind(0x1, 0x001)
TIMEOUT_SECONDS = 60
COMMANDS = ("demo", "info", "log", "tail", "verify", "anchor", "recover")


def batpak(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="batpak")


def printed(*arguments: object, code: int = 0) -> str:
    done = batpak(*arguments)
    assert done.exit_code == code, done.output
    return done.stdout


def objects(*arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed(*arguments).splitlines()]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "batpak.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """As the command does in its own process: the store logs nothing."""
    quiet_log()
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal that `batpak demo` made."""
    journal = tmp_path_factory.mktemp("demo") / "journal"
    printed("demo", journal)
    return journal


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal of several segments."""
    with Store.open(tmp_path / "journal", config=StoreConfig(segment_bytes=4096)) as store:
        for number in range(40):
            store.append(Coordinate(f"order:{number % 3}", "shop"), PLACED, {"n": number, "raw": b"x" * 200})
        cursor = store.cursor(Region(), name="all")
        cursor.poll_batch(40)
        cursor.commit()
        cursor.close()
    return tmp_path / "journal"


def damage(journal: Path, segment: int = 2, at: int = 1000) -> None:
    path = journal / f"{segment:06}.fbat"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))


# What a newcomer does


def test_every_command_that_the_demo_says_to_try_works(tmp_path: Path) -> None:
    journal = tmp_path / "here"
    said = printed("demo", journal)
    assert said.startswith("375 events of 100 orders are in ")
    tried = [line.split()[1:] for line in said.splitlines()[1:]]
    assert {words[0] for words in tried} == set(COMMANDS) - {"demo", "anchor"}
    for words in tried:
        if words[0] == "tail":
            continue
        if words[0] == "verify":
            words[3:] = [printed("anchor", journal).strip()]
        assert printed(*words)


def test_demo_wants_a_place_of_its_own(demo: Path) -> None:
    done = batpak("demo", demo)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "found a store with events, expected a new or an empty directory" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str) -> None:
    assert "Usage: batpak" in printed(name, "--help")


def test_the_exit_codes_are_told() -> None:
    said = " ".join(printed("--help").split())
    assert "Exit codes: 0 it is done, or nothing is wrong; 1 the store is damaged" in said
    assert "2 the command could not do its work" in said
    assert "Ctrl-C ends it, with exit code 0" in " ".join(printed("tail", "--help").split())


# Looking


def test_info_tells_what_the_store_tells(demo: Path) -> None:
    (form,) = objects("info", demo, "--json")
    with ReadOnlyStore.open(demo) as store:
        stats = store.stats()
    assert form["stats"]["events"] == stats.events == 375
    assert form["formats"] == [2]
    assert (form["holder"], form["held"]) == (None, None)
    places = {place["name"]: place for place in form["places"]}
    assert places["invoices"]["lag_events"] == 0
    assert places["stock"]["lag_events"] == 175
    assert places["stock"]["region"] == {"scope": "shop"}
    text = printed("info", demo)
    assert "events:   375\n" in text
    assert "writer:   nobody\n" in text
    assert max(map(len, text.splitlines())) < 120


def test_info_names_who_holds_the_lock_and_who_was_killed(tmp_path: Path) -> None:
    program = """
        import sys
        from batpak import Coordinate, EventKind, Store
        store = Store.open(sys.argv[1])
        store.append(Coordinate("a", "s"), EventKind(1, 1), 1)
        print("open", flush=True)
        sys.stdin.readline()
    """
    with start_python(program, tmp_path / "journal") as writer:
        assert told(writer) == "open"
        (form,) = objects("info", tmp_path / "journal", "--json")
        assert form["holder"].startswith(f"process {writer.pid} on ")
        if Path("/proc/locks").exists():
            assert form["held"] is True
        writer.kill()
        writer.wait(TIMEOUT_SECONDS)
        (form,) = objects("info", tmp_path / "journal", "--json")
        assert form["holder"].startswith(f"process {writer.pid} on ")
        if Path("/proc/locks").exists():
            assert form["held"] is False
            assert "it was killed" in printed("info", tmp_path / "journal")


def test_log_selects_as_read_does(demo: Path) -> None:
    with ReadOnlyStore.open(demo) as store:
        for options, region, others in [
            ((), Region(), {}),
            (("--entity", "order:42"), Region(entity="order:42"), {}),
            (("--scope", "billing", "--limit", 3), Region(scope="billing"), {"limit": 3}),
            (("--kind", "0x1002", "--reverse"), Region(kind=EventKind(1, 2)), {"reverse": True}),
            (("--after", 300), Region(), {"after": 300}),
            (("--system",), Region(include_system=True), {}),
        ]:
            wanted = [str(event.event_id) for event in store.read(region, **others)]  # type: ignore[arg-type]
            assert [form["event_id"] for form in objects("log", demo, "--json", *options)] == wanted
            assert len(printed("log", demo, *options).splitlines()) == len(wanted)
        place = next(store.read(Region(entity="order:42"))).place
        found = objects("log", demo, "--json", "--after", place, "--limit", 1)
        assert found[0]["global_sequence"] == place.global_sequence + 1


def test_payloads_are_shown_when_they_are_asked_for(journal: Path) -> None:
    (form,) = objects("log", journal, "--limit", 1, "--payload", "--json")
    assert form["payload"]["n"] == 0
    assert list(form["payload"]["raw"]) == ["$bytes"]
    assert "payload" not in objects("log", journal, "--limit", 1, "--json")[0]
    assert '{"n": 0, "raw": {"$bytes": ' in printed("log", journal, "--limit", 1, "--payload")


def test_tail_shows_what_another_process_writes_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Store.open(journal) as store:
        store.append(Coordinate("a", "s"), PLACED, "before")
        arguments = command("tail", journal, "--json", "--payload", "--after", 0, "--durable")
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment()) as tail:
            assert tail.stdout is not None
            for number in range(3):
                store.append(Coordinate("a", "s"), PLACED, number, durable=True)
                form = json.loads(tail.stdout.readline())
                assert (form["global_sequence"], form["payload"]) == (number + 1, number)
            tail.send_signal(signal.SIGINT)
            assert tail.wait(TIMEOUT_SECONDS) == 0
            assert tail.stdout.read() == ""


def test_a_reader_that_goes_away_is_no_traceback(demo: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command("log", demo, "--payload", "--json"),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


# Care


def test_verify_says_sound(journal: Path) -> None:
    before = fingerprint(journal)
    said = printed("verify", journal)
    assert said.startswith(f"sound: {journal}\n  40 events proven, in ")
    (form,) = objects("verify", journal, "--json")
    assert (form["verdict"], form["events"], form["places"]) == ("sound", 40, 1)
    assert fingerprint(journal) == before


def test_verify_names_the_first_damage_and_the_way_on(journal: Path) -> None:
    damage(journal)
    said = printed("verify", journal, code=1)
    assert said.startswith(f"DAMAGED: {journal}\n")
    assert "  first damage: 000002.fbat at byte " in said
    assert "    found:    a frame whose checksum is wrong\n" in said
    assert f"batpak recover {journal} --keep-prefix" in said
    done = batpak("verify", journal, "--json")
    form = json.loads(done.stdout)
    assert (done.exit_code, form["verdict"], form["damage"]["file"]) == (1, "damaged", "000002.fbat")


def test_verify_says_what_an_open_will_do(journal: Path) -> None:
    last = max(journal.glob("*.fbat"))
    end = last.stat().st_size
    last.write_bytes(last.read_bytes() + b"\0\0\0\x09torn")
    said = printed("verify", journal)
    assert said.startswith("sound, and the next open has something to do: ")
    assert f"  an open will cut {last.name} at byte {end}, copied to quarantine/" in said
    said = printed("recover", journal, "--dry-run")
    assert said.startswith(f"An open would\n  cut 8 bytes off {last.name} at byte {end}, copied to quarantine/")
    said = printed("recover", journal)
    assert said.startswith(f"cut 8 bytes off {last.name} at byte {end}: quarantine/")
    assert printed("verify", journal).startswith("sound: ")
    assert "  aside: quarantine/" in printed("verify", journal)


def test_an_anchor_is_printed_and_checked(journal: Path) -> None:
    token = printed("anchor", journal).strip()
    (form,) = objects("anchor", journal, "--json")
    assert form == {"anchor": token, "events": 40}
    assert "  the anchor holds\n" in printed("verify", journal, "--anchor", token)
    other = printed("anchor", journal.parent / "other", code=2)
    assert other == ""
    with Store.open(journal.parent / "other") as store:
        for number in range(40):
            store.append(Coordinate(f"order:{number % 3}", "shop"), PLACED, number)
    said = printed("verify", journal.parent / "other", "--anchor", token, code=1)
    assert "the anchor does NOT hold" in said
    assert batpak("verify", journal, "--anchor", "no").exit_code == 2


def test_a_store_that_refuses_is_told_of_kept_in_part_and_opens(journal: Path) -> None:
    damage(journal, at=1)
    said = printed("recover", journal, "--dry-run", code=1)
    assert said.startswith("An open would refuse, and change nothing:\n  000002.fbat at byte 0: found ")
    assert f"  batpak recover {journal} --keep-prefix\n" in said
    refused = batpak("recover", journal)
    assert refused.exit_code == 1
    assert "000002.fbat at byte 0" in refused.stderr
    before = fingerprint(journal)
    said = printed("recover", journal, "--keep-prefix", code=1)
    assert "would be kept: " in said
    assert said.endswith(f"  batpak recover {journal} --keep-prefix --accept-loss\n")
    assert printed("recover", journal, "--keep-prefix", "--accept-loss", "--dry-run", code=1) == said
    assert fingerprint(journal) == before
    said = printed("recover", journal, "--keep-prefix", "--accept-loss")
    assert "  kept: " in said
    assert "named place 'all' was ahead of that" in said
    assert "  moved 000002.fbat to quarantine/000002-" in said
    assert printed("verify", journal).startswith("sound: ")
    assert printed("recover", journal).startswith("opened (rebuild) and closed: ")
    done = batpak("recover", journal, "--keep-prefix", "--accept-loss")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no event of this store is damaged" in done.stderr


def test_reports_of_recover_are_json_too(journal: Path) -> None:
    (plan,) = objects("recover", journal, "--dry-run", "--json")
    assert (plan["refusal"], plan["tail_events"]) == (None, 40)
    (report,) = objects("recover", journal, "--json")
    assert report["tail_events"] == 40
    damage(journal)
    done = batpak("recover", journal, "--keep-prefix", "--json")
    assert (done.exit_code, json.loads(done.stdout)["done"]) == (1, False)
    (report,) = objects("recover", journal, "--keep-prefix", "--accept-loss", "--json")
    assert report["done"] is True
    assert report["lost_at_most"] == 40 - report["kept_events"]


# What cannot be done


def test_what_is_no_store_is_refused_with_code_2_and_nothing_is_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for name in ("info", "log", "tail", "verify", "anchor", "recover"):
        for where in ("empty", "file", "nowhere"):
            done = batpak(name, tmp_path / where)
            assert (done.exit_code, done.stdout) == (2, ""), (name, where)
            assert done.stderr.startswith("batpak: directory ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
    assert not list((tmp_path / "empty").iterdir())


def test_a_store_of_newer_software_is_code_2(tmp_path: Path) -> None:
    for name, data in place_file_of_version_9(life(2).closed).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    for arguments in (("verify",), ("info",), ("recover", "--dry-run"), ("recover", "--keep-prefix", "--accept-loss")):
        done = batpak(arguments[0], tmp_path, *arguments[1:])
        assert done.exit_code == 2
        assert done.stderr == f"batpak: {watermark.NAME}: found format version 9, expected version 1\n"


def test_recover_wants_the_lock_and_nothing_else_does(journal: Path) -> None:
    with Store.open(journal):
        for arguments in (("recover",), ("recover", "--keep-prefix", "--accept-loss")):
            done = batpak(arguments[0], journal, *arguments[1:])
            assert done.exit_code == 2
            assert f"found it locked by process {os.getpid()}" in done.stderr
        for name in ("info", "log", "verify", "anchor"):
            printed(name, journal)


@pytest.mark.parametrize(
    "arguments",
    [("log", "--kind", "x"), ("log", "--kind", "0x10000"), ("log", "--after", "x.y"), ("recover", "--accept-loss")],
)
def test_wrong_arguments_are_code_2(journal: Path, arguments: tuple[str, ...]) -> None:
    done = batpak(arguments[0], journal, *arguments[1:])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr


def test_a_damaged_store_is_code_1_for_who_reads_it(journal: Path) -> None:
    damage(journal)
    done = batpak("log", journal)
    assert done.exit_code == 1
    assert f"what is damaged first, and what to do then: batpak verify {journal}" in done.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_packages_it_says_in_one_line_what_to_install(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from batpak.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'batpak: found no typer and rich, expected both: pip install "batpak[cli]"\n'


def test_it_is_installed_as_a_command() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"batpak": "batpak.cli:main"}
    assert {entry.partition(">")[0] for entry in project["optional-dependencies"]["cli"]} == {"rich", "typer"}


# Terminals


PROGRESS = """
import sys
import batpak.cli.screen as screen
import batpak.storage.examination as examination
screen.PATIENCE_SECONDS = float(sys.argv.pop(1))
examination.PROGRESS_EVENTS = 2
from batpak.cli import main
main()
"""


@pytest.mark.parametrize(("patience", "shown"), [("-1", True), ("1000", False)], ids=["long", "short"])
def test_on_a_terminal_what_takes_long_shows_how_far_it_is(journal: Path, patience: str, *, shown: bool) -> None:
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-c", PROGRESS, patience, "verify", str(journal)]
    environ = environment() | {"TERM": "xterm", "COLUMNS": "80"}
    done = subprocess.run(
        arguments, stdout=subprocess.PIPE, stderr=theirs, text=True, env=environ, timeout=TIMEOUT_SECONDS, check=False
    )
    os.close(theirs)
    seen = b""
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:  # how a terminal ends
        pass
    os.close(ours)
    assert done.returncode == 0
    assert done.stdout.startswith("sound: ")
    assert (b"checking" in seen) is shown


def test_elsewhere_there_is_no_bar_and_no_colour(journal: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRESS, "-1", "verify", str(journal)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
