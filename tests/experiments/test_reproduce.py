"""`gradlab reproduce` as a person uses it, on claims that cost nothing, and what it keeps between calls."""

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import experiments.main
from experiments import report as reports
from experiments.claims.claim import FULL, QUICK
from experiments.report import catalogue, fingerprint, measurement, outcome
from experiments.report.catalogue import Entry
from experiments.report.measurement import ClaimTask, Measurement
from experiments.report.store import Store, locked
from lab.machine import pool
from tests.conftest import Command, Outcome
from tests.experiments import fake_claims

REPOSITORY = Path(__file__).parents[2]
DRAW = outcome.draw
IDS = ["slope", "rate", "cost", "training"]
REACHED = {"slope": "holds", "rate": "holds with a condition", "cost": "does not hold", "training": "holds"}
PATIENCE = 60  # seconds until something that should have happened counts as missing


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the fake claims, which are all there are, note what they do; no verdict is on record."""
    folder = tmp_path / "world"
    folder.mkdir()
    monkeypatch.setenv(fake_claims.WORLD, str(folder))
    monkeypatch.setattr(catalogue, "MODULES", ("tests.experiments.fake_claims",))
    monkeypatch.setattr(catalogue, "RECORDED", tmp_path / "recorded.json")
    monkeypatch.setitem(experiments.main.COMMANDS, "reproduce", "examine the guide's claims")
    return folder


@pytest.fixture
def reproduce(gradlab: Command, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command with claims measured in this process, one after the other, and no pictures, which take time."""
    run_tasks = pool.run_tasks
    monkeypatch.setattr(pool, "run_tasks", lambda run, tasks, workers, on_start: run_tasks(run, tasks, 0, on_start))
    monkeypatch.setattr(outcome, "draw", lambda _: b"")

    def call(*words: str) -> Outcome:
        return gradlab("reproduce", *words, "--folder", str(tmp_path / "found"))

    return call


def measured(world: Path) -> list[str]:
    """Ids of the claims that were measured, in order, once for each time."""
    notes = sorted(world.glob("*.begun"), key=lambda note: int(note.stem.split("-")[1]))
    return [note.stem.split("-")[0] for note in notes]


def verdicts(tmp_path: Path) -> dict[str, str]:
    return {claim["id"]: claim["verdict"] for claim in claims_of(tmp_path)}


def claims_of(tmp_path: Path) -> list[dict[str, Any]]:
    return json.loads((tmp_path / "found" / "claims.json").read_text())["claims"]


@pytest.fixture
def drawn(reproduce: Command, monkeypatch: pytest.MonkeyPatch):
    """Have pictures drawn all the same, of few points."""
    monkeypatch.setattr(outcome, "draw", DRAW)
    monkeypatch.setattr(outcome, "DPI", 20)


def put_on_record(tmp_path: Path, **changed: str) -> None:
    (tmp_path / "recorded.json").write_text(json.dumps(REACHED | changed))


# --- verdicts and exit codes ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("drawn")
def test_every_claim_at_its_verdict_on_record_is_success(reproduce: Command, tmp_path: Path):
    put_on_record(tmp_path)
    done = reproduce()
    assert done.status == 0
    assert verdicts(tmp_path) == REACHED
    told = done.out.splitlines()
    assert told[0].startswith("4 claims in ")
    assert [line.strip() for line in told[1:5]] == [
        *("✓ holds: 2", "◐ holds with a condition: 1", "✗ does not hold: 1", "? not decided here: 0")
    ]
    assert told[5:] == [str(tmp_path / "found" / name) for name in ("report.html", "report.md", "claims.json")]
    assert all((tmp_path / "found" / "figures" / f"{id_}.png").read_bytes().startswith(b"\x89PNG") for id_ in IDS)
    assert "3 of 4  ◐ rate: holds with a condition (0.0 s)" in [line.strip() for line in done.err.splitlines()]


