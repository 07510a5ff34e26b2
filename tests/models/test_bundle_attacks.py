"""Importing a bundle runs nothing from it: one test for every way to try."""

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from models import bundle_files
from models.bundle import CONFIG, METADATA, NETWORK, WEIGHTS
from models.bundle import bundle_files as files_of
from models.bundle_files import BundleRefused
from models.bundle_reader import read_bundle
from models.design import DesignRefused
from models.networks import build
from protocol.errors import BitHiveError

MLP = "monai.networks.nets.FullyConnectedNet"


@pytest.fixture(scope="module")
def honest(card_of):
    network = build("mlp", (4,), 1)
    return files_of(
        network, network="mlp", input_shape=(4,), card=card_of(network, "mlp", (4,))
    )  # fmt: skip


@pytest.fixture
def bundle(tmp_path, honest):
    """Write the honest bundle with some files replaced; return its folder."""

    def write(**changed):
        for name, content in {**honest, **changed}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        return tmp_path

    return write


def config(network=None, **others):
    plain = {"_target_": MLP, "in_channels": 4, "out_channels": 1, "hidden_channels": [32],
             "act": ["relu", {"inplace": False}]}  # fmt: skip
    return json.dumps({NETWORK: {**plain, **(network or {})}, **others}).encode()


def refuse(folder, match=None, error=BundleRefused, **options):
    with pytest.raises(error, match=match):
        read_bundle(folder, **options)


def test_the_honest_bundle_is_read(bundle):
    assert read_bundle(bundle()).module is not None
    assert read_bundle(bundle(**{CONFIG: config()})).module is not None


def test_monais_parser_would_run_the_expression_that_is_refused_here(bundle, tmp_path):
    mark = tmp_path / "ran"
    attack = f"$__import__('pathlib').Path({str(mark)!r}).touch() or 32"
    folder = bundle(**{CONFIG: config({"hidden_channels": [attack]})})
    refuse(folder, "expression")
    assert not mark.exists()
    parser = ConfigParser()
    parser.read_config(str(folder / CONFIG))
    parser.get_parsed_content(NETWORK)
    assert mark.exists()


def test_monais_parser_would_call_the_target_that_is_refused_here(bundle, tmp_path):
    mark = tmp_path / "made"
    attack = json.dumps({NETWORK: {"_target_": "os.mkdir", "path": str(mark)}}).encode()
    folder = bundle(**{CONFIG: attack})
    refuse(folder, "list of constructors", DesignRefused)
    assert not mark.exists()
    ConfigParser(json.loads(attack)).get_parsed_content(NETWORK)
    assert mark.exists()


@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.eval", "subprocess.run", "torch.load", "FullyConnectedNet",
     "models.bundle_reader.read_bundle", "monai.bundle.load", "@evil", "", "$print"],
)  # fmt: skip
def test_a_constructor_that_is_not_on_the_list_is_refused(bundle, target):
    refuse(bundle(**{CONFIG: config({"_target_": target})}), None, BitHiveError)


def test_a_target_below_an_argument_is_never_built(bundle):
    folder = bundle(**{CONFIG: config({"act": {"_target_": "os.getcwd"}})})
    refuse(folder, "argument act", DesignRefused)


@pytest.mark.parametrize(
    ("others", "match"),
    [
        ({"imports": ["$import os"]}, "expression"),
        ({"a": {"b": [" $print(1)"]}}, "expression"),
        ({"a": "%other.json#network"}, "includes"),
        ({"a": "@network_def.forward()"}, "reference"),
        ({"a": "x@y"}, "reference"),
        ({"+network_def": {"out_channels": 2}}, "merges"),
        ({"~network_def": None}, "merges"),
        ({"a#b": 1}, "merges"),
        ({"network_def::act": 1}, "merges"),
        ({"a": {"_disabled_": True}}, "steers"),
        ({"a": {"_requires_": ["x"]}}, "steers"),
        ({"a": {"_mode_": "debug"}}, "steers"),
        ({"_meta_": {}}, "steers"),
    ],
)
def test_whatever_could_act_in_a_configuration_is_refused(bundle, others, match):
    refuse(bundle(**{CONFIG: config(**others)}), match)


