"""Weight files: every format read lazily, nothing executed, damaged and hostile files refused, writing whole and repeatable."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import typing
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from ham.runtime import UsageError
from ham.tensor_files import digest, index, new_folder, write_file, write_shards

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"
)


def some_tensors() -> dict[str, torch.Tensor]:
    """Tensors of several dtypes and shapes, two of them views of one storage, one not contiguous."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(6, generator=generator)
    return {
        "a.weight": torch.randn(3, 4, generator=generator),
        "a.bias": torch.randn(5, generator=generator).half(),
        "brain": torch.randn(2, 3, generator=generator).bfloat16(),
        "turned": torch.randn(2, 5, generator=generator).t(),
        "head": shared[:2],
        "tail": shared[2:],
        "empty": torch.empty(0, 3),
        "count": torch.tensor(7),
        "mask": torch.tensor([True, False, True]),
    }


def assert_equal(
    found: typing.Mapping[str, torch.Tensor], expected: typing.Mapping[str, torch.Tensor]
) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def refused(path: Path, match: str) -> str:
    """Read everything; expect one line without torch's advice or escape codes. Returns it."""
    with pytest.raises(UsageError, match=match) as caught:
        dict(index(path).stream())
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text and text.isprintable() and "weights_only" not in text
    return text


# --------------------------------------------------------------------------------------------------------------- formats


def save_any(form: str, tensors: dict[str, torch.Tensor], file: Path) -> None:
    if form == "safetensors":
        write_file(file, tensors)
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("suffix", ["weights.safetensors", "weights.bin", "weights"])
def test_every_format_is_detected_from_the_content(form: str, suffix: str, tmp_path: Path) -> None:
    expected = some_tensors()
    save_any(form, expected, tmp_path / suffix)
    found = index(tmp_path / suffix)
    assert_equal(dict(found.stream()), expected)
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == (tuple(value.shape), value.dtype)
        assert found[name].file == tmp_path / suffix
        assert torch.equal(found.read(name), value)
    assert found.read("a.bias", dtype=torch.float32).dtype == torch.float32
    some = dict(found.stream(lambda name: name.startswith("a."), "cpu", torch.float64))
    assert {name: value.dtype for name, value in some.items()} == {
        "a.weight": torch.float64,
        "a.bias": torch.float64,
    }


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_changing_a_tensor_that_was_read_leaves_the_file_alone(form: str, tmp_path: Path) -> None:
    save_any(form, some_tensors(), tmp_path / "w.pt")
    before = (tmp_path / "w.pt").read_bytes()
    index(tmp_path / "w.pt").read("a.weight").fill_(9.0)
    assert (tmp_path / "w.pt").read_bytes() == before


class Settings:
    """A configuration object of some project's own."""

    def __init__(self) -> None:
        self.lr, self.names = 1e-3, {"a", "b"}


class AttributeDict(dict):
    """What easydict, yacs and mmengine keep options and weights in."""

    def __setattr__(self, name: str, value: object) -> None:
        self[name] = value


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapping", ["model", "state_dict", "net", "student"])
def test_foreign_objects_beside_the_weights_are_skipped(legacy: bool, wrapping: str, tmp_path: Path) -> None:
    """numpy scalars, options, schedules: read as if they were not there, and none of their code runs."""
    expected = some_tensors()
    torch.save(
        {
            wrapping: expected,
            "best_top1": np.float64(61.2),
            "history": np.zeros(4),
            "cfg": Settings(),
            "args": argparse.Namespace(lr=1),
            "options": AttributeDict(a=1),
            "when": __import__("datetime").datetime(2025, 1, 1),
            "path": Path("x"),
            "epoch": 3,
            "note": {"heads": 4, "sizes": [3, 4]},
        },
        tmp_path / "best.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    found = index(tmp_path / "best.pth")
    assert_equal(dict(found.stream()), expected)
    assert found.metadata == {"epoch": 3, "note": {"heads": 4, "sizes": [3, 4]}}


def test_weights_in_subclasses_of_dict_and_parameters_are_read(tmp_path: Path) -> None:
    layer = nn.Linear(2, 3)
    torch.save({"model": AttributeDict(dict(layer.named_parameters()))}, tmp_path / "a.pth")
    assert_equal(dict(index(tmp_path / "a.pth").stream()), layer.state_dict())
    torch.save(layer.state_dict(), tmp_path / "b.pth")  # an OrderedDict with an attribute
    assert_equal(dict(index(tmp_path / "b.pth").stream()), layer.state_dict())


def test_an_options_object_under_a_wrappers_name_does_not_hide_the_weights(tmp_path: Path) -> None:
    torch.save({"model": Settings(), "state_dict": some_tensors()}, tmp_path / "a.pth")
    assert_equal(dict(index(tmp_path / "a.pth").stream()), some_tensors())


# ----------------------------------------------------------------------------------------------------------- TorchScript


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.randn(6, 2))
        self.out_proj = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out_proj(x @ self.in_proj_weight[:2])