def test_a_verdict_unlike_the_one_on_record_is_exit_code_1_and_named(reproduce: Command, tmp_path: Path):
    put_on_record(tmp_path, rate="holds", slope="does not hold")
    done = reproduce()
    assert done.status == 1
    assert 'slope: this run reached "holds"; the recorded verdict is "does not hold".' in done.out
    assert 'rate: this run reached "holds with a condition"; the recorded verdict is "holds".' in done.out
    assert "training:" not in done.out
    differences = {claim["id"]: claim["difference"] for claim in claims_of(tmp_path)}
    assert differences["training"] == ""
    assert differences["rate"] in done.out


def test_claims_without_a_verdict_on_record_are_a_difference_and_share_a_sentence(reproduce: Command, tmp_path: Path):
    (tmp_path / "recorded.json").write_text(json.dumps({"slope": "holds", "rate": "holds with a condition"}))
    done = reproduce()
    assert done.status == 1
    assert "No verdict is recorded for cost, training." in done.out.splitlines()


def test_a_quick_run_decides_less_and_is_not_held_against_it(reproduce: Command, tmp_path: Path, world: Path):
    put_on_record(tmp_path)
    done = reproduce("--quick")
    assert done.status == 0
    assert verdicts(tmp_path) == REACHED | {"training": "not decided here"}
    assert all(claim["command"] == f"gradlab reproduce {claim['id']} --quick" for claim in claims_of(tmp_path))
    assert {note.read_text().split()[2] for note in world.glob("*.begun")} == {"quick"}

    put_on_record(tmp_path, slope="does not hold")  # what it does decide counts
    assert reproduce("--quick").status == 1


def test_only_the_claims_that_are_named_are_examined_in_the_guides_order(reproduce: Command, tmp_path: Path):
    put_on_record(tmp_path)
    assert reproduce("cost", "slope", "cost").status == 0
    assert list(verdicts(tmp_path)) == ["slope", "cost"]


def test_a_claim_that_raises_does_not_stop_the_others(reproduce: Command, tmp_path: Path, world: Path):
    put_on_record(tmp_path)
    (world / "fail-rate").touch()
    done = reproduce()
    assert done.status == 1
    assert "rate: RuntimeError: the <b>rate</b> caught fire" in done.out.splitlines()
    assert verdicts(tmp_path) == REACHED | {"rate": "not measured"}
    (error,) = [claim["error"] for claim in claims_of(tmp_path) if claim["error"]]
    assert "Traceback" in error["traceback"]
    assert "tests/experiments/fake_claims.py" in error["traceback"]
    assert str(REPOSITORY) not in error["traceback"]

    (world / "fail-rate").unlink()
    assert reproduce().status == 0
    assert measured(world).count("rate") == 2
    assert measured(world).count("slope") == 1


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("part", ["judge", "draw"])
def test_a_claim_that_cannot_be_judged_or_drawn_is_named(
    reproduce: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
):
    def broken(*_):
        raise ValueError("no such thing")

    put_on_record(tmp_path)
    change: dict[str, Any] = {part: broken}
    changed = [replace(claim, **change) if claim.id == "rate" else claim for claim in fake_claims.CLAIMS]
    monkeypatch.setattr(fake_claims, "CLAIMS", tuple(changed))
    done = reproduce()
    assert done.status == 1
    assert "rate: ValueError: no such thing" in done.out.splitlines()
    reached = verdicts(tmp_path)
    assert reached.pop("rate") == ("not measured" if part == "judge" else "holds with a condition")
    assert reached == {id_: verdict for id_, verdict in REACHED.items() if id_ != "rate"}


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (("slop",), "slop: there is no such claim; did you mean slope?\n"),
        (("slope", "zzz"), "zzz: there is no such claim; gradlab reproduce --list names all of them.\n"),
        (("--workers", "0"), "--workers 0: give a number of at least 1.\n"),
        (("--record", "--quick"), "--record: a quick run is too small to record verdicts; leave out --quick.\n"),
    ],
)
def test_bad_input_is_answered_in_a_sentence_and_nothing_is_written(
    reproduce: Command, tmp_path: Path, words: tuple[str, ...], answer: str
):
    refused = reproduce(*words)
    assert (refused.status, refused.out, refused.err) == (2, "", answer)
    assert not (tmp_path / "found").exists()