@pytest.mark.parametrize("key", ["_disabled_", "_requires_", "_mode_", "__class__"])
def test_a_key_that_steers_the_loader_is_refused_in_the_network_too(bundle, key):
    refuse(bundle(**{CONFIG: config({key: "partial"})}), "steers", network_only=True)


def test_other_parts_may_be_left_unread_but_never_the_network(bundle):
    acting = {"imports": ["$import os"], "handlers": [{"_target_": "x", "_disabled_": "$1"}]}
    found = read_bundle(bundle(**{CONFIG: config(**acting)}), network_only=True)
    assert f"{CONFIG}: imports" in found.ignored
    refuse(bundle(**{CONFIG: config({"bias": "$True"}, **acting)}), None, network_only=True)


def test_a_reference_to_a_number_of_the_same_document_is_followed(bundle):
    folder = bundle(
        **{CONFIG: config({"hidden_channels": "@sizes::hidden"}, sizes={"hidden": [32]})}
    )
    assert read_bundle(folder).design.arguments["hidden_channels"] == [32]


@pytest.mark.parametrize("where", ["@absent", "@other", "@loop", "@network_def", "@_meta_::x"])
def test_a_reference_to_anything_else_is_refused(bundle, where):
    others = {"other": {"_target_": "os.getcwd"}, "loop": "@loop"}
    folder = bundle(**{CONFIG: config({"out_channels": where}, **others)})
    refuse(folder, None, BitHiveError)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"in_channels": 10**9}, "out of range"),
        ({"hidden_channels": [4096] * 16, "in_channels": 10**6}, "parameters"),
        ({"hidden_channels": [4] * 17}, "out of range"),
        ({"out_channels": True}, "out of range"),
        ({"out_channels": 1.5}, "out of range"),
        ({"act": ["relu", {"__class__": 1}]}, "steers|out of range"),
        ({"act": "hardsigmoid"}, "out of range"),
        ({"forward": 1}, "takes no argument"),
    ],
)
def test_an_argument_that_is_not_listed_or_out_of_range_is_refused(bundle, changed, match):
    refuse(bundle(**{CONFIG: config(changed)}), match, BitHiveError)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"\xff\xfe", b'{"network_def": NaN}', b'{"a": 1, "a": 2}', b"[" * 100_000,
     b'{"network_def": []}', b'{"a": ' * 30 + b"1" + b"}" * 30, b"network_def:\n  _target_: x"],
    ids=range(10),
)  # fmt: skip
def test_a_configuration_that_is_no_plain_object_is_refused(bundle, content):
    refuse(bundle(**{CONFIG: content}))


def test_a_configuration_that_is_too_long_is_refused(bundle):
    refuse(bundle(**{CONFIG: config(a="x" * bundle_files.TEXT_BYTES_MAX)}), "longer")


class Touch:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"output.bias": x}], ids=["whole", "in"])
def test_a_pickle_among_the_weights_is_never_loaded(bundle, tmp_path, wrap):
    buffer, mark = io.BytesIO(), tmp_path / "unpickled"
    torch.save(wrap(Touch(mark)), buffer)
    refuse(bundle(**{WEIGHTS: buffer.getvalue()}), "other than tensors")
    refuse(bundle(**{WEIGHTS: pickle.dumps(Touch(mark))}), "format of torch.save")
    assert not mark.exists()


def saved(state, **options):
    buffer = io.BytesIO()
    torch.save(state, buffer, **options)
    return buffer.getvalue()


def state_with(**changed):
    return {**build("mlp", (4,), 1).state_dict(), **changed}


@pytest.mark.parametrize(
    ("state", "match"),
    [
        (state_with(extra=torch.zeros(1)), "other tensors"),
        ({"output.bias": torch.zeros(1)}, "other tensors"),
        (state_with(**{"output.bias": torch.zeros(1).expand(10**12)}), "does not fit"),
        (state_with(**{"output.bias": torch.zeros(2)}), "does not fit"),
        (state_with(**{"output.bias": torch.tensor([float("nan")])}), "not finite"),
        (state_with(**{"output.bias": torch.tensor([1j])}), "kinds of numbers"),
        (state_with(**{"output.bias": torch.tensor([1])}), "kinds of numbers"),
        (state_with(**{"output.bias": torch.zeros(1).to_sparse()}), "does not fit"),
        ([torch.zeros(1)], "named tensors"),
        ({"model": {"a": "text"}}, "named tensors"),
    ],
)
def test_weights_that_are_not_the_networks_are_refused(bundle, state, match):
    refuse(bundle(**{WEIGHTS: saved(state)}), match)


