"""Copies of datasets in the cache, named by digest: received, found whole, damaged, no room."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from trainable.common.errors import DataError
from trainable.config.trial import TrialConfig
from trainable.data.batches import TokenDataset, open_dataset
from trainable.data.copy import copies_folder, files_of, open_here, receive_copy


@pytest.fixture
def dataset(tiny_config) -> TokenDataset:
    trial = tiny_config()
    return open_dataset(trial.data, trial.model.context_length)


class Sender:
    """Sends a dataset's files in small pieces, and counts their bytes."""

    def __init__(self, dataset: TokenDataset, changed: str | None = None) -> None:
        self.sent = 0
        self._folder = dataset.folder
        self._changed = changed

    def __call__(self, name: str) -> Iterator[bytes]:
        content = bytearray((self._folder / name).read_bytes())
        if name == self._changed:
            content[len(content) // 2] ^= 1
        for start in range(0, len(content), 1000):
            self.sent += len(content[start : start + 1000])
            yield bytes(content[start : start + 1000])


def receive(trial: TrialConfig, dataset: TokenDataset, sender: Sender, **how: bool) -> bool:
    return receive_copy(trial, dataset.digest, files_of(dataset), sender, **how)


def test_a_copy_is_received_once_and_is_the_dataset(tiny_config, dataset):
    trial, sender = tiny_config(), Sender(dataset)
    with pytest.raises(DataError, match="no copy of the dataset is here"):
        open_here(trial, dataset.digest)
    assert receive(trial, dataset, sender)
    assert sender.sent == sum(files_of(dataset).values())
    assert set(files_of(dataset)) == {"train.npy", "val.npy", "meta.json", "tokenizer.json"}
    copy = open_here(trial, dataset.digest)
    assert copy.folder == copies_folder() / dataset.digest
    assert copy.digest == dataset.digest
    assert (copy.train.tokens == dataset.train.tokens).all()
    assert copy.tokenizer_file.read_bytes() == dataset.tokenizer_file.read_bytes()
    assert not receive(trial, dataset, sender)
    assert sender.sent == sum(files_of(dataset).values())
    assert open_here(trial, None).folder == dataset.folder
    assert {path.name for path in copies_folder().iterdir()} == {
        dataset.digest,
        f".{dataset.digest}.lock",
    }
    assert {path.stat().st_mode & 0o077 for path in copies_folder().iterdir()} == {0}


def test_raw_files_are_copied_as_they_are(tiny_config, dataset, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, file in (("train", dataset.train), ("val", dataset.val)):
        file.tokens.tofile(raw / f"{name}.bin")
    kind = {"raw_dtype": file.tokens.dtype.name, "raw_vocab_size": dataset.vocab_size}
    values = {f"data.{name}": value for name, value in kind.items()}
    trial = tiny_config({"data.dataset": str(raw), **values})
    data = open_dataset(trial.data, trial.model.context_length)
    assert receive(trial, data, Sender(data))
    assert open_here(trial, data.digest).digest == data.digest
    assert set(files_of(data)) == {"train.bin", "val.bin"}


@pytest.mark.fault
@pytest.mark.parametrize("name", ["train.npy", "val.npy", "meta.json", "tokenizer.json"])
def test_a_copy_that_was_damaged_is_received_anew(tiny_config, dataset, name):
    trial, sender = tiny_config(), Sender(dataset)
    receive(trial, dataset, sender)
    damaged = copies_folder() / dataset.digest / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DataError):
        open_here(trial, dataset.digest)
    assert receive(trial, dataset, sender)
    assert open_here(trial, dataset.digest).digest == dataset.digest
    assert len(list(copies_folder().iterdir())) == 2


@pytest.mark.fault
def test_damage_that_size_and_time_do_not_show_is_found_when_every_byte_is_read(
    tiny_config, dataset
):
    trial, sender = tiny_config(), Sender(dataset)
    receive(trial, dataset, sender)
    damaged = copies_folder() / dataset.digest / "train.npy"
    status = damaged.stat()
    with damaged.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\x07\x00")
    os.utime(damaged, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not receive(trial, dataset, sender)
    assert receive(trial, dataset, sender, verify=True)
    assert open_here(trial, dataset.digest, verify=True).digest == dataset.digest


@pytest.mark.fault
@pytest.mark.parametrize("name", ["train.npy", "meta.json", "tokenizer.json"])
def test_what_arrives_changed_is_refused_and_not_kept(tiny_config, dataset, name):
    trial = tiny_config()
    with pytest.raises(DataError):
        receive(trial, dataset, Sender(dataset, changed=name))
    assert [path.name for path in copies_folder().iterdir()] == [f".{dataset.digest}.lock"]


@pytest.mark.fault
def test_another_dataset_under_the_name_is_refused(tiny_config, dataset):
    trial = tiny_config()
    other = copies_folder() / ("0" * 16)
    receive(trial, dataset, Sender(dataset))
    shutil.copytree(copies_folder() / dataset.digest, other)
    with pytest.raises(DataError, match="not what its name says"):
        open_here(trial, other.name)


@pytest.mark.fault
def test_two_that_receive_at_once_are_sent_it_once(tiny_config, dataset):
    trial, sender = tiny_config(), Sender(dataset)
    received = []
    begin = threading.Barrier(2)

    def go() -> None:
        begin.wait()
        received.append(receive(trial, dataset, sender))

    threads = [threading.Thread(target=go) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(received) == [False, True]
    assert sender.sent == sum(files_of(dataset).values())


KILLED = """
import json, os, signal, sys
from trainable.config.trial import TrialConfig
from trainable.data.copy import receive_copy

def pieces(name):
    yield b"half of it"
    os.kill(os.getpid(), signal.SIGKILL)

digest, sizes, trial = json.loads(sys.argv[1])
receive_copy(TrialConfig.model_validate(trial), digest, sizes, pieces)
"""


@pytest.mark.fault
def test_what_a_killed_receiver_left_is_removed(tiny_config, dataset):
    trial = tiny_config()
    words = json.dumps([dataset.digest, files_of(dataset), trial.model_dump()])
    killed = subprocess.run([sys.executable, "-c", KILLED, words])
    assert killed.returncode < 0
    assert list(copies_folder().glob(".*.tmp"))
    assert receive(trial, dataset, Sender(dataset))
    assert len(list(copies_folder().iterdir())) == 2


@pytest.mark.fault
def test_no_room_and_no_right_to_write_are_one_line(tiny_config, dataset, tmp_path, monkeypatch):
    trial = tiny_config()
    with pytest.raises(DataError, match=r"MiB free, the dataset takes .*; make room, or set XDG"):
        receive_copy(trial, dataset.digest, {"train.npy": 2**60}, Sender(dataset))
    assert [path.name for path in copies_folder().iterdir()] == [f".{dataset.digest}.lock"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"datasets: Not a directory; set XDG_CACHE_HOME there"):
        receive(trial, dataset, Sender(dataset))
