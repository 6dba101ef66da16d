# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job: a backing file is a LUN that other people's programs use, over iSCSI and NBD."""
import hashlib
import json
import os

import pytest

from conftest import ROOT, SLOW, TOOLS, free_port, need, run


def fill(path, mib, seed=7):
    """A file with data, zeros and holes that differ from one MiB to the next."""
    with open(path, "wb") as f:
        for i in range(mib):
            if i % 4 == 3:
                f.seek(1 << 20, os.SEEK_CUR)
            elif i % 8 == 2:
                f.write(bytes(1 << 20))
            else:
                f.write(hashlib.shake_128(f"{seed}.{i}".encode()).digest(1 << 20))
        f.truncate(mib << 20)


def same(a, b):
    run("cmp", a, b, timeout=300)


def test_every_printed_url_answers(ebb, disk):
    e = ebb(disk("64M"), f"{disk('32M')},name=second,ro")
    for url in e.urls("iscsi"):
        assert "EBB" in run(need("iscsi-inq"), url).stdout
        assert "virtual size" in run(need("qemu-img"), "info", "-f", "raw", url).stdout
    portal = f"iscsi://127.0.0.1:{e.iscsi_port}"
    listed = run(need("iscsi-ls"), "-s", portal).stdout
    assert "iqn.2026-11.local.ebb:second" in listed and "iqn.2026-11.local.ebb:disk0" in listed
    assert len(e.urls("iscsi")) == len(e.urls("nbd")) == 2
    for url, size, ro in zip(e.urls("nbd"), (64 << 20, 32 << 20), (False, True)):
        info = json.loads(run(need("nbdinfo"), "--json", url).stdout)["exports"][0]
        assert info["export-size"] == size
        assert info["is_read_only"] is ro
        assert "virtual size" in run("qemu-img", "info", "-f", "raw", url).stdout


@pytest.mark.parametrize("mib", [64, pytest.param(1024, marks=[pytest.mark.plain(reason="long"), pytest.mark.soak])])
def test_image_in_over_one_protocol_and_out_over_the_other(ebb, tmp_path, mib):
    image, back, image2, back2 = (tmp_path / n for n in ("image", "back", "image2", "back2"))
    fill(image, mib)
    fill(image2, mib, seed=8)
    e = ebb(f"{tmp_path}/lun.img,name=l,size={mib}M")
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, e.iscsi("l"), timeout=600)
    run(need("nbdcopy"), e.nbd("l"), back, timeout=600)
    same(image, back)
    run("nbdcopy", image2, e.nbd("l"), timeout=600)
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", e.iscsi("l"), back2, timeout=600)
    same(image2, back2)


def checker(e, seconds, seed, extra=()):
    """Our consistency checker over both protocols at once."""
    return run(TOOLS / "consistency/consistency", "--iscsi", e.iscsi(), "--iscsi", e.iscsi(), "--nbd", e.nbd(), "--nbd", e.nbd(),
               "--seconds", seconds, "--seed", seed, *extra, timeout=seconds + 120)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["direct", "buffered"])
def test_both_protocols_at_once_stay_coherent(ebb, disk, mode):
    e = ebb(f"{disk('64M')},io={mode}")
    checker(e, 10, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["direct", "buffered"])
def test_coherent_for_half_an_hour(ebb, disk, mode):
    e = ebb(f"{disk('64M')},io={mode}")
    seconds = int(os.environ.get("EBB_SOAK_SECONDS", 900 if SLOW == 1 else 300))
    checker(e, seconds, seed=os.getpid())


@pytest.fixture
def profiles(ebb, disk, tmp_path):
    """Three ways to export a LUN, each with two portals."""
    second = free_port()
    e = ebb(f"{tmp_path}/thin.img,name=thin,size=1G", f"{tmp_path}/rem.img,name=removable,size=1G,removable,bs=4096",
            f"{disk('128M')},name=readonly,ro", args=["--iscsi", f"127.0.0.1:{second}"])
    args = []
    for name in ("thin", "removable", "readonly"):
        urls = [u for u in e.urls("iscsi") if f":{name}/" in u]
        first = next(u for u in urls if f":{e.iscsi_port}/" in u)
        args.append(f"{name}={first},{first.replace(f':{e.iscsi_port}/', f':{second}/')}")
    return ["--read-only", "readonly", *args]


# Sanitizing takes a busy machine its time, and the suite looks for its end once a minute.
CONFORMANCE = [ROOT / "scripts/conformance", "--limit", 180 * SLOW]
# One test of the suite sleeps for a minute: it is a part of its own, and one profile will do for it.
PARTS = [("--only", "Sanitize.Reset", "--until-pass")] + [
    ("--except", "Sanitize.Reset", "--part", f"{i}/5") for i in range(1, 6)]


def conformance(profiles, *args):
    need("iscsi-test-cu")
    p = run(*CONFORMANCE, *args, *profiles, timeout=200, check=False)
    assert p.returncode == 0, p.stdout


@pytest.mark.plain(reason="under sanitizers one profile that passes is enough: see below")
@pytest.mark.long
@pytest.mark.parametrize("part", PARTS, ids=" ".join)
def test_libiscsi_conformance_suite(profiles, part):
    conformance(profiles, "--at-once", *part)


@pytest.mark.sanitized
@pytest.mark.long
@pytest.mark.parametrize("part", PARTS, ids=" ".join)
def test_libiscsi_suite_once_each_under_sanitizers(profiles, part):
    """Every test of the suite runs until a profile passes it; findings of the sanitizers fail the fixture."""
    conformance(profiles, "--until-pass", *part)
