"""Data sets and the batches drawn from them, against scikit-learn, NumPy and plain reasoning."""

import json
import os
import tracemalloc
import warnings
import zipfile
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from lab import schema
from lab.data import Batches, Dataset, load

CPU = torch.device("cpu")


def load64(config):
    return load(config, torch.float64, CPU)


OFFLINE = [
    schema.Data(),
    schema.Spirals("spirals"),
    schema.Circles("circles"),
    schema.GaussianData("gaussian"),
]
every_offline_source = pytest.mark.parametrize("config", OFFLINE, ids=lambda config: config.name)


# --- every source ---------------------------------------------------------------------------------------------------


@every_offline_source
def test_the_dtype_changes_only_the_precision(config):
    single, double = load(config, torch.float32, CPU), load64(config)
    for part in ("train_x", "test_x"):
        assert getattr(single, part).dtype == torch.float32
        assert torch.equal(getattr(single, part), getattr(double, part).float())
    for part in ("train_y", "test_y"):
        assert getattr(single, part).dtype == torch.int64
        assert torch.equal(getattr(single, part), getattr(double, part))


@every_offline_source
def test_the_same_config_gives_the_same_data(config):
    first, second = load64(config), load64(config)
    for part in ("train_x", "train_y", "test_x", "test_y"):
        assert torch.equal(getattr(first, part), getattr(second, part))


@every_offline_source
def test_labels_fit_the_inputs_and_use_every_class(config):
    data = load64(config)
    for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y)):
        assert x.shape == (len(y), data.features)
        assert y.unique().tolist() == list(range(data.classes))


@pytest.mark.parametrize("config", OFFLINE[:3], ids=lambda config: config.name)
def test_training_inputs_are_standardized_and_test_inputs_by_the_same_measure(config):
    data = load64(config)
    varying = data.train_x.amax(0) > data.train_x.amin(0)
    assert data.train_x.mean(0).abs().max() < 1e-12
    torch.testing.assert_close(data.train_x[:, varying].std(0, correction=0), torch.ones(int(varying.sum())).double())
    assert not data.train_x[:, ~varying].any()
    assert not data.test_x[:, ~varying].any()
    # Standardizing the held-out part by itself would give exactly 0.
    assert data.test_x.mean(0)[varying].abs().max() > 1e-3


@pytest.mark.parametrize(
    "make", [schema.Spirals, schema.Circles, schema.GaussianData], ids=["spirals", "circles", "gaussian"]
)
def test_another_seed_draws_other_data_and_a_fifth_is_held_out(make):
    name = {schema.Spirals: "spirals", schema.Circles: "circles", schema.GaussianData: "gaussian"}[make]
    first, second = (load64(make(name, examples=1001, seed=seed)) for seed in (0, 2**40))
    assert (len(first.train_y), len(first.test_y)) == (801, 200)
    assert not torch.equal(first.train_x, second.train_x)


# --- digits ---------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_each_image_once():
    data = load64(schema.Data())
    assert (data.train_x.shape, data.test_x.shape, data.classes) == ((1438, 64), (359, 64), 10)
    x, y = load_digits(return_X_y=True)
    mine = np.concatenate([data.train_x.numpy(), data.test_x.numpy()])
    labels = np.concatenate([data.train_y.numpy(), data.test_y.numpy()])
    # Standardizing is increasing in each pixel, so sorting by the same pixels puts both in the same order.
    varying = x.std(0) > 0.5
    theirs_order, my_order = np.lexsort(x[:, varying].T), np.lexsort(mine[:, varying].round(9).T)
    assert np.array_equal(y[theirs_order], labels[my_order])
    for pixel in np.flatnonzero(varying):
        slope, intercept = np.polyfit(x[theirs_order, pixel], mine[my_order, pixel], 1)
        np.testing.assert_allclose(mine[my_order, pixel], slope * x[theirs_order, pixel] + intercept, atol=1e-9)


def test_the_digits_split_keeps_the_share_of_every_class():
    data = load64(schema.Data())
    everything = torch.cat([data.train_y, data.test_y]).bincount() / 1797
    assert (data.test_y.bincount() / 359 - everything).abs().max() < 1 / 359


# --- drawn data -----------------------------------------------------------------------------------------------------


def accuracy(model, data):
    return model.fit(data.train_x.numpy(), data.train_y.numpy()).score(data.test_x.numpy(), data.test_y.numpy())