class SmallCLIP(nn.Module):
    """Modules, parameters at the top, buffers, constants and lists, as in OpenAI's archives."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        self.attn = Attention()
        self.text_projection = nn.Parameter(torch.randn(2, 3))
        self.logit_scale = nn.Parameter(torch.tensor(4.6))
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))
        self.input_resolution, self.sizes = 224, [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attn(self.visual(x)) @ self.text_projection * self.logit_scale.exp()


@pytest.mark.parametrize("kind", ["script", "trace"])
@pytest.mark.parametrize("half", [False, True])
def test_torchscript_archives_equal_torch_jit(kind: str, half: bool, tmp_path: Path) -> None:
    model = SmallCLIP().eval()
    model = model.half() if half else model
    if kind == "trace":
        archive = torch.jit.trace(model, torch.randn(3, 2).to(model.text_projection.dtype))
    else:
        archive = torch.jit.script(model)
    torch.jit.save(archive, str(tmp_path / "clip.pt"))
    found = index(tmp_path / "clip.pt")
    assert found.torchscript
    assert_equal(dict(found.stream()), torch.jit.load(str(tmp_path / "clip.pt")).state_dict())
    assert found["text_projection"].dtype == (torch.float16 if half else torch.float32)


class Bomb(nn.Module):
    """Its __setstate__ overwrites a file as soon as torch.jit.load opens the archive."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    @torch.jit.export
    def __getstate__(self):
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: typing.Tuple[torch.Tensor, bool]):  # noqa: UP006
        self.w = state[0]
        self.training = state[1]
        torch.from_file("victim", True, 8, dtype=torch.uint8).fill_(88)

    def forward(self, x: torch.Tensor):
        return x


class Loop(Bomb):
    """Its __setstate__ never ends."""

    @torch.jit.export
    def __setstate__(self, state: typing.Tuple[torch.Tensor, bool]):  # noqa: UP006
        self.w = state[0]
        self.training = state[1]
        while True:
            self.w = self.w + 1


class Holder(nn.Module):
    """A good module with a hostile one inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.visual, self.inner = nn.Linear(2, 2), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x)


def test_a_torchscript_archive_runs_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("victim").write_text("precious data")
    for number, module in enumerate((Bomb(), Loop())):
        file = tmp_path / f"evil{number}.pt"
        torch.jit.script(module).save(str(file))
        refused(file, "holds no tensors")
        torch.jit.script(Holder(module)).save(str(file))
        assert set(index(file)) == {"visual.weight", "visual.bias"}
    assert Path("victim").read_text() == "precious data"


# --------------------------------------------------------------------------------------------------------- hostile pickles


class Touch:
    def __init__(self, call: Callable[..., object], *args: object) -> None:
        self.call = (call, args)

    def __reduce__(self):
        return self.call


def test_no_pickle_runs_code(tmp_path: Path) -> None:
    target = tmp_path / "touched"
    payloads = [
        Touch(Path.touch, target),
        Touch(exec, f"open({str(target)!r}, 'w')"),
        Touch(eval, f"open({str(target)!r}, 'w')"),
        Touch(subprocess.check_call, ["touch", str(target)]),
        Touch(getattr, target, "touch"),
        Touch(torch.load, str(target)),
        Touch(torch.hub.load, "a/b", "c"),
    ]
    for number, payload in enumerate(payloads):
        for legacy in (False, True):
            file = tmp_path / f"{number}{legacy}.pth"
            torch.save({"model": payload}, file, _use_new_zipfile_serialization=not legacy)
            refused(file, "cannot be read as weights")
            torch.save(
                {"model": {"w": torch.ones(2)}, "x": payload}, file, _use_new_zipfile_serialization=not legacy
            )
            assert list(index(file)) == ["w"]
    assert not target.exists()


def archive_of(
    data: bytes, storages: dict[str, bytes], file: Path, compression: int = zipfile.ZIP_STORED
) -> Path:
    """Write a zip as torch.save does, with any pickle inside."""
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", b"3\n")
    return file


def pickled(build: Callable[[typing.Any], object]) -> bytes:
    """Pickle what `build` makes of a stand-in storage (persistent id)."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: object) -> object:
            return value.pid if isinstance(value, Stored) else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(build(Stored))
    return stream.getvalue()


