"""Keeping a model: what comes back is what went in, to the bit, or there is an error and nothing else."""

import json
import pickletools
import resource
import shutil
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from anomaly_ae import (
    AutoencoderDetector,
    BernoulliCode,
    CategoricalCode,
    Dense,
    Gaussian,
    GaussianNoise,
    KLScore,
    Point,
    Quantile,
    ReconstructionError,
    VAEDetector,
    load,
    storage,
)
from anomaly_ae.config import dumps, loads
from anomaly_ae.data.drafts import write_whole
from anomaly_ae.errors import AnomalyError, ConfigError, ModelFolderError, OutputError
from anomaly_ae.storage import from_tree, to_tree, vocabulary

FILES = ["arrays.safetensors", "config.json", "history.csv", "manifest.json", "weights.safetensors"]
X = np.random.default_rng(0).normal(size=(120, 4)) @ np.random.default_rng(1).normal(size=(4, 4))
NEW = np.random.default_rng(2).normal(size=(50, 4)) * 3
NAMED = pd.DataFrame(X, columns=["a", "b c", "é", "row"])


class Salt(GaussianNoise):
    """A user's own part, with a parameter of its own."""

    def __init__(self, sigma=0.3, per_row=True, grains=3):
        super().__init__(sigma, per_row=per_row)
        self.grains = grains


def quick(detector=AutoencoderDetector, **params):
    return detector(**({"max_epochs": 2, "steps_per_epoch": 2, "random_state": 0} | params))


