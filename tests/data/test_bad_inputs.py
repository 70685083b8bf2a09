"""Invalid datasets of every format give one line of error that names the path and the rule, and exit code 2.

`CASES` is the table. The dataset of a case is made in an empty folder, then passed to three commands in this process:

* `train` refuses it;
* `convert` refuses it and writes nothing, except for invalid values, which it copies (`COPIED`);
* `info` refuses datasets that cannot be read; it shows the others, with the error that training would give.

No code in a dataset may run: the datasets that contain code create a file `ran` if it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from helpers import written
from helpers.damage import (
    SECRET,
    Hostile,
    change_each_file,
    change_file,
    change_minari_metadata,
    edit_hdf5,
    encrypt_zip,
    external_dataset,
    forge_tensor_size,
    forge_zip_size,
    jpeg_bomb,
    make_lerobot,
    make_link,
    make_link_cycle,
    make_pipe,
    make_socket,
    move_to_other_file,
    nan_like,
    npy_bytes,
    npy_member,
    ogbench_with_validation,
    open_header,
    overflowing_lengths,
    previous_actions,
    ragged_dataset,
    ragged_rows,
    replace_dataset,
    replace_file,
    replace_row,
    save_torch,
    truncate,
    unstored_rows,
    use_unknown_filter,
    virtual_dataset,
    write_bytes,
    write_zip,
)
from helpers.written import ACTION, LENGTHS, OFFSETS, PIXELS, REWARD, ROWS, SEEN

from jepa_ray import cli
from jepa_ray.data.__main__ import app as data_app
from jepa_ray.train.__main__ import app as train_app

pytestmark = pytest.mark.timeout(120)  # opening a pipe would wait forever

Make = Callable[[Path], Path]
LEN = np.array(LENGTHS, np.int32)
HUGE = 10**12


# ---------------------------------------------------------------------------------------------- the table

NO_FORMAT = "is not in a supported format"
NOT_HDF5 = "is not a readable HDF5 file"
NOT_A_FILE = "is neither a file nor a folder"
ELSEWHERE = "is stored in another file, but must be in this one"
CAN_RUN = "can run code when"

# description -> (function that makes the dataset in an empty folder, texts that the error must contain)
PATHS: dict[str, tuple[Any, ...]] = {
    "a missing file": (lambda to: to / "none.h5", "cannot be read (No such file or directory)"),
    "a broken link": (
        lambda to: make_link(to / "a.h5", to / "a.h5.none"),
        "cannot be read (No such file or directory)",
    ),
    "a link to itself": (lambda to: make_link(to / "a.h5", to / "a.h5"), "Too many levels of symbolic links"),
    "a cycle of links": (make_link_cycle, "Too many levels of symbolic links"),
    "a file used as a folder": (lambda to: write_bytes(to / "a", b"x") / "b.h5", "cannot be read (Not a directory)"),
    "a name that is too long": (lambda to: to / ("x" * 300), "cannot be read (File name too long)"),
    "a pipe": (lambda to: make_pipe(to / "a.h5"), NOT_A_FILE),
    "a socket": (lambda to: make_socket(to / "a.npz"), NOT_A_FILE),
    "a device": (lambda to: Path("/dev/zero"), NOT_A_FILE),
    "an empty folder": (lambda to: to, NO_FORMAT, "no named entries"),
    "a folder without data": (lambda to: write_bytes(to / "README.md", b"# Data").parent, NO_FORMAT, "README.md"),
    "an empty file": (lambda to: write_bytes(to / "data", b""), NO_FORMAT),
    "an empty HDF5 file": (lambda to: write_bytes(to / "a.h5", b""), NOT_HDF5),
    "a text file": (lambda to: write_bytes(to / "a.txt", b"row,action\n1,2\n"), NO_FORMAT),
    "a text file named as HDF5": (lambda to: write_bytes(to / "a.h5", b"row,action\n" * 500), NOT_HDF5),
    "a picture": (lambda to: write_bytes(to / "a.jpeg", jpeg_bomb()), NO_FORMAT),
    "random bytes": (lambda to: write_bytes(to / "a.bin", np.random.default_rng(0).bytes(999)), NO_FORMAT),
    "a single npy file": (lambda to: write_bytes(to / "a.npy", npy_member(SEEN)), NO_FORMAT),
    "a pickle": (lambda to: write_bytes(to / "a.pkl", pickle.dumps(Hostile(to))), "is a pickle", CAN_RUN),
    "a pickle with another suffix": (lambda to: write_bytes(to / "a.npz", pickle.dumps(Hostile(to))), "is a pickle"),
    "a zip without arrays": (lambda to: write_zip(to / "a.npz", [("a.txt", b"x")]), NO_FORMAT, "a.txt"),
    "a name with a line break": (lambda to: write_bytes(to / "a\nb.txt", b"x"), "a\\nb.txt: ", NO_FORMAT),
    "a name with an escape sequence": (lambda to: write_bytes(to / "a\x1b[2Jb", b"x"), "a\\x1b[2Jb: ", NO_FORMAT),
    "a name that is not valid text": (
        lambda to: write_bytes(to / os.fsdecode(b"\xffa"), b"x"),
        "\\udcffa: ",
        NO_FORMAT,
    ),
    "a folder without data, with a name with a line break": (
        lambda to: write_bytes(to / "README\n2", b"").parent,
        "README\\n2",
    ),
}

HDF5: dict[str, tuple[Any, ...]] = {
    "truncated": (lambda to: truncate(written.canonical(to)), NOT_HDF5, "truncated"),
    "truncated, written by stable-worldmodel": (
        lambda to: truncate(shutil.copy(Path(__file__).parent / "files/swm_tworoom.h5", to / "swm.h5"), 0.9),
        NOT_HDF5,
    ),
    "no datasets": (lambda to: written.hdf5(to / "a.h5", {}), "lacks the column action", "it has nothing"),
    "no action": (lambda to: written.canonical(to, action=None), "lacks the column action"),
    "no ep_len": (lambda to: written.canonical(to, ep_len=None), "lacks the column ep_len"),
    "no ep_offset": (lambda to: written.canonical(to, ep_offset=None), "lacks the column ep_offset"),
    "no observation": (lambda to: written.vectors(to, observation=None), "lacks the column observation", "reward"),
    "no episodes": (
        lambda to: written.canonical(
            to,
            observation=SEEN[:0],
            action=ACTION[:0],
            reward=REWARD[:0],
            pixels=PIXELS[:0],
            ep_len=LEN[:0],
            ep_offset=OFFSETS[:0],
        ),
        "contains no episodes",
    ),
    "an episode without rows": (
        lambda to: written.canonical(to, ep_len=np.array([5, 0, 7, 4]), ep_offset=np.array([0, 5, 5, 12])),
        "ep_len[1] is 0, but an episode must have at least one row",
    ),
    "a negative length": (
        lambda to: written.canonical(to, ep_len=np.array([5, 12, -1]), ep_offset=np.array([0, 5, 17])),
        "ep_len[2] is -1",
    ),
    "overlapping episodes": (
        lambda to: written.canonical(to, ep_offset=np.array([0, 4, 12])),
        "ep_offset[1] is 4, but must be 5: the sum of the lengths before",
    ),
    "an offset after the end": (
        lambda to: written.canonical(to, ep_offset=np.array([0, 5, 999])),
        "ep_offset[2] is 999, but must be 12: the sum of the lengths before",
    ),
    "lengths that add up to fewer rows": (
        lambda to: written.canonical(to, ep_len=LEN - [0, 0, 1]),
        "ep_len adds up to 15 rows, but the columns have 16",
    ),
    "lengths whose sum overflows": (
        lambda to: written.canonical(to, **overflowing_lengths()),
        "ep_len[0] is 46116860184273879",
    ),
    "lengths that are floats": (
        lambda to: written.canonical(to, ep_len=LEN.astype(float)),
        "ep_len has dtype float64, but must be integers",
    ),
    "lengths that are text": (lambda to: written.canonical(to, ep_len=[b"5", b"7", b"4"]), "must be integers"),
    "one usable episode": (
        lambda to: written.canonical(to, ep_len=np.array([14, 1, 1]), ep_offset=np.array([0, 14, 15])),
        "at least 2 episodes of 2 rows or more",
    ),
    "fewer actions than observations": (
        lambda to: written.canonical(to, action=ACTION[:-1]),
        "action has shape (15, 2), but pixels has 16 rows",
    ),
    "NaN in an observation": (
        lambda to: written.vectors(to, observation=replace_row(SEEN, 3, np.nan)),
        "observation is not finite (NaN or inf) at row 3",
    ),
    "infinity in an observation": (
        lambda to: written.vectors(to, observation=replace_row(SEEN, 9, np.inf)),
        "observation is not finite (NaN or inf) at row 9",
    ),
    "an infinite action": (
        lambda to: written.canonical(to, action=replace_row(ACTION, 6, -np.inf)),
        "action is not finite at row 6 (episode 1, step 1)",
    ),
    "a NaN state": (lambda to: written.canonical(to, state=replace_row(SEEN, 0, np.nan)), "state is not finite"),
    "everything NaN": (
        lambda to: written.vectors(to, observation=nan_like(SEEN), action=nan_like(ACTION), reward=nan_like(REWARD)),
        "observation is not finite (NaN or inf) at row 0",
    ),
    "actions with the other alignment": (
        lambda to: written.canonical(to, **previous_actions()),
        "by the format (canonical HDF5) action[t] leads from row t to t + 1, but in the data",
        "set data.action_alignment (convert: --action-alignment) to previous",
    ),
    "actions that are text": (
        lambda to: written.canonical(to, action=[b"left"] * ROWS),
        "action has shape (16,)",
        "must be",
    ),
    "complex observations": (
        lambda to: written.vectors(to, observation=SEEN.astype(complex)),
        "dtype complex128, but must be",
    ),
    "observations that are records": (
        lambda to: written.vectors(to, observation=np.zeros(ROWS, "f4,i4")),
        "observation has shape (16,)",
    ),
    "ragged actions": (
        lambda to: replace_dataset(written.canonical(to), "action", ragged_dataset("action")),
        "dtype object",
    ),
    "negative discrete actions": (
        lambda to: written.canonical(to, action=np.arange(ROWS) - 2),
        "action has the value -2, but discrete actions must be numbered from 0",
    ),
    "pixels that are floats": (lambda to: written.canonical(to, pixels=PIXELS / 255), "dtype float64", "uint8"),
    "pixels without channels": (lambda to: written.canonical(to, pixels=PIXELS[..., 0]), "(16, 8, 8)", "(N, H, W, C)"),
    "pixels with channels first": (
        lambda to: written.canonical(to, pixels=np.moveaxis(PIXELS, 3, 1)),
        "looks like channels first",
    ),
    "a single value as pixels": (
        lambda to: written.canonical(to, pixels=np.uint8(1)),
        "pixels has shape (), but must have rows",
    ),
    "a column without an array": (
        lambda to: replace_dataset(
            written.canonical(to), "pixels", lambda f: f.create_dataset("pixels", data=h5py.Empty("u1"))
        ),
        "pixels is empty (a null dataset), but must be an array",
    ),
    "a group as a column": (
        lambda to: replace_dataset(written.canonical(to), "action", lambda f: f.create_group("action")),
        "action is a group, but must be a dataset",
    ),
    "rows that are not stored": (
        lambda to: replace_dataset(written.vectors(to), "observation", unstored_rows("observation", (HUGE, 3))),
        "observation claims 12,000,000,000,000 bytes, but the file has",
    ),
    "lengths that are not stored": (
        lambda to: replace_dataset(written.canonical(to), "ep_len", unstored_rows("ep_len", (HUGE,), "i8")),
        "ep_len claims 8,000,000,000,000 bytes, but the file has",
    ),
    "an unknown compression filter": (
        lambda to: use_unknown_filter(written.vectors(to)),
        "observation uses HDF5 filter 31999, which is not installed",
    ),
    "damaged chunks": (
        lambda to: replace_dataset(
            written.vectors(to),
            "observation",
            lambda f: f.create_dataset(
                "observation", SEEN.shape, "f4", chunks=SEEN.shape, compression="gzip"
            ).id.write_direct_chunk((0, 0), b"\xff" * 100),
        ),
        "observation cannot be read",
    ),
    "a column in another file": (
        lambda to: move_to_other_file(written.vectors(to), "observation"),
        f"observation {ELSEWHERE}",
    ),
    "actions in another file": (lambda to: move_to_other_file(written.canonical(to), "action"), f"action {ELSEWHERE}"),
    "lengths in another file": (lambda to: move_to_other_file(written.canonical(to), "ep_len"), f"ep_len {ELSEWHERE}"),
    "a column with external storage": (
        lambda to: replace_dataset(
            written.vectors(to), "observation", external_dataset("observation", SEEN.shape, "f4")
        ),
        f"observation {ELSEWHERE}",
    ),
    "lengths with external storage": (
        lambda to: replace_dataset(written.canonical(to), "ep_len", external_dataset("ep_len", (3,), "u1")),
        f"ep_len {ELSEWHERE}",
    ),
    "a virtual dataset": (
        lambda to: replace_dataset(written.vectors(to), "observation", virtual_dataset("observation")),
        f"observation {ELSEWHERE}",
    ),
    "a link to itself inside the file": (
        lambda to: replace_dataset(
            written.canonical(to), "action", lambda f: f.__setitem__("action", h5py.SoftLink("/action"))
        ),
        "is not a readable action",
        "too many links",
    ),
    "D4RL, truncated": (lambda to: truncate(written.d4rl(to), 0.8), NOT_HDF5),
    "D4RL, fewer observations than actions": (
        lambda to: written.d4rl(to, observations=SEEN[:-1]),
        "observations has shape (15, 3), but actions has 16 rows",
    ),
    "D4RL, end marks of another shape": (
        lambda to: written.d4rl(to, terminals=np.zeros((ROWS, 2))),
        "terminals has shape (16, 2), but must be (N,)",
    ),
    "D4RL, end marks that are text": (lambda to: written.d4rl(to, terminals=[b"no"] * ROWS), "terminals has dtype"),
    "D4RL, no rows": (
        lambda to: written.d4rl(to, observations=SEEN[:0], actions=ACTION[:0], rewards=None, terminals=ACTION[:0]),
        "actions has shape (0, 2), but must have rows",
    ),
    "D4RL, one episode": (
        lambda to: written.d4rl(to, terminals=np.zeros(ROWS, bool), timeouts=None),
        "at least 2 episodes",
    ),
    "D4RL, end marks in another file": (lambda to: move_to_other_file(written.d4rl(to), "terminals"), "terminals"),
    "D4RL, NaN": (
        lambda to: written.d4rl(to, observations=replace_row(SEEN, 2, np.nan)),
        "observation is not finite",
        "row 2",
    ),
    "D4RL, actions that are text": (lambda to: written.d4rl(to, actions=[b"left"] * ROWS), "action has shape (16,)"),
    "transitions, fewer actions": (
        lambda to: written.transitions_h5(to, action=ACTION[:3]),
        "action has shape (3, 2), but must have 13 rows",
    ),
    "transitions, states of different dtypes": (
        lambda to: written.transitions_h5(to, next_state=SEEN[:13].astype(float)),
        "both must have the same dtype and shape",
    ),
    "transitions, no rows": (
        lambda to: written.transitions_h5(
            to, state=SEEN[:0], next_state=SEEN[:0], action=ACTION[:0], reward=REWARD[:0]
        ),
        "with N at least 1",
    ),
    "transitions, one episode": (
        lambda to: written.transitions_h5(to, state=SEEN[:-1], next_state=SEEN[1:], action=ACTION[1:], reward=None),
        "at least 2 episodes",
    ),
    "transitions, a column in another file": (
        lambda to: move_to_other_file(written.transitions_h5(to), "next_state"),
        ELSEWHERE,
    ),
    "transitions, end marks that are text": (
        lambda to: written.transitions_h5(to, done=[b"no"] * 13),
        "done has dtype",
    ),
    "transitions, rows that are not stored": (
        lambda to: edit_hdf5(written.transitions_h5(to, reward=None), unstored_rows("reward", (HUGE,))),
        "reward claims 4,000,000,000,000 bytes",
    ),
}

ZIPS: dict[str, tuple[Any, ...]] = {
    "OGBench, truncated": (lambda to: truncate(written.ogbench(to)), "not a readable zip"),
    "OGBench, fewer actions": (
        lambda to: written.ogbench(to, actions=ACTION[:-1]),
        "actions has shape (15, 2)",
    ),
    "OGBench, end marks of another shape": (
        lambda to: written.ogbench(to, terminals=np.zeros((ROWS, 1))),
        "terminals has shape (16, 1), but must be (N,)",
    ),
    "OGBench, end marks that are text": (
        lambda to: written.ogbench(to, terminals=np.array(["no"] * ROWS)),
        "terminals",
    ),
    "OGBench, no rows": (
        lambda to: written.ogbench(
            to, observations=SEEN[:0], actions=ACTION[:0], terminals=REWARD[:0], reward=REWARD[:0]
        ),
        "terminals has shape (0,), but must be (N,) with at least one row",
    ),
    "OGBench, complex observations": (
        lambda to: written.ogbench(to, observations=SEEN.astype(complex)),
        "dtype complex128, but must be",
    ),
    "OGBench, actions that are objects": (
        lambda to: written.ogbench(to, actions=np.array([Hostile(to)] * ROWS, object)),
        "actions contains Python objects",
        CAN_RUN,
    ),
    "OGBench, validation file with actions of another width": (
        lambda to: ogbench_with_validation(to, actions=ACTION[:, :1]),
        "ogbench-val.npz: actions has rows of shape (1,)",
    ),
    "OGBench, validation file without observations": (
        lambda to: ogbench_with_validation(to, observations=None),
        "lacks observations",
    ),
    "OGBench, validation file truncated": (
        lambda to: change_file(ogbench_with_validation(to).parent, "ogbench-val.npz", truncate) / "ogbench.npz",
        "ogbench-val.npz",
    ),
    "a member that claims more rows": (
        lambda to: write_zip(
            to / "a.npz",
            [("obs.npy", npy_bytes((10**15, 3))), ("actions.npy", npy_member(ACTION)), ("ep_len.npy", npy_member(LEN))],
        ),
        "obs claims 12,000,000,000,000,000 bytes, but 64 are stored",
    ),
    "a member that claims more bytes": (
        lambda to: forge_zip_size(written.ogbench(to), 24, 2_000_000_000),
        "claims 2,000,000,000 bytes, but the file has",
    ),
    "a member that claims more compressed bytes": (
        lambda to: forge_zip_size(written.ogbench(to), 20, 2_000_000_000),
        "claims",
    ),
    "a duplicate member": (
        lambda to: write_zip(
            to / "a.npz",
            [("obs.npy", npy_member(SEEN)), ("actions.npy", npy_member(ACTION)), ("actions.npy", npy_member(ACTION))],
        ),
        "contains actions more than once",
    ),
    "a member with a path to the parent": (
        lambda to: written.arrays_npz(to, **{"../x": REWARD}),
        "the name ../x leads outside the archive",
    ),
    "a member with an absolute path": (
        lambda to: write_zip(to / "a.npz", [("/etc/x.npy", npy_member(SEEN)), ("actions.npy", npy_member(ACTION))]),
        "the name /etc/x leads outside the archive",
    ),
    "a member with another compression": (
        lambda to: write_zip(
            to / "a.npz", [("obs.npy", npy_member(SEEN)), ("actions.npy", npy_member(ACTION))], zipfile.ZIP_LZMA
        ),
        "uses a compression that numpy does not write",
    ),
    "a member that is encrypted": (lambda to: encrypt_zip(written.arrays_npz(to)), "encrypted"),
    "a member that is not an array": (
        lambda to: write_zip(to / "a.npz", [("obs.npy", b"hello"), ("actions.npy", npy_member(ACTION))]),
        "obs cannot be read",
    ),
    "a member with a negative shape": (
        lambda to: write_zip(
            to / "a.npz", [("obs.npy", npy_bytes((-4, -3), data=b"")), ("actions.npy", npy_member(ACTION))]
        ),
        "obs cannot be read",
    ),
    "arrays, objects": (
        lambda to: written.arrays_npz(to, obs=ragged_rows(SEEN)),
        "obs contains Python objects",
        CAN_RUN,
    ),
    "arrays, no observations": (lambda to: written.arrays_npz(to, obs=None), "lacks observations"),
    "arrays, no episode ends": (
        lambda to: written.arrays_npz(to, ep_len=None),
        "no array says where episodes end: add one of ep_len",
    ),
    "arrays, a negative length": (
        lambda to: written.arrays_npz(to, ep_len=np.array([5, -1, 12])),
        "ep_len must describe episodes of 1 row or more that add up to 16 rows",
    ),
    "arrays, an episode without rows": (
        lambda to: written.arrays_npz(to, ep_len=np.array([5, 0, 11])),
        "must describe episodes of 1 row or more",
    ),
    "arrays, lengths that are floats": (
        lambda to: written.arrays_npz(to, ep_len=LEN.astype(float)),
        "ep_len has shape (3,) and dtype float64, but must be (n,) integers",
    ),
    "arrays, contradictory episodes": (
        lambda to: written.arrays_npz(to, episode_ends=np.array([4, 12, 16])),
        "ep_len and episode_ends define different episodes",
    ),
    "arrays, an episode in two parts": (
        lambda to: written.arrays_npz(to, ep_len=None, episode_ids=np.arange(ROWS) % 2),
        "episode_ids returns to an earlier episode",
    ),
    "arrays, an end mark inside an episode": (
        lambda to: written.arrays_npz(to, terminals=np.arange(ROWS) == 2),
        "terminals ends an episode at row 2",
    ),
    "arrays, fewer actions": (
        lambda to: written.arrays_npz(to, actions=ACTION[:-1]),
        "actions has shape (15, 2), but must be (16, ...)",
    ),
    "arrays, two arrays of observations": (
        lambda to: written.arrays_npz(to, observation=SEEN),
        "is a second array for observation",
    ),
    "arrays, NaN": (lambda to: written.arrays_npz(to, obs=replace_row(SEEN, 1, np.nan)), "observation is not finite"),
}

FOLDERS: dict[str, tuple[Any, ...]] = {
    "npy, objects": (
        lambda to: change_file(
            written.arrays_npy(to), "actions.npy", lambda p: np.save(p, np.array([Hostile(to)], object), True)
        ),
        "actions.npy: actions contains Python objects",
        CAN_RUN,
    ),
    "npy, more rows than bytes": (
        lambda to: change_file(written.arrays_npy(to), "obs.npy", lambda p: p.write_bytes(npy_bytes((10**15, 3)))),
        "obs.npy: obs claims 12,000,000,000,000,000 bytes, but 64 are stored",
    ),
    "npy, truncated": (
        lambda to: change_file(written.arrays_npy(to), "obs.npy", truncate),
        "obs.npy: obs claims 252 bytes, but 62 are stored",
    ),
    "npy, a pickle": (
        lambda to: change_file(written.arrays_npy(to), "obs.npy", lambda p: p.write_bytes(pickle.dumps(Hostile(to)))),
        "obs.npy: cannot be read",
    ),
    "npy, a header that does not end": (
        lambda to: change_file(written.arrays_npy(to), "obs.npy", lambda p: p.write_bytes(open_header())),
        "obs.npy: cannot be read",
    ),
    "npy, a single value": (lambda to: written.arrays_npy(to, rewards=np.float32(1)), "rewards.npy", "must have rows"),
    "npy, a pipe": (
        lambda to: change_file(written.arrays_npy(to), "obs.npy", lambda p: replace_file(p, make_pipe)),
        NOT_A_FILE,
    ),
    "npy, lengths longer than the padding": (
        lambda to: written.arrays_npy(to, lengths=np.array([5, 8, 4])),
        "lengths must contain 3 lengths from 1 to 7",
    ),
    "npy, actions with another number of steps": (
        lambda to: written.arrays_npy(to, actions=written.padded(ACTION)[:, :4]),
        "actions has shape (3, 4, 2), but must be (3, 7 or 6, ...)",
    ),
    "DINO-WM, truncated states": (
        lambda to: change_file(written.dino_wm(to), "states.pth", truncate),
        "states.pth",
        "readable",
    ),
    "DINO-WM, states without time": (
        lambda to: written.dino_wm(to, states=SEEN),
        "states.pth: has shape (16, 3) and dtype float32, but must be floats (episodes, rows, width)",
    ),
    "DINO-WM, integer states": (lambda to: written.dino_wm(to, states=written.padded(SEEN).astype(int)), "must be fl"),
    "DINO-WM, complex states": (
        lambda to: written.dino_wm(to, states=written.padded(SEEN).astype(complex)),
        "states.pth: has shape (3, 7, 3) and dtype complex128",
    ),
    "DINO-WM, a list of tensors": (
        lambda to: written.dino_wm(to, states=[torch.zeros(5, 3)]),
        "its content is a list, but must be a dense tensor",
    ),
    "DINO-WM, fewer actions": (
        lambda to: written.dino_wm(to, actions=written.padded(ACTION)[:, :4]),
        "actions.pth: has (3, 4) episodes and rows, but must have (3, 7)",
    ),
    "DINO-WM, no actions": (lambda to: written.dino_wm(to, actions=None), "lacks the actions", "rel_actions.pth"),
    "DINO-WM, lengths that are floats": (
        lambda to: written.dino_wm(to, seq_lengths=LEN.astype(float)),
        "seq_lengths.pth: has shape (3,) and dtype float64, but must be integers (3,)",
    ),
    "DINO-WM, a length of 0": (
        lambda to: written.dino_wm(to, seq_lengths=np.array([5, 0, 4])),
        "seq_lengths.pth: has lengths outside 1 to 7",
    ),
    "DINO-WM, pickled lengths": (
        lambda to: change_file(
            written.dino_wm(to, seq_lengths=None),
            "seq_lengths.pkl",
            lambda p: p.write_bytes(pickle.dumps(Hostile(to))),
        ),
        "seq_lengths.pkl: is a pickle",
        CAN_RUN,
    ),
    "DINO-WM, states that run code": (
        lambda to: change_file(written.dino_wm(to), "states.pth", lambda p: torch.save(Hostile(to), p)),
        "states.pth: contains more than tensors",
        CAN_RUN,
    ),
    "DINO-WM, NaN states": (lambda to: written.dino_wm(to, states=nan_like(written.padded(SEEN))), "not finite"),
    "DINO-WM, missing frames": (lambda to: written.dino_wm(to, episode_001=None), "episode_001.pth: is missing"),
    "DINO-WM, frames that are floats": (
        lambda to: written.dino_wm(to, episode_000=PIXELS[:5] / 255),
        "episode_000.pth: has shape (5, 8, 8, 3) and dtype float64, but must be uint8",
    ),
    "DINO-WM, too few frames": (lambda to: written.dino_wm(to, episode_002=PIXELS[:2]), "episode_002.pth: has frames"),
    "DINO-WM, frames truncated": (
        lambda to: change_file(written.dino_wm(to), "obses/episode_001.pth", truncate),
        "episode_001.pth: is not a readable torch file",
    ),
    "DINO-WM, actions are a pipe": (
        lambda to: change_file(written.dino_wm(to), "actions.pth", lambda p: replace_file(p, make_pipe)),
        "actions.pth",
        NOT_A_FILE,
    ),
    "swm folder, offsets that overlap": (
        lambda to: written.swm_folder(to, ep_offset=np.array([0, 4, 12])),
        "ep_offset[1] is 4",
    ),
    "swm folder, a negative length": (
        lambda to: written.swm_folder(to, ep_len=np.array([5, -7, 4])),
        "ep_len[1] is -7",
    ),
    "swm folder, lengths that are floats": (
        lambda to: written.swm_folder(to, ep_len=LEN.astype(float)),
        "ep_len.npz: has shape (3,) and dtype float64",
    ),
    "swm folder, no episodes": (
        lambda to: written.swm_folder(to, ep_len=LEN[:0], ep_offset=OFFSETS[:0]),
        "ep_len has 0 episodes",
    ),
    "swm folder, lengths whose sum overflows": (
        lambda to: written.swm_folder(to, **overflowing_lengths()),
        "must have 18446744073709551632 rows, the sum of ep_len",
    ),
    "swm folder, fewer actions": (
        lambda to: written.swm_folder(to, action=ACTION[:-1]),
        "action has shape (15, 2), but must have 16 rows, the sum of ep_len",
    ),
    "swm folder, no actions": (lambda to: written.swm_folder(to, action=None), "lacks the column action"),
    "swm folder, actions that are objects": (
        lambda to: written.swm_folder(to, action=np.array([Hostile(to)] * ROWS, object)),
        "action.npz: arr_0 contains Python objects",
    ),
    "swm folder, a missing frame": (
        lambda to: change_file(written.swm_folder(to), "pixels/ep_1_step_2.jpeg", Path.unlink),
        "ep_1_step_2.jpeg: cannot be read (No such file or directory)",
    ),
    "swm folder, a truncated frame": (
        lambda to: change_file(written.swm_folder(to), "pixels/ep_1_step_2.jpeg", truncate),
        "ep_1_step_2.jpeg: cannot be read",
    ),
    "swm folder, a frame that is text": (
        lambda to: change_file(written.swm_folder(to), "pixels/ep_0_step_0.jpeg", lambda p: p.write_text("hello")),
        "ep_0_step_0.jpeg: cannot be read",
    ),
    "swm folder, a frame of another size": (
        lambda to: change_file(
            written.swm_folder(to), "pixels/ep_2_step_0.jpeg", lambda p: p.write_bytes(written.png(PIXELS[0, :4]))
        ),
        "row 12 has shape (4, 8, 3), but the first row has shape (8, 8, 3)",
    ),
    "swm folder, a frame with a huge declared size": (
        lambda to: change_file(written.swm_folder(to), "pixels/ep_0_step_0.jpeg", lambda p: p.write_bytes(jpeg_bomb())),
        "ep_0_step_0.jpeg: cannot be read",
        "4290250000 pixels",
    ),
    "swm folder, a frame that is a pipe": (
        lambda to: change_file(written.swm_folder(to), "pixels/ep_1_step_2.jpeg", lambda p: replace_file(p, make_pipe)),
        "ep_1_step_2.jpeg",
        NOT_A_FILE,
    ),
    "swm folder, lengths are a pipe": (
        lambda to: change_file(written.swm_folder(to), "ep_len.npz", lambda p: replace_file(p, make_pipe)),
        "ep_len.npz",
        NOT_A_FILE,
    ),
}

LANCE: dict[str, tuple[Any, ...]] = {
    "Lance, no actions": (lambda to: written.lance(to, action=None), "lacks the column action"),
    "Lance, no step_idx": (lambda to: written.lance(to, step_idx=None), "lacks the column step_idx"),
    "Lance, steps out of order": (
        lambda to: written.lance(to, step_idx=np.arange(ROWS)),
        "step_idx of row 5 is 5 (episode_idx 1), but must be 0",
    ),
    "Lance, an episode in two parts": (
        lambda to: written.lance(to, episode_idx=np.repeat([0, 1, 0], LENGTHS)),
        "episode_idx 0 appears again after another episode",
    ),
    "Lance, steps that are floats": (
        lambda to: written.lance(to, step_idx=np.arange(ROWS) / 2),
        "step_idx has dtype float64, but must be integers",
    ),
    "Lance, missing values": (
        lambda to: written.lance(to, pixels=[written.png(PIXELS[0])] * 9 + [None] * 7),
        "missing values in rows",
    ),
    "Lance, ragged actions": (lambda to: written.lance(to, action=[[1.0]] * 8 + [[1.0, 2.0]] * 8), "lacks the column"),
    "Lance, a frame that is text": (
        lambda to: written.lance(to, pixels=[b"hello"] * ROWS),
        "pixels of row 0",
        "decoded",
    ),
    "Lance, a frame with a huge declared size": (
        lambda to: written.lance(to, pixels=[jpeg_bomb()] * ROWS),
        "pixels of row 0 cannot be decoded",
    ),
    "Lance, NaN": (
        lambda to: written.lance(to, pixels=None, observation=written.lists(nan_like(SEEN))),
        "observation is not finite",
    ),
    "Lance, truncated": (
        lambda to: change_each_file(written.lance(to), "data", truncate),
        "cannot be read",
    ),
    "Lance, missing data": (
        lambda to: change_each_file(written.lance(to), "data", Path.unlink),
        "cannot be read",
    ),
    "Lance, data is a pipe": (
        lambda to: change_each_file(written.lance(to), "data", lambda p: replace_file(p, make_pipe)),
        NOT_A_FILE,
    ),
    "Lance, missing versions": (
        lambda to: change_each_file(written.lance(to), "_versions", Path.unlink),
        "the table cannot be read",
    ),
}

MINARI: dict[str, tuple[Any, ...]] = {
    "Minari, metadata that is not JSON": (
        lambda to: change_file(written.minari_hdf5(to), "data/metadata.json", lambda p: p.write_text("{")),
        "metadata.json",
        "Expecting",
    ),
    "Minari, metadata that is a list": (
        lambda to: change_file(written.minari_hdf5(to), "data/metadata.json", lambda p: p.write_text("[]")),
        "metadata.json",
    ),
    "Minari, deeply nested metadata": (
        lambda to: change_file(written.minari_hdf5(to), "data/metadata.json", lambda p: p.write_text("[" * 10**5)),
        "metadata.json",
    ),
    "Minari, a trillion episodes": (
        lambda to: change_minari_metadata(written.minari_hdf5(to), total_episodes=HUGE),
        "lacks episode_3, but total_episodes in metadata.json is 1000000000000",
    ),
    "Minari, a fractional number of episodes": (
        lambda to: change_minari_metadata(written.minari_arrow(to), total_episodes=2.5),
        "positive integer",
    ),
    "Minari, no episodes": (
        lambda to: change_minari_metadata(written.minari_arrow(to), total_episodes=0),
        "positive integer",
    ),
    "Minari, no number of episodes": (
        lambda to: written.minari_hdf5(to, total_episodes=None),
        "metadata.json",
        "total_episodes",
    ),
    "Minari, a format that is a path": (
        lambda to: change_minari_metadata(written.minari_hdf5(to), data_format="../x"),
        "data_format in metadata.json is '../x', but must be hdf5 or arrow",
    ),
    "Minari, no spaces": (lambda to: written.minari_hdf5(to, action_space=None), "metadata.json lacks action_space"),
    "Minari, main file missing": (
        lambda to: change_file(written.minari_hdf5(to), "data/main_data.hdf5", Path.unlink),
        "main_data.hdf5: is missing",
    ),
    "Minari, main file truncated": (
        lambda to: change_file(written.minari_hdf5(to), "data/main_data.hdf5", truncate),
        f"main_data.hdf5: {NOT_HDF5}",
    ),
    "Minari, main file is a pipe": (
        lambda to: change_file(written.minari_hdf5(to), "data/main_data.hdf5", lambda p: replace_file(p, make_pipe)),
        "main_data.hdf5",
        NOT_A_FILE,
    ),
    "Minari, an episode in another file": (
        lambda to: change_file(
            written.minari_hdf5(to), "data/main_data.hdf5", lambda p: move_to_other_file(p, "episode_1")
        ),
        "episode_1/rewards is stored in another file",
    ),
    "Minari, fewer actions": (
        lambda to: change_file(
            written.minari_hdf5(to),
            "data/main_data.hdf5",
            lambda p: replace_dataset(p, "episode_1/actions", lambda f: f.__setitem__("episode_1/actions", ACTION[:2])),
        ),
        "action",
        "episode 1 has 2 rows",
    ),
    "Minari, actions that are text": (
        lambda to: change_file(
            written.minari_hdf5(to),
            "data/main_data.hdf5",
            lambda p: replace_dataset(
                p, "episode_0/actions", lambda f: f.__setitem__("episode_0/actions", [b"left"] * 4)
            ),
        ),
        "episode_0/actions has dtype",
    ),
    "Minari, an Arrow file truncated": (
        lambda to: change_file(written.minari_arrow(to), "data/1/part-0.arrow", truncate),
        "part-0.arrow",
        "cannot be read",
    ),
    "Minari, an Arrow file missing": (
        lambda to: change_file(written.minari_arrow(to), "data/1/part-0.arrow", Path.unlink),
        "part-0.arrow: is missing",
    ),
    "Minari, an Arrow file of another shape": (
        lambda to: change_minari_metadata(written.minari_arrow(to), action_space=json.dumps(written.space(3))),
        "actions is stored as fixed_size_list",
        "but its space has shape (3,)",
    ),
    "Minari, an episode whose folder is a link": (
        lambda to: change_file(
            written.minari_arrow(to), "data/1", lambda p: make_link(p, p.rename(p.parent.parent / "moved"))
        ),
        "data/1: is a link to another folder, which is not followed",
    ),
    "Minari, metadata is a pipe": (
        lambda to: change_file(written.minari_arrow(to), "data/metadata.json", lambda p: replace_file(p, make_pipe)),
        NO_FORMAT,
    ),
}

TORCH: dict[str, tuple[Any, ...]] = {
    "torch, truncated": (lambda to: truncate(written.transitions_pt(to)), "not a readable"),
    "torch, code": (
        lambda to: save_torch(to / "a.pt", {"state": torch.zeros(4, 2), "x": Hostile(to)}),
        "contains more than tensors",
        CAN_RUN,
    ),
    "torch, code in the old file format": (
        lambda to: save_torch(to / "a.pt", Hostile(to), _use_new_zipfile_serialization=False),
        "is a pickle",
    ),
    "torch, a list": (
        lambda to: save_torch(to / "a.pt", [torch.zeros(3)]),
        "contains a list, but must contain a dict of tensors",
    ),
    "torch, no next_state": (lambda to: written.transitions_pt(to, next_state=None), "lacks state and next_state"),
    "torch, repeated rows": (
        lambda to: written.transitions_pt(to, state=torch.zeros(1, 3).expand(HUGE, 3)),
        "state repeats its rows in memory",
    ),
    "torch, a size larger than the file": (lambda to: forge_tensor_size(written.transitions_pt(to)), "readable"),
    "torch, sparse": (lambda to: written.transitions_pt(to, state=torch.zeros(13, 3).to_sparse()), "dense tensor"),
    "torch, a dtype that numpy lacks": (
        lambda to: written.transitions_pt(to, action=torch.zeros(13, 2, dtype=torch.bfloat16)),
        "action has dtype bfloat16",
    ),
    "torch, complex actions": (
        lambda to: written.transitions_pt(to, action=torch.zeros(13, 2, dtype=torch.complex64)),
        "action has shape (16, 2) and dtype complex64",
    ),
    "torch, a NaN action": (lambda to: written.transitions_pt(to, action=replace_row(ACTION[:13], 1, np.nan)), "row 1"),
}

INFO = "meta/info.json"
DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.top/chunk-000/file-000.mp4"

LEROBOT: dict[str, tuple[Any, ...]] = {
    "LeRobot, metadata that is not JSON": (
        lambda to: change_file(make_lerobot(to), INFO, lambda p: p.write_text("{")),
        "info.json: is not a readable JSON file",
    ),
    "LeRobot, metadata that is a list": (
        lambda to: change_file(make_lerobot(to), INFO, lambda p: p.write_text("[]")),
        "info.json: contains a list, but must contain an object",
    ),
    "LeRobot, version 2": (
        lambda to: make_lerobot(to, codebase_version="v2.1"),
        "codebase_version is 'v2.1', but must be v3.0",
        "convert_dataset_v21_to_v30",
    ),
    "LeRobot, a trillion episodes": (
        lambda to: make_lerobot(to, total_episodes=HUGE),
        "total_episodes is 1000000000000, but meta/episodes has 5",
    ),
    "LeRobot, a fractional number of episodes": (
        lambda to: make_lerobot(to, total_episodes=2.5),
        "total_episodes is 2.5, but must be an integer",
    ),
    "LeRobot, no features": (lambda to: make_lerobot(to, features=None), "features is None, but must be an object"),
    "LeRobot, a path to the parent": (
        lambda to: make_lerobot(to, data_path="../../{chunk_index}/{file_index}"),
        "must be a path inside the dataset's folder",
    ),
    "LeRobot, an absolute path": (
        lambda to: make_lerobot(to, data_path=str(SECRET)),
        "must be a path inside the dataset's folder",
    ),
    "LeRobot, a path with attribute access": (
        lambda to: make_lerobot(to, data_path="{chunk_index.__class__}"),
        "must be a path inside the dataset's folder",
    ),
    "LeRobot, data truncated": (
        lambda to: change_file(make_lerobot(to), DATA, truncate),
        f"{DATA}: is not a readable parquet",
    ),
    "LeRobot, data missing": (lambda to: change_file(make_lerobot(to), DATA, Path.unlink), f"{DATA}: is missing"),
    "LeRobot, data is a pipe": (
        lambda to: change_file(make_lerobot(to), DATA, lambda p: replace_file(p, make_pipe)),
        DATA,
        NOT_A_FILE,
    ),
    "LeRobot, episodes truncated": (
        lambda to: change_file(make_lerobot(to), EPISODES, truncate),
        f"{EPISODES}: is not a readable parquet",
    ),
    "LeRobot, episodes missing": (
        lambda to: change_file(make_lerobot(to), EPISODES, Path.unlink),
        "meta/episodes: lacks the files chunk-",
    ),
    "LeRobot, a video truncated": (
        lambda to: change_file(written.unzipped("lerobot", "videos")(to), VIDEO, truncate),
        f"{VIDEO}: cannot be decoded",
    ),
    "LeRobot, a video missing": (
        lambda to: change_file(written.unzipped("lerobot", "videos")(to), VIDEO, Path.unlink),
        f"{VIDEO}: is missing",
    ),
    "LeRobot, a playlist as a video": (
        lambda to: change_file(
            written.unzipped("lerobot", "videos")(to), VIDEO, lambda p: p.write_text(f"#EXTM3U\n{SECRET}\n")
        ),
        f"{VIDEO}: cannot be decoded",
    ),
}

CASES = PATHS | HDF5 | ZIPS | FOLDERS | LANCE | MINARI | LEROBOT | TORCH
# Invalid values, which convert only copies.
COPIED = {name for name in CASES if re.search(r"NaN|infinit|negative discrete", name)}
NO_CONFIG = {name for name in PATHS if "name" in name}  # paths that YAML cannot contain, at least not on one line


# -------------------------------------------------------------------------------------------- the commands


Call = Callable[..., tuple[int, str, str]]
NO_OUTPUT = re.compile("")
STARTUP = re.compile(r"((loading torch and Ray|preparing the dataset) \.\.\. \d+ s\n)*")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """`call(app, *arguments)`: exit code, stdout and stderr of a command, run in this process."""

    def call(app: Any, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.run(app, "command")
        return int(stop.value.code or 0), *capsys.readouterr()

    return call


def assert_one_line(
    done: tuple[int, str, str], path: Path, says: tuple[str, ...], stages: re.Pattern[str] = NO_OUTPUT
) -> None:
    """Standard output must match `stages`: nothing, or the stages that `train` shows while it starts."""
    code, out, err = done
    assert code == 2, err
    assert stages.fullmatch(out), out
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert err[:-1].isprintable(), err
    assert cli.in_one_line(str(path.with_suffix(""))) in err  # or the path of NAME-val.npz next to NAME.npz
    for part in says:
        assert part in err


def assert_info_refuses_or_warns(call: Call, path: Path, says: tuple[str, ...]) -> None:
    code, out, err = call(data_app, "info", path)
    if code:
        assert_one_line((code, out, err), path, says)
        return
    assert err == ""
    warning = out[out.index("warning: training would refuse this dataset: ") :]
    assert warning.count("\n") == 1
    for part in (str(path), *says):
        assert part in warning


def assert_convert_refuses(call: Call, path: Path, says: tuple[str, ...], target: Path) -> None:
    assert_one_line(call(data_app, "convert", path, target), path, says)
    assert not target.exists()


def assert_train_refuses(call: Call, path: Path, says: tuple[str, ...], folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"data": {"path": str(path), "cache_dir": str(folder / "cache")}}))
    assert_one_line(call(train_app, "--config", config, "--output", folder / "out"), path, says, STARTUP)
    assert not (folder / "out").exists()
    assert [file for file in (folder / "cache").glob("*") if file.suffix != ".lock"] == []


@pytest.mark.parametrize("case", CASES)
def test_every_command_refuses_an_invalid_dataset_in_one_line(case: str, tmp_path: Path, call: Call) -> None:
    if needed := "lance" if case in LANCE else "av" if case in LEROBOT else None:
        pytest.importorskip(needed)
    make, *words = CASES[case]
    says, folder = tuple(words), tmp_path / "bad"
    folder.mkdir()
    path = make(folder)
    assert_info_refuses_or_warns(call, path, says)
    if case in COPIED:
        assert call(data_app, "convert", path, tmp_path / "out.h5")[0] == 0
    else:
        assert_convert_refuses(call, path, says, tmp_path / "out.h5")
    if case not in NO_CONFIG:
        assert_train_refuses(call, path, says, tmp_path)
    assert not (folder / "ran").exists(), "code in the dataset was run"


# ------------------------------------------------------------------------------------------------- others


@contextlib.contextmanager
def as_unprivileged_user() -> Iterator[None]:
    """Root may read everything, so a test that runs as root continues as a user without privileges."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_unreadable_path_is_refused(tmp_path: Path, kind: str, call: Call) -> None:
    path = written.vectors(tmp_path) if kind == "file" else written.arrays_npy(tmp_path)
    call(data_app, "info", path)  # imports the needed modules while reading is still allowed
    path.chmod(0)
    with as_unprivileged_user():
        done = call(data_app, "info", path)
    path.chmod(0o700)
    assert_one_line(done, path, ("cannot be read (Permission denied)",))