class Stored:
    def __init__(self, numel: object = 4, key: object = "0", kind: object = torch.FloatStorage) -> None:
        self.pid = ("storage", kind, key, "cpu", numel)


class Rebuild:
    def __init__(
        self, *args: object, function: Callable[..., object] = torch._utils._rebuild_tensor_v2
    ) -> None:
        self.call = (function, (*args, False, OrderedDict()))

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (lambda s: {"w": Rebuild(s(), 0, (2, 2), (2, 1))}, None),  # the control
        (lambda s: {"w": Rebuild(s(), 0, (2**40,), (1,))}, "does not fit"),
        (lambda s: {"w": Rebuild(s(), 0, (2**40,), (0,))}, "does not fit"),
        (lambda s: {"w": Rebuild(s(), 0, (2**62, 2**62), (1, 1))}, "does not fit"),
        (lambda s: {"w": Rebuild(s(2**40), 0, (2,), (1,))}, "bytes where"),
        (lambda s: {"w": Rebuild(s(2**70), 0, (2,), (1,))}, "damaged tensor storage"),
        (lambda s: {"w": Rebuild(s(-4), 0, (2,), (1,))}, "damaged tensor storage"),
        (lambda s: {"w": Rebuild(s("4"), 0, (2,), (1,))}, "damaged tensor storage"),
        (lambda s: {"w": Rebuild(s(), -1, (2,), (1,))}, "damaged description"),
        (lambda s: {"w": Rebuild(s(), 3, (2,), (1,))}, "does not fit"),
        (lambda s: {"w": Rebuild(s(), 0, (2,), (-1,))}, "damaged description"),
        (lambda s: {"w": Rebuild(s(), 0, (2,), (2**40,))}, "does not fit"),
        (lambda s: {"w": Rebuild(s(), 0, (-2,), (1,))}, "damaged description"),
        (lambda s: {"w": Rebuild(s(), 0, (2, 2), (1,))}, "damaged description"),
        (lambda s: {"w": Rebuild(s(), 0, 4, 1)}, "damaged description"),
        (lambda s: {"w": Rebuild(s(), 0, (2.0,), (1,))}, "damaged description"),
        (lambda s: {"w": Rebuild(7, 0, (2,), (1,))}, "damaged description"),
        (lambda s: {"w": Rebuild(s(key="9"), 0, (2,), (1,))}, "lacks the numbers"),
        (lambda s: {"w": Rebuild(s(key="../../etc/passwd"), 0, (2,), (1,))}, "lacks the numbers"),
        (lambda s: {"w": Rebuild(s(kind=dict), 0, (2,), (1,))}, "unsupported type"),
        (lambda s: [Rebuild(s(), 0, (2,), (1,)), Rebuild(s(2), 0, (2,), (1,))], "two ways"),
        (lambda s: {"w": Rebuild(function=torch._utils._rebuild_sparse_tensor)}, "unsupported kind"),
    ],
)
def test_tensors_outside_their_storage_are_refused(
    description: Callable[[typing.Any], object], message: str | None, tmp_path: Path
) -> None:
    file = archive_of(
        pickled(description), {"0": np.arange(4, dtype=np.float32).tobytes()}, tmp_path / "w.pt"
    )
    if message is None:
        assert index(file).read("w").tolist() == [[0.0, 1.0], [2.0, 3.0]]
    else:
        refused(file, message)