def test_a_folder_without_a_name_is_refused(gradlab: Command, world: Path, tmp_path: Path):
    refused = gradlab("reproduce", "--folder", "")
    assert (refused.status, refused.err) == (2, "--folder: give the name of a folder, or leave out the flag.\n")
    assert measured(world) == []
    assert not (tmp_path / "runs").exists()


def test_a_file_in_the_place_of_the_samples_is_refused_before_anything_is_measured(
    reproduce: Command, tmp_path: Path, world: Path
):
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "samples").touch()
    refused = reproduce()
    assert (refused.status, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert refused.err.startswith(f"--folder {tmp_path / 'found'}: cannot be written to (")
    assert measured(world) == []


def test_a_folder_in_the_place_of_the_report_costs_only_the_report(reproduce: Command, tmp_path: Path, world: Path):
    put_on_record(tmp_path)
    (tmp_path / "found" / "report.html").mkdir(parents=True)
    done = reproduce()
    assert done.status == 1
    assert done.err.splitlines()[-1].startswith("The report is incomplete (Is a directory: ")
    (tmp_path / "found" / "report.html").rmdir()
    assert reproduce().status == 0
    assert len(measured(world)) == 4


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that nobody can make one in")
def test_a_folder_that_cannot_be_made_is_refused(gradlab: Command, world: Path):
    refused = gradlab("reproduce", "--folder", "/proc/found")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert refused.err.startswith("--folder /proc/found: cannot be written to (")
    assert measured(world) == []


def test_two_runs_do_not_share_a_folder(reproduce: Command, tmp_path: Path, world: Path):
    with locked(tmp_path / "found"):
        refused = reproduce()
        assert refused.status == 2
        assert "another gradlab reproduce is running there" in refused.err
        assert measured(world) == []
    put_on_record(tmp_path)
    assert reproduce().status == 0


@pytest.mark.parametrize("words", ["", "[]", '{"rate": 1}', "{"])
def test_a_broken_record_is_refused_with_the_remedy(reproduce: Command, tmp_path: Path, world: Path, words: str):
    (tmp_path / "recorded.json").write_text(words)
    for call in (reproduce, lambda: reproduce("--list"), lambda: reproduce("--quick")):
        refused = call()
        assert (refused.status, refused.out) == (2, "")
        assert refused.err.startswith(f"{tmp_path / 'recorded.json'}: ")
        assert "restore the file with git checkout" in refused.err
    assert measured(world) == []
    assert not (tmp_path / "found").exists()


def test_a_disk_that_fills_up_costs_what_does_not_fit_and_says_so(
    reproduce: Command, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
):
    put_on_record(tmp_path)
    save = Store.save

    def full(self: Store, id_: str, key: str, found: Measurement) -> None:
        if id_ == "rate":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, id_, key, found)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", full)
        done = reproduce()
    assert done.status == 1
    folder = tmp_path / "found" / "samples"
    assert done.err.splitlines()[-1] == f"rate: the samples could not be saved in {folder} (No space left on device)."
    assert verdicts(tmp_path) == REACHED  # it was judged all the same
    assert reproduce().status == 0
    assert [id_ for id_ in measured(world) if measured(world).count(id_) == 2] == ["rate", "rate"]


def test_a_report_that_cannot_be_written_is_told_and_what_was_measured_is_kept(
    reproduce: Command, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
):
    put_on_record(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "report.html")

    with monkeypatch.context() as patch:
        patch.setattr(reports, "_put", full)
        done = reproduce()
    assert done.status == 1
    assert done.out.splitlines()[0].startswith("4 claims in ")
    assert done.err.splitlines()[-1].startswith("The report is incomplete (No space left on device: report.html);")
    assert reproduce().err.splitlines()[0] == "4 of 4 claims are already measured."
    assert len(measured(world)) == 4


def test_a_folder_that_cannot_be_one_is_refused(reproduce: Command, tmp_path: Path, world: Path):
    (tmp_path / "found").write_text("a file")
    refused = reproduce()
    assert refused.status == 2
    assert refused.err.startswith(f"--folder {tmp_path / 'found'}: ")
    assert measured(world) == []