@pytest.mark.parametrize(
    "config", [schema.Spirals("spirals"), schema.Circles("circles")], ids=lambda config: config.name
)
def test_spirals_and_circles_are_separable_but_not_by_a_line(config):
    data = load64(config)
    assert accuracy(KNeighborsClassifier(5), data) > 0.9
    assert accuracy(LogisticRegression(), data) < 0.6


def test_spirals_without_turns_are_rays_that_lines_separate():
    assert accuracy(LogisticRegression(), load64(schema.Spirals("spirals", turns=1e-6, noise=0.0, classes=4))) > 0.98


def test_a_spiral_without_noise_turns_as_often_as_asked():
    # With many arms its mean is the origin and both axes have one scale, so polar coordinates survive standardizing.
    data = load64(schema.Spirals("spirals", examples=20_000, classes=5, turns=2.0, noise=0.0))
    arm = data.train_x[data.train_y == 0].numpy()
    arm = arm[np.argsort(np.hypot(*arm.T))]
    angle = np.unwrap(np.arctan2(arm[:, 1], arm[:, 0])[len(arm) // 50 :])
    assert (angle[-1] - angle[0]) / (2 * np.pi) == pytest.approx(2.0 * 0.98, abs=0.03)


@pytest.mark.parametrize("make", [schema.Spirals, schema.Circles], ids=["spirals", "circles"])
def test_noise_blurs_the_classes(make):
    name = "spirals" if make is schema.Spirals else "circles"
    clean, noisy = (accuracy(KNeighborsClassifier(5), load64(make(name, noise=noise))) for noise in (0.0, 0.6))
    assert clean > 0.99
    assert noisy < 0.75


def test_the_inner_circle_has_the_radius_asked_for():
    data = load64(schema.Circles("circles", noise=0.0, factor=0.25))
    outer, inner = (data.train_x[data.train_y == label].norm(dim=1) for label in (0, 1))
    # The axes' scales differ a little, because the training part's deviations do: within 5%.
    assert (inner.median() / outer.median()).item() == pytest.approx(0.25, rel=0.05)


def test_gaussian_data_has_the_variance_asked_for_and_labels_that_tell_nothing():
    config = schema.GaussianData("gaussian", examples=5000, features=40, classes=4, variance=3.0)
    data = load64(config)
    assert (data.features, data.classes) == (40, 4)
    x, y = torch.cat([data.train_x, data.test_x]), torch.cat([data.train_y, data.test_y])
    # Five standard errors: sqrt(v / n) of the mean, v sqrt(2 / n) of the variance, sqrt(p (1 - p) / n) of a share.
    n = x.numel()
    assert abs(x.mean().item()) < 5 * (3 / n) ** 0.5
    assert abs(x.var().item() - 3) < 5 * 3 * (2 / n) ** 0.5
    assert (y.bincount() / 5000 - 1 / 4).abs().max() < 5 * (3 / 16 / 5000) ** 0.5
    assert abs(accuracy(LogisticRegression(), data) - 1 / 4) < 5 * (3 / 16 / 1000) ** 0.5


def test_gaussian_data_has_the_classes_asked_for_even_if_one_was_never_drawn():
    assert load64(schema.GaussianData("gaussian", examples=20, classes=1000)).classes == 1000


# --- OpenML ---------------------------------------------------------------------------------------------------------

OPENML_NUMBERS = {"mnist": 554, "fashion_mnist": 40996}


@pytest.mark.parametrize("name", list(OPENML_NUMBERS))
def test_openml_images_are_standardized_and_split_as_usual(name, monkeypatch, tmp_path):
    asked = {}
    pixels = np.random.default_rng(0).integers(0, 256, size=(70_000, 3))
    pixels[:, 2] = 0
    labels = (np.arange(70_000) % 10).astype(str).astype(object)

    def fetch_openml(**arguments):
        asked.update(arguments)
        return SimpleNamespace(data=pixels.copy(), target=labels)

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
    monkeypatch.setenv("HOME", str(tmp_path))
    data = load64(schema.OpenML(name, cache="~/kept"))
    assert asked["data_id"] == OPENML_NUMBERS[name]
    assert asked["data_home"] == str(tmp_path / "kept")
    assert asked["as_frame"] is False
    assert (data.train_x.shape, data.test_x.shape, data.classes) == ((60_000, 3), (10_000, 3), 10)
    mean, deviation = (pixels[:60_000] / 255).mean(), (pixels[:60_000] / 255).std()
    expected = (pixels / 255 - mean) / deviation
    np.testing.assert_allclose(data.train_x, expected[:60_000], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(data.test_x, expected[60_000:], rtol=1e-12, atol=1e-12)
    assert torch.equal(torch.cat([data.train_y, data.test_y]), torch.arange(70_000) % 10)


@pytest.mark.parametrize(
    "error",
    [
        URLError("Name or service not known"),
        ConnectionError("refused"),
        OSError("network is down"),
        EOFError("ended"),
        ValueError("md5 checksum of local file does not match"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_without_a_connection_one_sentence_says_what_to_do(error, monkeypatch, tmp_path):
    def fetch_openml(**arguments):
        warnings.warn("A network error occurred while downloading X. Retrying...", stacklevel=1)
        raise error

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch_openml)
    with pytest.raises(schema.ConfigError, match=r"^data=mnist: .*connect once.*data=npz data\.path=") as caught:
        load64(schema.OpenML("mnist", cache=str(tmp_path)))
    assert "\n" not in str(caught.value)
    assert str(error) in str(caught.value)


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(schema.ConfigError, match=r"^data\.cache=.*give a folder that can be written\.$"):
        load64(schema.OpenML("mnist", cache=str(tmp_path / "file")))


# --- the user's own arrays ------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(3, 2, size=(23, 2, 3))
Y = np.arange(23) % 3


def save(tmp_path, **arrays):
    np.savez(tmp_path / "own.npz", **arrays)
    return str(tmp_path / "own.npz")


def test_every_fifth_example_of_an_npz_without_a_test_part_is_held_out(tmp_path):
    data = load64(schema.Npz("npz", save(tmp_path, x_train=X, y_train=Y), standardize=False))
    held_out = [4, 9, 14, 19]
    kept = [index for index in range(23) if index not in held_out]
    assert np.array_equal(data.train_x, X.reshape(23, 6)[kept])
    assert np.array_equal(data.test_x, X.reshape(23, 6)[held_out])
    assert np.array_equal(data.train_y, Y[kept])
    assert np.array_equal(data.test_y, Y[held_out])
    assert data.classes == 3


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8, np.int16], ids=lambda dtype: dtype.__name__)
def test_an_npz_is_standardized_by_its_training_part(tmp_path, dtype):
    x = (10 * np.abs(X)).astype(dtype)
    x[:10, 0, 0] = 7  # constant in training, not so when held out
    path = save(tmp_path, x_train=x[:10], y_train=Y[:10], x_test=x[10:], y_test=Y[10:].astype(np.uint8))
    data = load64(schema.Npz("npz", path))
    train, test = x[:10].reshape(10, 6).astype(float), x[10:].reshape(13, 6).astype(float)
    expected = ((part - train.mean(0)) / np.where(np.arange(6) == 0, 1, train.std(0)) for part in (train, test))
    for mine, wanted in zip((data.train_x, data.test_x), expected, strict=True):
        np.testing.assert_allclose(mine[:, 1:], wanted[:, 1:], rtol=1e-12)
        assert not mine[:, 0].any()
    assert data.test_y.dtype == torch.int64


def test_a_home_folder_in_the_path_is_understood(tmp_path, monkeypatch):
    save(tmp_path, x_train=X, y_train=Y)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load64(schema.Npz("npz", "~/own.npz")).features == 6


def with_entry(value):
    spoiled = X.copy()
    spoiled[5, 0, 0] = value
    return spoiled


BAD_ARRAYS = {
    "no x_train": ({"y_train": Y}, "no x_train"),
    "no y_train": ({"x_train": X}, "no y_train"),
    "no known name": ({"images": X}, "no x_train"),
    "x_test without y_test": ({"x_train": X, "y_train": Y, "x_test": X}, "no y_test"),
    "y_test without x_test": ({"x_train": X, "y_train": Y, "y_test": Y}, "no x_test"),
    "objects": ({"x_train": np.array([[1, "a"]] * 9, dtype=object), "y_train": Y[:9]}, "x_train cannot be read"),
    "object labels": ({"x_train": X, "y_train": Y.astype(object)}, "y_train cannot be read"),
    "text": ({"x_train": np.full((23, 2), "a"), "y_train": Y}, "not real numbers"),
    "complex": ({"x_train": X.astype(complex), "y_train": Y}, "not real numbers"),
    "one dimension": ({"x_train": X[:, 0, 0], "y_train": Y}, r"shape \(23,\)"),
    "no dimension": ({"x_train": np.float64(1), "y_train": Y}, r"shape \(\)"),
    "no examples": ({"x_train": X[:0], "y_train": Y[:0]}, r"shape \(0, 2, 3\)"),
    "no features": ({"x_train": X[:, :, :0], "y_train": Y}, r"shape \(23, 2, 0\)"),
    "empty test part": ({"x_train": X, "y_train": Y, "x_test": X[:0], "y_test": Y[:0]}, "x_test has shape"),
    "labels in two dimensions": ({"x_train": X, "y_train": Y[:, None]}, r"y_train has shape \(23, 1\)"),
    "one label for all": ({"x_train": X, "y_train": np.int64(0)}, r"y_train has shape \(\)"),
    "fractional labels": ({"x_train": X, "y_train": Y + 0.5}, "float64"),
    "floating-point labels": ({"x_train": X, "y_train": Y.astype(float)}, "float64"),
    "too few labels": ({"x_train": X, "y_train": Y[:-1]}, "23 examples and y_train 22"),
    "too few test labels": ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y[:-1]}, "x_test has 23 .* y_test 22"),
    "other features": ({"x_train": X, "y_train": Y, "x_test": X[:, :1], "y_test": Y}, "x_test has 3 features"),
    "labels from 1": ({"x_train": X, "y_train": Y + 1}, "labels in use run from 1 to 3"),
    "negative label": ({"x_train": X, "y_train": Y - 1}, "run from -1 to 1"),
    "a gap in the labels": ({"x_train": X, "y_train": 2 * Y}, "3 labels in use run from 0 to 4"),
    "a huge label": (
        {"x_train": X, "y_train": Y.astype(np.uint64) + np.uint64(2**63)},
        "run from -9223372036854775808",
    ),
    "one class": ({"x_train": X, "y_train": 0 * Y}, "same label"),
    "NaN": ({"x_train": with_entry(np.nan), "y_train": Y}, "holds nan in example 5, one of 1 "),
    "Inf": ({"x_train": with_entry(-np.inf), "y_train": Y}, "holds -inf in example 5"),
    "too large for float32": ({"x_train": with_entry(1e39), "y_train": Y}, r"holds 1e\+39 in example 5"),
    "NaN held out": ({"x_train": X, "y_train": Y, "x_test": with_entry(np.nan), "y_test": Y}, "x_test holds nan"),
    "too few to hold out": ({"x_train": X[:4], "y_train": Y[:4]}, "4 examples, too few"),
}


@pytest.mark.parametrize(("arrays", "what"), BAD_ARRAYS.values(), ids=list(BAD_ARRAYS))
def test_a_fault_in_the_arrays_is_one_sentence_with_key_and_remedy(arrays, what, tmp_path):
    path = save(tmp_path, **arrays)
    with pytest.raises(schema.ConfigError, match=what) as caught:
        load64(schema.Npz("npz", path))
    assert_is_one_sentence(str(caught.value), path)


def assert_is_one_sentence(message, path):
    assert message.startswith(f"data.path={path}: ")
    assert message.endswith(".")
    assert "\n" not in message
    assert ";" in message  # what is wrong; what to do


def archive(path, save=np.savez):
    save(path, x_train=X, y_train=Y)
    return path.read_bytes()


def single_array(path):
    with path.open("wb") as file:
        np.save(file, X)


def text_inside(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x_train", "1, 2")
        file.writestr("y_train", "0")


BAD_FILES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("x,y\n1,2\n"),
    "pickle": lambda path: path.write_bytes(b"\x80\x04N."),
    "a single array": single_array,
    "folder": lambda path: path.mkdir(),
    "truncated": lambda path: path.write_bytes(archive(path)[:-40]),
    "damaged": lambda path: path.write_bytes(archive(path)[:300] + bytes(300) + archive(path)[600:]),
    "damaged, compressed": lambda path: path.write_bytes(
        archive(path, np.savez_compressed)[:300] + b"\xff" * 300 + archive(path, np.savez_compressed)[600:]
    ),
    "no array inside": text_inside,
    "encrypted": lambda path: path.write_bytes(
        # The lowest bit of the flags, which follow signature and version(s) in both kinds of header.
        archive(path)
        .replace(b"PK\3\4\x2d\0\0", b"PK\3\4\x2d\0\1")
        .replace(b"PK\1\2\x2d\3\x2d\0\0", b"PK\1\2\x2d\3\x2d\0\1")
    ),
}


@pytest.mark.parametrize("write", BAD_FILES.values(), ids=list(BAD_FILES))
def test_a_file_that_is_no_npz_is_one_sentence_with_key_and_remedy(write, tmp_path):
    path = tmp_path / "own.npz"
    write(path)
    with pytest.raises(schema.ConfigError, match=r"numpy\.savez") as caught:
        load64(schema.Npz("npz", str(path)))
    assert_is_one_sentence(str(caught.value), path)


def test_a_missing_file_is_one_sentence_with_key_and_remedy(tmp_path):
    with pytest.raises(schema.ConfigError, match="no such file") as caught:
        load64(schema.Npz("npz", str(tmp_path / "absent.npz")))
    assert_is_one_sentence(str(caught.value), tmp_path / "absent.npz")


# --- batches --------------------------------------------------------------------------------------------------------


def numbered(examples, device=CPU):
    """Data whose inputs tell which example they are: x = (i, 10 i), y = i."""
    index = torch.arange(examples, device=device)
    x = torch.stack([index, 10 * index], dim=1).double()
    return Dataset(x, index, x[:1], index[:1], classes=examples)


def generators(*seeds):
    return [np.random.default_rng(seed) for seed in seeds]


def indices(batches, steps):
    """(steps, R, B), after checking that inputs and labels belong together."""
    drawn = []
    for _ in range(steps):
        x, y = batches.next()
        assert torch.equal(x, torch.stack([y, 10 * y], dim=-1).double())
        drawn.append(y)
    return torch.stack(drawn)


def test_a_batch_has_a_replica_axis():
    data = load(schema.Data(), torch.float32, CPU)
    x, y = Batches(data, 5, generators(0, 1, 2)).next()
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((3, 5, 64), torch.float32, (3, 5), torch.int64)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 10, 23, 64])
@pytest.mark.parametrize("block_steps", [1, 3, None])
def test_every_epoch_shows_each_example_once_in_an_order_of_its_own(batch_size, block_steps):
    examples, epochs = 10, 42
    batches = Batches(numbered(examples), batch_size, generators(0, 1), block_steps=block_steps)
    steps = -(-epochs * examples // batch_size)
    walks = indices(batches, steps).transpose(0, 1).flatten(1)[:, : epochs * examples].view(2, epochs, examples)
    assert torch.equal(walks.sort(-1).values, torch.arange(examples).expand(2, epochs, -1))
    orders = {tuple(order.tolist()) for order in walks.flatten(0, 1)}
    assert (
        len(orders) == 2 * epochs
    )  # 84 of 3.6 million orders: one of them twice has probability 0.001, seeds are fixed


def test_every_example_is_equally_likely_at_every_place_of_an_epoch():
    walk = indices(Batches(numbered(5), 5, generators(0)), 4000)[:, 0]  # (epochs, place)
    counts = torch.stack([(walk == example).sum(0) for example in range(5)])
    assert (counts - 800).abs().max() < 5 * (4000 * 0.2 * 0.8) ** 0.5  # five standard errors


@pytest.mark.parametrize("block_steps", [1, 2, 5, 1000])
def test_the_batches_do_not_depend_on_how_many_are_drawn_at_once(block_steps):
    data = numbered(13)
    expected = indices(Batches(data, 6, generators(0, 1)), 60)
    assert torch.equal(indices(Batches(data, 6, generators(0, 1), block_steps=block_steps), 60), expected)


def test_a_replicas_batches_do_not_depend_on_the_others():
    data = numbered(13)
    together = indices(Batches(data, 6, generators(0, 1, 2)), 60)
    for replica in range(3):
        assert torch.equal(indices(Batches(data, 6, generators(replica)), 60)[:, 0], together[:, replica])


@pytest.mark.parametrize(
    ("examples", "batch_size", "block_steps"), [(13, 6, 4), (13, 40, 4), (12, 6, 2), (12, 6, None)]
)
def test_a_restored_walk_goes_on_with_the_same_batches(examples, batch_size, block_steps):
    data = numbered(examples)
    batches = Batches(data, batch_size, generators(0, 1), block_steps=block_steps)
    for _ in range(9):
        state = json.loads(json.dumps(batches.state()))  # plain Python, through a file and back
        restored, again = (Batches(data, batch_size, generators(7, 8), block_steps=3) for _ in range(2))
        restored.next()
        restored.restore(state)
        again.restore(restored.state())
        expected = indices(batches, 5)
        assert torch.equal(indices(restored, 5), expected)
        assert torch.equal(indices(again, 5), expected)


def test_taking_the_state_changes_nothing():
    data = numbered(13)
    expected = indices(Batches(data, 6, generators(0)), 20)
    batches, seen = Batches(data, 6, generators(0), block_steps=4), []
    for _ in range(20):
        batches.state()
        seen.append(batches.next()[1])
    assert torch.equal(torch.stack(seen), expected)


def test_the_state_of_other_replicas_is_refused():
    state = Batches(numbered(13), 6, generators(0, 1)).state()
    with pytest.raises(ValueError, match="2 replicas, not of 3"):
        Batches(numbered(13), 6, generators(0, 1, 2)).restore(state)


def test_memory_stays_bounded_over_ten_thousand_steps():
    batches = Batches(numbered(1000), 256, generators(0, 1))
    tracemalloc.start()
    try:
        for _ in range(10_000):
            batches.next()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 12 * 2**20  # a block of 2 MiB, a few times over while it is drawn; all indices are 41 MB


def test_no_batch_looks_at_a_number():
    # A tensor on the meta device has no numbers: anything that waits for one raises.
    x, y = Batches(numbered(50, torch.device("meta")), 8, generators(0, 1)).next()
    assert (x.shape, y.shape) == ((2, 8, 2), (2, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_sees_the_same_batches():
    on_cpu, on_gpu = (
        Batches(numbered(50, torch.device(device)), 8, generators(0, 1), block_steps=3) for device in ("cpu", "cuda")
    )
    for _ in range(20):
        for mine, theirs in zip(on_cpu.next(), on_gpu.next(), strict=True):
            assert theirs.device.type == "cuda"
            assert torch.equal(mine, theirs.cpu())


def test_a_pipe_and_a_header_that_claims_more_than_memory_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(schema.ConfigError, match="no ordinary file"):
        load(schema.Npz("npz", str(tmp_path / "pipe")), torch.float32, CPU)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000, 3)}"
    member = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("x_train.npy", member)
    with pytest.raises(schema.ConfigError, match="x_train cannot be read"):
        load(schema.Npz("npz", str(tmp_path / "huge.npz")), torch.float32, CPU)


# --- numbers at the ends of the range -------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 2.0**-900, 1e-200, 1e-300, 2.0**-1060, 1e38])
def test_inputs_of_any_size_are_standardized_alike(tmp_path, scale):
    x = np.random.default_rng(1).integers(-1000, 1000, size=(23, 3)).astype(float)
    expected = (x - x.mean(0)) / x.std(0)
    path = save(tmp_path, x_train=x / 1000 * scale, y_train=Y, x_test=x / 1000 * scale, y_test=Y)
    data = load64(schema.Npz("npz", path))
    # 2**-1060 times 1 has 14 bits left, so its rounding is 2**-15 of the largest entry; the others have all of theirs.
    tolerance = 1e-3 if scale < 1e-305 else 1e-9
    np.testing.assert_allclose(data.train_x, expected, atol=tolerance)
    np.testing.assert_allclose(data.test_x, expected, atol=tolerance)


def test_standardizing_numbers_of_ordinary_size_gives_what_it_always_gave_bit_for_bit(tmp_path):
    x = np.random.default_rng(2).normal(3, 2, size=(23, 5)) * 10.0 ** np.arange(-2, 3)
    data = load64(schema.Npz("npz", save(tmp_path, x_train=x, y_train=Y, x_test=x[:6], y_test=Y[:6])))
    mean, deviation = x.mean(0), x.std(0)
    assert np.array_equal(data.train_x, (x - mean) / deviation)
    assert np.array_equal(data.test_x, (x[:6] - mean) / deviation)


def test_a_held_out_example_beyond_float32_in_deviations_of_the_training_part_is_refused(tmp_path):
    path = save(tmp_path, x_train=X * 1e-200, y_train=Y, x_test=X, y_test=Y)
    with pytest.raises(
        schema.ConfigError, match=r"x_test holds \S+ standard deviations from the mean in example"
    ) as caught:
        load64(schema.Npz("npz", path))
    assert_is_one_sentence(str(caught.value), path)


@pytest.mark.parametrize("standardize", [True, False])
def test_a_single_training_example_is_refused(tmp_path, standardize):
    path = save(tmp_path, x_train=X[:1], y_train=Y[:1], x_test=X[1:], y_test=Y[1:])
    with pytest.raises(schema.ConfigError, match="one training example") as caught:
        load64(schema.Npz("npz", path, standardize))
    assert_is_one_sentence(str(caught.value), path)