def nested_tuple(depth: int) -> bytes:
    return b")" + b"\x85" * depth  # (((...),),)


HOSTILE_PICKLES = [
    b"\x80\x02}r\xff\xff\xff\x7f.",  # a memo index of two thousand million: the C unpickler allocates 16 GiB
    b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # a bytearray of 1 TiB
    b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",  # bytes of 1 TiB
    b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b".",
    b"\x80\x02}" + nested_tuple(200_000) + b"K\x01s.",  # hashing it overflows the C stack
    b"\x80\x02}(" + nested_tuple(200_000) + b"K\x01u.",
    b"\x80\x02(" + nested_tuple(200_000) + b"K\x01d.",
    b"\x80\x04\x8f(" + nested_tuple(200_000) + b"\x90.",  # a set
    b"\x80\x04(" + nested_tuple(200_000) + b"\x91.",
    b"\x80\x02" + b"]" * 7_000_000 + b".",
    b"\x80\x02\x82\x01.",  # an extension code
    b"\x80\x02I" + b"9" * 10_000 + b"\n.",
    b"\x80\x02Q.",
    b"\x80\x02X\x01\x00\x00\x00aQ.",
    b"\x80\x02cposix\nsystem\n(X\x04\x00\x00\x00truetR.",
    b"(S'true'\nios\nsystem\n.",
    b"\x80\x05\x97.",
    b"",
    b"\x80",
    b"\x80\x02",
    b".",
    b"0.",
]


def test_hostile_pickles_are_refused_cheaply(tmp_path: Path) -> None:
    """In a process with 3 GiB of address space to spare: no allocation, no crash, one line each."""
    files = [archive_of(data, {}, tmp_path / f"{number}.pt") for number, data in enumerate(HOSTILE_PICKLES)]
    code = (
        "import resource, sys\n"
        "from ham.tensor_files import index\n"
        "from ham.runtime import UsageError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30,) * 2)\n"
        "for file in sys.argv[1:]:\n"
        "    try:\n"
        "        index(file)\n"
        "    except UsageError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-500:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(files)
    assert all(line.startswith(f"{file}: cannot be read as weights") for file, line in zip(files, lines))


def test_a_whole_pickled_model_is_refused_by_its_class(tmp_path: Path) -> None:
    for number, content in enumerate(
        (nn.Linear(2, 2), {"model": nn.Linear(2, 2)}, {"x": nn.Linear(2, 2), "epoch": 3})
    ):
        torch.save(content, tmp_path / f"{number}.pth")
        assert "state_dict()" in refused(
            tmp_path / f"{number}.pth", r"whole pickled object of class torch\.nn.*Linear"
        )


def test_other_contents_are_named(tmp_path: Path) -> None:
    for content, message in (
        ([1, 2], "pickled list"),
        ({"epoch": 3}, "holds no tensors"),
        (
            {"gen": {"w": torch.ones(2)}, "disc": {"w": torch.ones(2)}},
            "several sets of tensors \\(gen, disc\\)",
        ),
        (torch.ones(3), "without named tensors"),
    ):
        torch.save(content, tmp_path / "x.pth")
        refused(tmp_path / "x.pth", message)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"w": 1}))
    refused(tmp_path / "x.pkl", "torch.save did not write")
    archive_of(
        pickled(lambda s: {"w": Rebuild(s(), 0, (2,), (1,))}),
        {"0": bytes(16)},
        tmp_path / "packed.pt",
        zipfile.ZIP_DEFLATED,
    )
    refused(tmp_path / "packed.pt", "compressed tensors")