def test_verdicts_are_put_on_record_in_a_checkout_only(
    reproduce: Command, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(catalogue, "REPOSITORY", tmp_path)
    refused = reproduce("--record")
    assert (refused.status, refused.err.partition(":")[0]) == (2, "--record")
    assert measured(world) == []


# --- listing --------------------------------------------------------------------------------------------------------


def test_the_list_names_each_claim_with_section_statement_and_verdict(reproduce: Command, tmp_path: Path, world: Path):
    (tmp_path / "recorded.json").write_text(json.dumps({"rate": "does not hold"}))
    listed = reproduce("--list")
    lines = [line.split() for line in listed.out.splitlines()]
    assert listed.status == 0
    assert [line[0] for line in lines] == ["claim", *IDS]
    assert " ".join(lines[2]) == "rate 2.3 The *rate* is < 1 & bounded by a_b. does not hold"
    assert lines[1][-1] == "none"
    assert measured(world) == []
    assert not (tmp_path / "found").exists()


def test_listing_the_guides_claims_imports_nothing_heavy():
    script = (
        "import sys\nfrom experiments.reproduce import main\nstatus = main(['--list'])\n"
        "assert status == 0\nprint(sorted({'torch', 'matplotlib', 'xarray', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_an_interrupted_run_keeps_what_it_measured_and_the_next_goes_on(
    reproduce: Command, tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
):
    put_on_record(tmp_path)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fake_claims, "CLAIMS", (replace(fake_claims.CLAIMS[0], measure=stop), *fake_claims.CLAIMS[1:]))
        stopped = reproduce()
    assert stopped.status == 130
    assert stopped.err.splitlines()[-1].startswith("Interrupted; samples are saved in ")
    assert measured(world) == ["training"]  # which is begun first, as it trains
    assert sorted(path.name for path in (tmp_path / "found").rglob("*")) == ["samples", "training.npz"]

    went_on = reproduce()
    assert went_on.status == 0
    assert went_on.err.splitlines()[0] == "1 of 4 claims are already measured."
    assert went_on.out.splitlines()[0].endswith(", 1 of them measured earlier:")
    assert sorted(measured(world)) == sorted(IDS)
    assert verdicts(tmp_path) == REACHED


def test_again_measures_again_and_only_what_is_named(reproduce: Command, world: Path):
    reproduce()
    reproduce("--again", "rate")
    reproduce()
    assert {id_: measured(world).count(id_) for id_ in IDS} == {"slope": 1, "rate": 2, "cost": 1, "training": 1}


def test_a_full_run_does_not_take_a_quick_runs_samples(reproduce: Command, world: Path):
    reproduce("--quick")
    reproduce()
    assert len(measured(world)) == 8


def damage(kind: str, path: Path) -> None:
    whole = path.read_bytes()
    if kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "flipped":
        middle = whole.index(b"samples/") + 40  # within the first array
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "objects":
        np.savez(path, about=np.array([{"key": "x"}], dtype=object), allow_pickle=True)
    elif kind == "no origin":
        np.savez(path, about=np.array("{}"))
    elif kind == "an array less":
        with np.load(path) as stored:
            np.savez(path, about=stored["about"])


@pytest.mark.parametrize("kind", ["cut", "flipped", "empty", "objects", "no origin", "an array less"])
def test_damaged_samples_are_measured_again(reproduce: Command, tmp_path: Path, world: Path, kind: str):
    put_on_record(tmp_path)
    reproduce()
    damage(kind, tmp_path / "found" / "samples" / "rate.npz")
    again = reproduce()
    assert again.status == 0
    assert again.err.splitlines()[0] == "3 of 4 claims are already measured."
    assert measured(world).count("rate") == 2
    assert reproduce().err.splitlines()[0] == "4 of 4 claims are already measured."