DETECTORS = {
    "autoencoder": quick(),
    "VAE": quick(VAEDetector, learning_rate=0.01 / 3),
    "batch norm": quick(backbone=Dense(hidden=[8, 4], batch_norm=True, dropout=0.1), latent=Point(dim=2)),
    "sum of scores": quick(VAEDetector, latent=Gaussian(3), scorer=ReconstructionError(power=1) + 0.1 * KLScore()),
    "switches": quick(VAEDetector, latent=BernoulliCode(3)),
    "categories": quick(VAEDetector, latent=CategoricalCode(2, levels=3), scorer=KLScore()),
    "quantile": quick(threshold=Quantile(), clip_norm=None, patience=None),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder that nobody damages."""
    return quick().fit(X).save(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def copy(model, tmp_path):
    return shutil.copytree(model, tmp_path / "copy")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [X, NAMED], ids=["array", "frame"])
@pytest.mark.parametrize("calibration", ["split", "cross"])
@pytest.mark.parametrize("kind", DETECTORS)
def test_a_loaded_detector_is_the_one_that_was_saved(tmp_path, kind, calibration, rows):
    detector = loads(dumps(DETECTORS[kind])).set_params(calibration=calibration).fit(rows)
    back = load(detector.save(tmp_path / "model"))
    new = NEW if rows is X else pd.DataFrame(NEW, columns=NAMED.columns)
    assert type(back) is type(detector)
    assert repr(back.get_params()) == repr(detector.get_params())
    for ours, theirs in zip(detector.assess(new), back.assess(new), strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(detector.transform(new), back.transform(new))
    assert np.array_equal(detector.sample(5, random_state=0), back.sample(5, random_state=0))
    assert detector.threshold_.value_ == back.threshold_.value_
    assert list(getattr(back, "feature_names_in_", [])) == ([] if rows is X else list(NAMED.columns))
    assert (back.n_features_in_, back.n_rows_seen_) == (4, len(X))


def test_neighbours_among_many_rows_come_back_too(tmp_path):
    many = np.random.default_rng(3).normal(size=(4000, 4))  # more than are looked at one by one
    det = AutoencoderDetector(max_epochs=1, random_state=0).fit(many)
    back = load(det.save(tmp_path / "model"))
    np.testing.assert_array_equal(back.anomaly_score(NEW), det.anomaly_score(NEW))
    np.testing.assert_array_equal(back.explain(NEW), det.explain(NEW))


@pytest.mark.parametrize("kind", DETECTORS)
def test_the_learning_curves_come_back_exactly(tmp_path, kind):
    detector = loads(dumps(DETECTORS[kind])).fit(X).partial_fit(X)  # the last epoch has no validate loss
    back = load(detector.save(tmp_path / "model"))
    pd.testing.assert_frame_equal(back.history_, detector.history_, check_exact=True)


def test_a_second_generation_is_the_first(tmp_path, model):
    again = load(model).save(tmp_path / "again")
    assert contents(again) == contents(model)


def test_a_loaded_detector_learns_on_when_it_can_calibrate(model):
    back = load(model)
    before, wanted = back.anomaly_score(NEW), back.rows_lacking
    assert wanted == 5 * min(200, len(back.calibration_scores_))
    rows = np.resize(X + 1, (wanted, X.shape[1]))
    with pytest.warns(UserWarning, match=f"fewer than {wanted} rows"):
        back.partial_fit(rows[: wanted // 2])
    np.testing.assert_array_equal(before, back.anomaly_score(NEW))  # what few rows say is not known to hold
    back.partial_fit(rows[wanted // 2 :])
    assert back.n_rows_seen_ == len(X) + wanted
    assert not np.array_equal(before, back.anomaly_score(NEW))


@pytest.mark.parametrize("detector", [AutoencoderDetector, VAEDetector])
@pytest.mark.parametrize("rows", [16, 100, 600, 1500])
def test_false_alarms_stay_few_while_a_loaded_detector_goes_on(tmp_path, detector, rows):
    rng = np.random.default_rng(1)
    normal = rng.normal(size=(6000, 1)) + 0.3 * rng.normal(size=(6000, 6))
    fitted = detector(effort="fast", random_state=0).fit(normal[:2000])
    back = load(fitted.save(tmp_path / "model"))
    with warnings.catch_warnings(action="ignore"):
        for start in range(4000, 4000 + rows, 100):
            back.partial_fit(normal[start : min(start + 100, 4000 + rows)])
    assert (back.predict(normal[2000:4000]) < 0).mean() < 0.08


def test_a_folder_holds_what_was_fitted_whatever_was_set_since(tmp_path):
    det = AutoencoderDetector(max_epochs=1, random_state=0).fit(X)
    back = load(det.set_params(members=3, calibration="split", effort="fast").save(tmp_path / "model"))
    assert (back.members, back.effort) == (1, "default")
    np.testing.assert_array_equal(back.anomaly_score(NEW), det.anomaly_score(NEW))


def test_a_loaded_detector_starts_warm(tmp_path):
    settings = {"max_epochs": 2, "random_state": 0, "warm_start": True}
    det = AutoencoderDetector(**settings).fit(X)
    back = load(det.save(tmp_path / "model"))
    np.testing.assert_allclose(back.fit(X).anomaly_score(NEW), det.fit(X).anomaly_score(NEW), rtol=1e-6)


def test_a_part_of_one_s_own_comes_back_if_its_class_is_given(tmp_path):
    detector = quick(corruption=Salt(grains=5)).fit(X)
    folder = detector.save(tmp_path / "model")
    back = load(folder, parts={"Salt": Salt})
    assert type(back.corruption) is Salt
    assert back.corruption.grains == 5
    assert np.array_equal(back.anomaly_score(NEW), detector.anomaly_score(NEW))
    with pytest.raises(AnomalyError, match="'Salt'"):
        load(folder)


# --- what is in the folder -------------------------------------------------------------------------------------------


def test_the_folder_holds_five_files_and_none_is_a_pickle(model):
    assert sorted(path.name for path in model.iterdir()) == FILES
    for path in model.iterdir():
        assert not zipfile.is_zipfile(path)  # what torch.save writes
        with pytest.raises(ValueError, match=r"opcode|pickle"):
            list(pickletools.genops(path.read_bytes()))


def test_loading_unpickles_nothing(model):
    code = """if True:
        import pickle, sys
        from anomaly_ae import Dense, load
        seen = []
        sys.addaudithook(lambda event, args: seen.append(args) if event == "pickle.find_class" else None)
        load(sys.argv[1])
        print(len(seen))
        pickle.loads(pickle.dumps(Dense))
        print(len(seen))"""
    ran = subprocess.run([sys.executable, "-c", code, model], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["0", "1"]  # the second shows that the hook hears


@pytest.mark.parametrize("calibration", ["split", "cross"])
def test_without_a_memory_no_training_row_is_in_the_folder(tmp_path, calibration):
    folder = quick(calibration=calibration, effort="fast").fit(X).save(tmp_path / "model")
    everything = b"".join(contents(folder).values())
    for kind in ("<f8", ">f8"):
        assert not any(cell.tobytes() in everything for cell in X.astype(kind).ravel())
    assert not any(row.tobytes() in everything for row in X.astype("<f4"))
    inner = X[((X.min(0) < X) & (X.max(0) > X)).all(1)]  # the contract says each column's range
    assert len(inner) > len(X) / 2
    assert not any(repr(float(cell)).encode() in everything for cell in inner.ravel())
    mean = load(folder).folds_[0].encoding.state["mean"]
    assert mean.tobytes() in everything  # so a row would have been found


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0, 0.5, -1])
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_noticed(copy, name, where):
    data = bytearray((copy / name).read_bytes())
    data[where if where in (0, -1) else len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ModelFolderError, match="damaged" if name == "manifest.json" else name):
        load(copy)


def test_no_byte_of_the_manifest_can_be_another(copy):
    path, survived = copy / "manifest.json", []
    data = path.read_bytes()
    for at in range(len(data.rstrip())):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            load(copy)
        except ModelFolderError:
            continue
        survived.append(path.read_text()[max(0, at - 15) : at + 5])
    assert survived == []


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_noticed(copy, name, keep):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ModelFolderError, match=name):
        load(copy)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_noticed(copy, name):
    (copy / name).unlink()
    with pytest.raises(ModelFolderError, match=name):
        load(copy)


def test_a_newer_model_is_refused_with_both_versions(copy):
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "version": manifest["version"] + 41}))
    with pytest.raises(ModelFolderError, match=rf"{manifest['version']}\b.*\b{manifest['version'] + 41}\b"):
        load(copy)


def test_what_scorers_remember_alike_is_stored_once(model):
    remembered = [name for name in storage.load(model).weights if name.endswith(".memory")]
    with safe_open(model / "weights.safetensors", "pt") as file:
        written = [name for name in remembered if name in file.keys()]  # noqa: SIM118
    assert len(remembered) == 4 * len(written) > 0  # of four scorers


def test_a_folder_of_the_format_before_is_read(copy):
    before, path = load(copy), copy / "weights.safetensors"
    save_file({name: tensor.clone() for name, tensor in storage.load(copy).weights.items()}, path)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest |= {"version": 1, "sha256": manifest["sha256"] | {path.name: storage.digest(path)}}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert (load(copy).anomaly_score(X) == before.anomaly_score(X)).all()


@pytest.mark.parametrize("manifest", ["[]", "{}", "null", '{"format": "other", "version": 1, "sha256": {}}', "\xff"])
def test_a_manifest_of_something_else_is_refused(copy, manifest):
    (copy / "manifest.json").write_bytes(manifest.encode("latin-1"))
    with pytest.raises(ModelFolderError, match="manifest"):
        load(copy)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_model_is_replaced_only_when_asked_for(copy):
    other, before = quick(VAEDetector).fit(X), contents(copy.parent)
    with pytest.raises(OutputError, match="exists"):
        other.save(copy)
    assert contents(copy.parent) == before
    other.save(copy, overwrite=True)
    assert np.array_equal(load(copy).anomaly_score(NEW), other.anomaly_score(NEW))
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_where_a_link_stands_the_folder_behind_it_is_replaced(copy):
    other, link = quick(VAEDetector).fit(X), copy.parent / "current"
    link.symlink_to(copy)
    assert other.save(link, overwrite=True) == link
    assert link.is_symlink()
    assert np.array_equal(load(copy).anomaly_score(NEW), other.anomaly_score(NEW))


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_model_is_never_replaced(tmp_path, model, overwrite):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("irreplaceable")
    before = contents(tmp_path)
    for place in ("thesis", "thesis/chapter", "thesis/chapter/model"):
        with pytest.raises(OutputError, match="thesis"):
            load(model).save(tmp_path / place, overwrite=overwrite)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("place", ["new", "empty", "deep/er/new"])
def test_a_new_or_empty_place_will_do(tmp_path, model, place):
    (tmp_path / "empty").mkdir()
    assert contents(load(model).save(tmp_path / place)) == contents(model)


def test_a_detector_that_cannot_be_stored_leaves_nothing(tmp_path):
    detector = quick(backbone=Dense(hidden=range(8, 9))).fit(X)
    with pytest.raises(ConfigError, match="range"):
        detector.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_save_that_runs_out_of_space_leaves_what_was_there(copy, overwrite):
    detector, target = quick(VAEDetector).fit(X), copy if overwrite else copy.parent / "new"
    before, (soft, hard) = contents(copy.parent), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # bytes a file may have; the weights have more
    try:
        with pytest.raises((OSError, AnomalyError)):
            detector.save(target, overwrite)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(copy.parent) == before
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


# --- constructor calls as trees and YAML -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DETECTORS)
def test_yaml_gives_the_same_detector(kind):
    back = loads(dumps(DETECTORS[kind]))
    assert type(back) is type(DETECTORS[kind])
    assert repr(back.get_params()) == repr(DETECTORS[kind].get_params())
    assert dumps(back) == dumps(DETECTORS[kind])


@pytest.mark.parametrize("spell_out", [True, False])
@pytest.mark.parametrize("scorer", [2 * ReconstructionError(power=1) + 0.5 * KLScore(), ReconstructionError() * 3])
def test_a_weighted_sum_survives_as_a_tree(scorer, spell_out):
    tree = to_tree(scorer, spell_out)
    assert json.loads(json.dumps(tree)) == tree  # plain data
    back = from_tree(tree, vocabulary())
    assert type(back) is type(scorer)
    assert repr(back) == repr(scorer)
    assert to_tree(back, spell_out) == tree


@pytest.mark.parametrize("value", [np.array([{"a": 1}]), {"a": 1}, object(), Dense])
def test_what_is_no_plain_value_does_not_become_a_tree(value):
    with pytest.raises(ConfigError, match="stores"):
        to_tree(Dense(hidden=value))


@pytest.mark.parametrize("content", ["text", b"bytes"])
def test_a_file_appears_whole_or_leaves_nothing(tmp_path, content, monkeypatch):
    target = tmp_path / "file"
    write_whole(target, content)
    written = content if isinstance(content, bytes) else content.encode()
    assert target.read_bytes() == written

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(target, b"other")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": written}