# ------------------------------------------------------------------------------------------------------- files that are none


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"\n\n  <html><head></head></html>", "web page"),
        (b"GGUF\x03\0\0\0" + bytes(40), "GGUF"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "PNG"),
        (b"lr: 1e-3\nepochs: 60\n", "text file"),
        (b'{"a": 1}', "text file"),
        (bytes(100), "no known format"),
        (b"\xff" * 100, "no known format"),
        (b"\x80\x02K\x01.", "torch.save did not write"),
        (b"PK\x03\x04 not a whole archive", "was cut"),
        ((8).to_bytes(8, "little") + b"{      }", "without tensors"),
        ((2**39).to_bytes(8, "little") + b"{" + bytes(50), "safetensors"),
        ((2).to_bytes(8, "little") + b"{]", "safetensors"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_files_that_are_no_weights_are_named(
    content: bytes, message: str, suffix: str, tmp_path: Path
) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    text = refused(file, message)
    assert "expected .safetensors" in text


def header(entries: dict) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "entries",
    [
        {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"w": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}},
        {"w": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [4]}},
        {"w": [1]},
        {
            "w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
            "v": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        },
    ],
)
def test_a_hostile_safetensors_header_is_refused(entries: dict, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(header(entries) + bytes(16))
    refused(tmp_path / "w.safetensors", "safetensors")


@pytest.mark.parametrize("form", ["safetensors", "zip", "legacy"])
def test_a_cut_file_is_refused_wherever_it_was_cut(form: str, tmp_path: Path) -> None:
    save_any(form, {"w": torch.ones(64), "v": torch.ones(3)}, tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    for length in [*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1]:
        (tmp_path / "cut").write_bytes(whole[:length])
        refused(tmp_path / "cut", "cannot be read as weights")


# ----------------------------------------------------------------------------------------------------------------- fuzzing


def templates() -> list[bytes]:
    """One small valid file of every format."""
    made = []
    for legacy in (False, True):
        stream = io.BytesIO()
        torch.save({"model": {"w": torch.ones(3)}, "e": 1}, stream, _use_new_zipfile_serialization=not legacy)
        made.append(stream.getvalue())
    made.append(header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4))
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), stream)
    return [*made, stream.getvalue()]


TEMPLATES = templates()


def only_usage_errors(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        found = index(file)
        for name in found:
            found.read(name)
    except UsageError as error:
        assert "\n" not in str(error)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_raise_usage_errors_only(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(TEMPLATES)))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    only_usage_errors(tmp_path / "w", bytes(content[:cut]))


OPERATIONS = [
    getattr(pickle, name)
    for name in dir(pickle)
    if name.isupper() and isinstance(getattr(pickle, name), bytes)
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(st.sampled_from(OPERATIONS), st.binary(max_size=3), st.just(b"ctorch\nFloatStorage\n")),
        max_size=40,
    )
)
def test_random_pickles_raise_usage_errors_only(tmp_path: Path, operations: list[bytes]) -> None:
    data = b"\x80\x02" + b"".join(operations) + b"."
    archive_of(data, {"0": bytes(16)}, tmp_path / "base")
    only_usage_errors(tmp_path / "w", (tmp_path / "base").read_bytes())
    only_usage_errors(tmp_path / "w", data)


# ------------------------------------------------------------------------------------------------------------------ folders


def write_index(folder: Path, content: object, name: str = "model.safetensors.index.json") -> Path:
    (folder / name).write_text(json.dumps(content))
    return folder


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    expected = some_tensors()
    assert write_shards(tmp_path, expected.items(), 30) > 3
    for source in (tmp_path, tmp_path / "model.safetensors.index.json"):
        found = index(source)
        assert_equal(dict(found.stream()), expected)
        assert len(found.files) > 3
    (tmp_path / "model.safetensors.index.json").unlink()
    assert_equal(dict(index(tmp_path).stream()), expected)  # the shards alone


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no 'weight_map'"),
        ([], "no 'weight_map'"),
        (3, "no 'weight_map'"),
        ({"weight_map": []}, "no 'weight_map'"),
        ({"weight_map": {}}, "no 'weight_map'"),
        ({"weight_map": {"w": 3}}, r"weight_map\['w'\] is 3"),
        ({"weight_map": {"w": None}}, r"weight_map\['w'\] is null"),
        ({"weight_map": {"w": ["a"]}}, "expected a file name"),
        ({"weight_map": {"w": ""}}, "expected a file name"),
        ({"weight_map": {"w": "../secret.safetensors"}}, "outside the folder"),
        ({"weight_map": {"w": "/etc/passwd"}}, "outside the folder"),
        ({"weight_map": {"w": "a/../../b"}}, "outside the folder"),
        ({"weight_map": {"w": "..\\b"}}, "outside the folder"),
        ({"weight_map": {"w": "C:\\b"}}, "outside the folder"),
        ({"weight_map": {"w": "gone.safetensors"}}, r"1 missing shard\(s\), e.g. gone.safetensors"),
        (
            {"weight_map": {"w": "a.safetensors", "v": "a.safetensors"}},
            "names 1 tensors that are not in the shards",
        ),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_a_broken_index_is_named(content: object, message: str, name: str, tmp_path: Path) -> None:
    write_file(tmp_path / "a.safetensors", {"w": torch.ones(2)})
    write_index(tmp_path, content, name)
    refused(tmp_path, message)
    refused(tmp_path / name, message)