def test_samples_are_stored_exactly_and_only_their_own_key_reads_them(tmp_path: Path):
    store = Store(tmp_path / "samples")
    samples = {"file": np.array([1e-300, np.nan, -np.inf]), "about": np.arange(6.0).reshape(2, 3), "": np.array(0.1)}
    store.save("x", "key", Measurement(samples, 1.5, "2026-01-02T03:04:05+00:00", "a machine", ("W: careful",)))
    found = store.load("x", "key")
    assert found is not None
    assert (found.seconds, found.date, found.machine) == (1.5, "2026-01-02T03:04:05+00:00", "a machine")
    assert found.warnings == ("W: careful",)
    assert list(found.samples) == list(samples)
    for name, values in samples.items():
        assert found.samples[name].dtype == np.float64
        np.testing.assert_array_equal(found.samples[name], values)
    assert store.load("x", "another key") is None
    assert store.load("y", "key") is None
    assert store.seconds("x") == 1.5
    assert [path.name for path in store.folder.iterdir()] == ["x.npz"]


# --- which code made them -------------------------------------------------------------------------------------------

MODULE = '''
"""A topic."""
from functools import partial
from topics.helpers import center
from experiments.claims.claim import Claim, Judgement, Verdict
FACTOR = 2.0
def measure(scale):
    """Measure something."""
    if scale.replicas < 1:
        raise ValueError(f"There are {scale.replicas} replicas.", "unusable")
    return {"x": twice(center(scale))}
def twice(x, power=1):
    return FACTOR * x**power  # a comment
def other(factor, scale):
    import topics.more as more
    return {"x": more.noise(factor)}
def claim(id, measure, statement="It is so."):
    return Claim(id, "1", statement, "l", "s", "q", "r", "c", measure, lambda samples: None, lambda *_: None)
CLAIMS = (claim("plain", measure), claim("bound", partial(other, 3.0)))
'''
HELPERS = "def center(scale):\n    return float(scale.replicas)\n"
MORE = "def noise(x):\n    return x\n"
UNRELATED = "def unused():\n    return 1\n"


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Keys of two claims of a topic that is written with replacements in its own source and that of its helpers."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it would be taken for that of the next version
    monkeypatch.setattr(catalogue, "MODULES", ("topics.topic",))
    (tmp_path / "topics").mkdir()

    def write(*changes: tuple[str, str], scale=FULL) -> list[str]:
        sources = {"__init__": "", "topic": MODULE, "helpers": HELPERS, "more": MORE, "unrelated": UNRELATED}
        for old, new in changes:
            assert sum(old in source for source in sources.values()) == 1
            sources = {name: source.replace(old, new) for name, source in sources.items()}
        for name, source in sources.items():
            (tmp_path / "topics" / f"{name}.py").write_text(source)
        for name in [name for name in sys.modules if name.partition(".")[0] == "topics"]:
            monkeypatch.delitem(sys.modules, name)
        for clear in (fingerprint._code.cache_clear, fingerprint._imports.cache_clear, importlib.invalidate_caches):
            clear()
        return [fingerprint.fingerprint(entry, scale) for entry in catalogue.catalogue().values()]

    return write


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR = 2.0", "FACTOR = 2.5"),  # a number
        ("FACTOR * x", "FACTOR + x"),  # an operator
        ("power=1", "power=2"),  # a default
        ("twice(center(scale))", "abs(center(scale))"),  # a function that is called
        ("< 1", "< 2"),  # when an exception is raised
        ("float(scale.replicas)", "float(scale.share)"),  # a helper
        ("return x\n", "return -x\n"),  # a helper that is imported within a function
        ("other, 3.0", "other, 4.0"),  # an argument that is bound
    ],
)
def test_a_key_changes_with_the_code_that_measures(keys, old: str, new: str):
    before = keys()
    assert len(set(before)) == 2
    assert keys() == before
    assert not set(keys((old, new))) & set(before)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another"),
        ('"""A topic."""', '"""Two claims."""'),
        ("Measure something.", "Measure a thing."),
        ('f"There are {scale.replicas} replicas.", "unusable"', '"No replicas."'),
        ("It is so.", "So it is."),
        ("return 1\n", "return 2\n"),  # a module that is not imported
    ],
)
def test_a_key_does_not_depend_on_words_or_unrelated_code(keys, old: str, new: str):
    assert keys((old, new)) == keys()


def test_a_key_knows_the_scale_and_the_instrument(keys, monkeypatch: pytest.MonkeyPatch):
    before = keys()
    assert not set(keys(scale=QUICK)) & set(before)
    monkeypatch.setattr(fingerprint, "_instrument", lambda: "another lab")
    assert not set(keys()) & set(before)