@pytest.mark.parametrize("name", [b"a\n\x1b[2Jb", b"\xffa", "ü 1%20".encode()])
def test_unprintable_names_are_shown_escaped(tmp_path: Path, name: bytes, call: Call) -> None:
    """Names of a valid file and a column: unescaped, they could clear the terminal, or not be printed at all."""
    path = tmp_path / os.fsdecode(name + b".h5")
    made = written.canonical(tmp_path, **{"a\x1b[2Jb": REWARD})
    made.rename(path)
    code, out, err = call(data_app, "info", path)
    assert (code, err) == (0, "")
    assert cli.in_one_line(str(path)) in out.replace(" \n", "").replace("\n            ", "")
    assert "a\\x1b[2Jb" in out
    assert out.replace("\n", "").isprintable()
    assert call(data_app, "convert", path, tmp_path / os.fsdecode(b"\xfe.h5"))[0] == 0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("depth", "lacks the column depth (it has action, observation, pixels, reward)"),
        ("../observation", "'../observation' is not a valid column name"),
        ("/observation", "'/observation' is not a valid column name"),
        ("", "lacks the column "),
        ("ep_len", "lacks the column ep_len"),
    ],
)
def test_convert_refuses_a_missing_column(tmp_path: Path, name: str, says: str, call: Call) -> None:
    path, target = written.canonical(tmp_path), tmp_path / "out.h5"
    assert_one_line(call(data_app, "convert", path, target, "--keys", f"action,{name}"), path, (says,))
    assert not target.exists()