def test_a_name_in_two_shards_is_named(tmp_path: Path) -> None:
    for number in (1, 2):
        write_file(tmp_path / f"model-{number}.safetensors", {"w": torch.ones(2)})
    refused(tmp_path, "'w' stands in the weights twice")


def test_a_folder_without_weights_names_what_it_has(tmp_path: Path) -> None:
    assert "best0.pth" not in refused(tmp_path, "no weights here")
    (tmp_path / "best0.pth").write_bytes(b"")
    assert "best0.pth" in refused(tmp_path, "no weights here")
    refused(tmp_path / "gone", "no such file or folder")
    os.mkfifo(tmp_path / "pipe.pth")
    refused(tmp_path / "pipe.pth", "neither a file nor a folder")


# ----------------------------------------------------------------------------------------------------------------- writing


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    metadata = {f"key{number}": str(number) for number in range(12)}
    for number in range(12):
        tensors = dict(sorted(some_tensors().items(), key=lambda pair: hash((pair[0], number))))
        write_file(
            tmp_path / f"{number}", tensors, dict(reversed(metadata.items())) if number % 2 else metadata
        )
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    assert_equal(load_file(tmp_path / "0"), some_tensors())
    assert index(tmp_path / "0").metadata == metadata


def test_the_library_and_we_write_the_same_numbers(tmp_path: Path) -> None:
    tensors = {name: value.clone().contiguous() for name, value in some_tensors().items()}
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    write_file(tmp_path / "ours", some_tensors(), {"format": "pt"})
    assert_equal(load_file(tmp_path / "ours"), load_file(tmp_path / "theirs"))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    write_file(tmp_path / "w.safetensors", {"w": torch.ones(2)})
    before = (tmp_path / "w.safetensors").read_bytes()

    def full_disk(tensor: torch.Tensor) -> memoryview:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ham.tensor_files.writing.raw_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_file(tmp_path / "w.safetensors", {"w": torch.zeros(2)})
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
    assert (tmp_path / "w.safetensors").read_bytes() == before


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model"
    with new_folder(out) as beside:
        (beside / "a").write_text("x")
        assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == ["model"] and (out / "a").read_text() == "x"

    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "empty") as beside:
        (beside / "a").write_text("x")
        raise KeyboardInterrupt
    assert not list((tmp_path / "empty").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "empty"]

    (tmp_path / ".empty.partial").mkdir()  # left by a process that was killed
    (tmp_path / ".empty.partial" / "old").write_text("x")
    with new_folder(tmp_path / "empty") as beside:
        (beside / "a").write_text("x")
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["a"]
    for taken, message in ((out, "model is not empty"), (out / "a", "a is a file")):
        with (
            pytest.raises(UsageError, match=f"{message}; expected a new or an empty folder"),
            new_folder(taken),
        ):
            raise AssertionError("nothing may be written")


def test_the_digest_follows_names_values_types_and_settings() -> None:
    tensors = some_tensors()
    same = digest(reversed(list(tensors.items())), 384, 128)
    assert digest(tensors.items(), 384, 128) == same and len(same) == 16
    others = [
        digest(tensors.items(), 256, 128),
        digest((tensors | {"count": torch.tensor(8)}).items(), 384, 128),
        digest((tensors | {"count": torch.tensor(7.0)}).items(), 384, 128),
        digest((tensors | {"turned": tensors["turned"].reshape(2, 5)}).items(), 384, 128),
    ]
    assert len({same, *others}) == 5