def test_weights_in_the_old_format_are_refused(bundle):
    old = saved(state_with(), _use_new_zipfile_serialization=False)
    refuse(bundle(**{WEIGHTS: old}), "format of torch.save")


def test_weights_that_unpack_to_more_than_they_are_are_refused(bundle, honest):
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(honest[WEIGHTS])) as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for entry in plain.infolist():
            archive.writestr(entry.filename, plain.read(entry))
    refuse(bundle(**{WEIGHTS: packed.getvalue()}), "unpacks to more")


def test_a_checkpoint_with_the_weights_below_a_key_is_read(bundle):
    folder = bundle(**{WEIGHTS: saved({"model": state_with(), "epoch": 3})})
    assert read_bundle(folder).module is not None


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_a_bundle_without_what_is_needed_is_refused(bundle, missing):
    folder = bundle()
    (folder / missing).unlink()
    refuse(folder, "missing")


def test_scripts_and_other_files_are_named_and_never_opened(bundle):
    folder = bundle()
    (folder / "scripts").mkdir()
    (folder / "scripts" / "__init__.py").write_text("raise SystemExit")
    assert "scripts/__init__.py" in read_bundle(folder).ignored


def test_a_link_in_a_folder_is_not_followed(bundle, tmp_path_factory):
    folder, secret = bundle(), tmp_path_factory.mktemp("outside") / "secret.json"
    (folder / METADATA).rename(secret)
    (folder / METADATA).symlink_to(secret)
    refuse(folder, "link")


def archive_of(files, entries=()):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"name/{name}", content)
        for entry in entries:
            archive.writestr(entry, b"x")
    return buffer.getvalue()


def link():
    entry = zipfile.ZipInfo("name/link")
    entry.external_attr = 0o120777 << 16
    return entry


@pytest.mark.parametrize(
    ("entry", "match"),
    [("../../evil", "outside"), ("/etc/evil", "outside"), ("name/../../evil", "outside"),
     ("C:/evil", "outside"), ("..\\evil", "outside"), (link(), "link"),
     ("other/configs/inference.json", "2 bundles"), (f"name/{CONFIG}", "twice")],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_leaves_itself_is_refused(tmp_path, honest, entry, match):
    path = tmp_path / "bundle.zip"
    path.write_bytes(archive_of(honest, [entry]))
    refuse(path, match)
    assert [one.name for one in tmp_path.iterdir()] == ["bundle.zip"]


def test_an_archive_that_unpacks_to_much_is_refused(tmp_path, honest):
    path = tmp_path / "bundle.zip"
    path.write_bytes(archive_of({**honest, CONFIG: b" " * (64 * 2**20)}))
    assert path.stat().st_size < 2**20
    refuse(path, "longer")


def test_an_archive_of_too_many_files_is_refused(tmp_path, honest):
    path = tmp_path / "bundle.zip"
    path.write_bytes(archive_of(honest, [f"name/{n}" for n in range(1001)]))
    refuse(path, "more than")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x80\x04."], ids=range(4))
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "bundle.zip"
    path.write_bytes(content)
    refuse(path, "no archive")


def test_a_path_that_is_not_there_is_refused(tmp_path):
    refuse(tmp_path / "absent.zip", "cannot be read")


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8)
        | st.sampled_from(["$1", "%a", "@network_def", "os.system", MLP]),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["_target_", "_mode_", "act", "norm", "a", "in_channels", "+a"]),
            inner, max_size=4,
        ),
        max_leaves=8,
    )
)  # fmt: skip
def test_whatever_describes_a_network_the_answer_is_a_network_or_a_named_error(
    tmp_path_factory, honest, described
):
    folder = tmp_path_factory.mktemp("bundle")
    document = json.dumps({NETWORK: described}).encode()
    for name, content in {**honest, CONFIG: document}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with pytest.raises(BitHiveError):
        read_bundle(folder)