def test_the_instrument_is_what_a_measurement_runs_through():
    root = REPOSITORY / "lab"
    modules = [path.relative_to(root) for path in fingerprint.instrument()]
    assert all((root / path).is_file() for path in modules)
    assert {path.parts[0] for path in modules} == {part.partition("/")[0] for part in fingerprint.COMPUTES}


def test_the_keys_of_the_guides_claims_are_made_in_a_moment():
    started = time.perf_counter()
    entries = catalogue.catalogue()
    keys = {fingerprint.fingerprint(entry, FULL) for entry in entries.values()}
    assert len(keys) == len(entries)
    assert time.perf_counter() - started < 20


# --- verdicts on record ---------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "checkout"
    (folder / "docs").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    (folder / "README.md").write_text("# Lab\n\n<!-- claims -->\nold\n<!-- end of claims -->\n\nThe end\n")
    monkeypatch.setattr(catalogue, "REPOSITORY", folder)
    return folder


def on_record(tmp_path: Path) -> dict[str, str]:
    return json.loads((tmp_path / "recorded.json").read_text())


def test_recording_all_claims_writes_verdicts_document_and_readmes_table(
    reproduce: Command, checkout: Path, tmp_path: Path
):
    put_on_record(tmp_path, rate="holds", a_claim_of_old="holds")
    done = reproduce("--record")
    assert done.status == 0
    assert 'rate: this run reached "holds with a condition"; the recorded verdict is "holds".' in done.out
    assert on_record(tmp_path) == REACHED
    assert list(on_record(tmp_path)) == IDS
    document = (checkout / "docs" / "claims.md").read_text()
    assert all(f"\n### {id_}\n" in document for id_ in IDS)
    assert "](figures/" not in document
    assert "Differences from the record" not in document
    assert "not to be edited by hand" in document.splitlines()[0]
    readme = (checkout / "README.md").read_text()
    assert readme.startswith("# Lab\n\n<!-- claims -->\n✓ holds: 2, ")
    assert readme.endswith("|\n<!-- end of claims -->\n\nThe end\n")
    assert "✗&nbsp;[cost](docs/claims.md#cost)" in readme
    assert "\nold\n" not in readme
    assert reproduce().status == 0


def test_recording_some_claims_keeps_the_verdicts_of_the_others_and_the_document(
    reproduce: Command, checkout: Path, tmp_path: Path
):
    put_on_record(tmp_path, rate="holds", slope="does not hold")
    readme = (checkout / "README.md").read_text()
    done = reproduce("--record", "rate")
    assert done.status == 0
    assert (
        done.out.splitlines()[-1] == "docs/claims.md and README.md are unchanged: they need the verdicts of all claims."
    )
    assert on_record(tmp_path) == REACHED | {"slope": "does not hold"}
    assert list((checkout / "docs").iterdir()) == []
    assert (checkout / "README.md").read_text() == readme


def test_a_claim_that_fails_keeps_its_verdict_on_record_and_no_document_is_written(
    reproduce: Command, checkout: Path, tmp_path: Path, world: Path
):
    put_on_record(tmp_path, slope="does not hold")
    (world / "fail-rate").touch()
    assert reproduce("--record").status == 1
    assert on_record(tmp_path) == REACHED
    assert list((checkout / "docs").iterdir()) == []


def test_document_and_readme_say_what_is_on_record():
    text, readme = (REPOSITORY / "docs" / "claims.md").read_text(), (REPOSITORY / "README.md").read_text()
    verdicts = catalogue.recorded()
    assert list(verdicts) == list(catalogue.catalogue())
    for id_, verdict in verdicts.items():
        section = text.split(f"\n### {id_}\n\n**", 1)[1]
        assert section[2:].startswith(f"{verdict}.**")
    table = text[text.index("| section | claims |") :].split("\n\n")[0].replace("](#", "](docs/claims.md#")
    assert table in readme


# --- processes ------------------------------------------------------------------------------------------------------