@pytest.mark.parametrize(
    ("case", "command"),
    [
        ("npy, a pipe", ["jepa_ray.data", "info"]),
        ("torch, code", ["jepa_ray.data", "convert"]),
        ("lengths that are not stored", ["jepa_ray.data", "info"]),
    ],
)
def test_separate_process_gives_the_same_error(tmp_path: Path, case: str, command: list[str]) -> None:
    path = CASES[case][0](tmp_path)
    more = [str(tmp_path / "out.h5")] if "convert" in command else []
    root = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-m", *command, str(path), *more],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    assert_one_line((done.returncode, done.stdout, done.stderr), path, CASES[case][1:])
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize("case", ["a pickle", "OGBench, actions that are objects", "torch, code", "npy, objects"])
def test_datasets_with_code_run_it_when_unpickled(tmp_path: Path, case: str) -> None:
    """Control: a program that unpickles the dataset is detected by the file that the code creates."""
    path = CASES[case][0](tmp_path)
    match path.suffix:
        case ".pkl":
            pickle.loads(path.read_bytes())
        case ".npz":
            np.load(path, allow_pickle=True)["actions"]
        case ".pt":
            torch.load(path, weights_only=False)
        case _:
            np.load(path / "actions.npy", allow_pickle=True)
    assert (tmp_path / "ran").exists()


def test_all_cases_have_unique_names() -> None:
    assert len(CASES) == sum(map(len, (PATHS, HDF5, ZIPS, FOLDERS, LANCE, MINARI, LEROBOT, TORCH))), (
        "a name is used twice"
    )
    assert len(CASES) >= 200