def times(world: Path) -> dict[str, tuple[int, int]]:
    """Claim -> when it was begun and when it was ended, in ns of the file system's clock."""
    ends = [[world / f"{note.stem}.{end}" for end in ("begun", "ended")] for note in world.glob("*.begun")]
    return {begun.stem.split("-")[0]: (begun.stat().st_mtime_ns, ended.stat().st_mtime_ns) for begun, ended in ends}


def test_claims_that_time_something_are_measured_last_and_alone(
    reproduce: Command, world: Path, monkeypatch: pytest.MonkeyPatch
):
    groups: list[list[str]] = []
    run_tasks = pool.run_tasks

    def noted(run, tasks, workers, on_start):
        groups.append([f"{task.id} {workers}" for task in tasks])
        return run_tasks(run, tasks, 0, on_start)

    monkeypatch.setattr(pool, "run_tasks", noted)
    reproduce("--workers", "3")
    assert groups == [["training 3", "slope 3", "rate 3"], ["cost 1"]]


def patiently(look) -> None:
    deadline = time.monotonic() + PATIENCE
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)


COMMAND = """
import sys
from pathlib import Path
from experiments.report import catalogue
import experiments.main
if __name__ == "__main__":
    catalogue.MODULES = ("tests.experiments.fake_claims",)
    catalogue.RECORDED = Path("recorded.json")
    experiments.main.COMMANDS["reproduce"] = ""
    sys.exit(experiments.main.main(["reproduce", *sys.argv[1:]]))
"""


def test_control_c_ends_all_processes_at_once_and_the_next_call_goes_on(
    reproduce: Command, world: Path, tmp_path: Path
):
    (tmp_path / "command.py").write_text(COMMAND)
    put_on_record(tmp_path)
    (world / "wait-slope").touch()
    (world / "wait-training").touch()
    words = [sys.executable, "command.py", "--folder", "found", "--workers", "2", "training", "slope", "rate"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    started = subprocess.Popen(
        words, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        patiently(lambda: len(list(world.glob("*.begun"))) == 2)
        (world / "wait-training").unlink()
        patiently(lambda: (tmp_path / "found" / "samples" / "rate.npz").exists())
        os.killpg(started.pid, signal.SIGINT)  # as a terminal does, to all of them
        _, said = started.communicate(timeout=PATIENCE)
    finally:
        started.kill()
    assert started.returncode == 130
    assert "Traceback" not in said, said
    assert said.splitlines()[-1] == "Interrupted; samples are saved in found, and the same command resumes."
    pids = {int(note.read_text().split()[0]) for note in world.glob("*.begun")}
    patiently(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert sorted(path.stem for path in (tmp_path / "found").rglob("*.npz")) == ["rate", "training"]

    (world / "wait-slope").unlink()
    went_on = reproduce("training", "slope", "rate")
    assert went_on.status == 0
    assert went_on.err.splitlines()[0] == "2 of 3 claims are already measured."
    assert measured(world).count("slope") == 2
    assert len(measured(world)) == 4


def test_the_longest_is_begun_first_where_it_is_known(reproduce: Command, world: Path, tmp_path: Path):
    store = Store(tmp_path / "found" / "samples")
    for id_, seconds in (("rate", 3.0), ("slope", 40.0), ("training", 5.0)):
        store.save(id_, "of other code", Measurement({"x": np.zeros(1)}, seconds, "", ""))
    reproduce()
    assert measured(world) == ["slope", "training", "rate", "cost"]


def test_warnings_of_a_measurement_are_kept_with_it(monkeypatch: pytest.MonkeyPatch):
    def measure(scale):
        return {"x": np.log(np.zeros(3))}

    monkeypatch.setattr(fake_claims, "CLAIMS", (replace(fake_claims.CLAIMS[0], measure=measure),))
    found = measurement.measure(ClaimTask("slope", "tests.experiments.fake_claims", FULL))
    assert isinstance(found, Measurement)
    assert found.warnings == ("RuntimeWarning: divide by zero encountered in log",)


def test_an_entry_knows_its_module(world: Path):
    assert catalogue.choose(["cost"]) == [Entry(fake_claims.CLAIMS[2], "tests.experiments.fake_claims")]
