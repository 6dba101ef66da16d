#!/usr/bin/python3
"""What goes wrong in the in-tree target_core_user must not in ours: each case here is a mistake that was, or is, made there.

    tcmu-bugs.py [--in-tree] [CASE]...      --in-tree: shows the mistake, one case a boot (scripts/vm --may-complain)

check: kernels=6.1,6.12 seconds=600 soak
"""
import contextlib
import os
import pathlib
import sys
import time
import traceback

import lio
import tcmu_netlink as nl
from ring import OP_CMD, OP_PAD, Ring

MIB = 1 << 20
CASES = []


def case(f):
    CASES.append(f)
    return f


def refused(action):
    try:
        action()
    except OSError as e:
        return e.errno is not None  # a time-out of Python's own has none
    return False


@case
def a_block_of_no_bytes_is_refused():
    b = lio.Backstore("b", MIB, enable=False)
    assert refused(lambda: b.control("data_pages_per_blk=0"))
    assert refused(lambda: b.control("max_data_area_mb=4096,data_pages_per_blk=1048576"))  # 0 in 32 bits
    b.control("max_data_area_mb=1")
    lio.write(b.path / "enable", 1)
    b.remove()


@case
def a_tail_that_points_nowhere_ends_in_no_loop():
    for tail in (8, 1, 64, 0x7FFFFFF8, 0xFFFFFFFF):
        for length, op in ((0, OP_PAD), (0, OP_CMD), (7 << 3, OP_CMD), (1 << 31, OP_PAD)):
            b = lio.Backstore("b", MIB)
            r = Ring(b.name)
            r.set_entry(0, length, op, cmd_id=9)
            r.set_tail(tail)
            refused(r.notify)
            r.close()
            b.remove()


@case
def timeouts_come_while_the_global_limit_is_set():
    b = lio.Backstore("b", 16 * MIB)
    server, loop = lio.Server("b", hold=65536), lio.Loop()
    disk = loop.export(b)
    b.set("cmd_time_out", 2)
    for _ in range(3):
        late = lio.background(lio.read_blocks, disk, 0, 128)
        while not late.done():  # would wait for ever if one of these dropped the work that ends it
            lio.set_parameter("global_max_data_area_mb", 2048)
            time.sleep(0.01)
        assert not late.result()
    server.stop("KILL")
    loop.remove()
    b.remove()


@case
def an_answer_for_the_wrong_device_does_not_lose_the_waiter():
    listener = nl.Netlink()
    maker = lio.background(lio.Backstore, "b", MIB, nl_reply_supported=1)
    device = listener.event(nl.ADDED)
    assert listener.done(nl.ADDED_DONE, device + 1000) != 0
    assert listener.done(nl.REMOVED_DONE, device) != 0  # the right device, the wrong question
    assert not maker.done()
    assert listener.done(nl.ADDED_DONE, device) == 0
    remover = lio.background(maker.result(60).remove)
    assert listener.done(nl.REMOVED_DONE, listener.event(nl.REMOVED)) == 0
    remover.result(60)


@case
def an_answer_that_is_no_error_number_is_an_error():
    for status in (5, -5000):
        listener = nl.Netlink()
        maker = lio.background(lio.Backstore, "b", MIB, nl_reply_supported=1)
        assert listener.done(nl.ADDED_DONE, listener.event(nl.ADDED), status=status) == 0
        assert refused(lambda: maker.result(60))
        (lio.Backstore.hba / "b").rmdir()


@case
def reset_netlink_frees_who_waits():
    listener = nl.Netlink()
    maker = lio.background(lio.Backstore, "b", MIB, nl_reply_supported=1)
    listener.event(nl.ADDED)
    lio.set_parameter("block_netlink", 1)
    lio.set_parameter("reset_netlink", 1)
    assert refused(lambda: maker.result(60))
    lio.set_parameter("block_netlink", 0)
    (lio.Backstore.hba / "b").rmdir()


@case
def a_device_nobody_ever_opened_can_shrink():
    b, loop = lio.Backstore("b", 16 * MIB), lio.Loop()
    b.set("cmd_time_out", 2)
    linking = lio.background(loop.link, b)  # asks who the disk is, in vain
    while not linking.done():
        shrink()
    shrink()
    # It serves whoever comes at last; and tcm_loop loses its nexus with a LUN whose disk never came.
    b.set("cmd_time_out", 900)
    server = lio.Server("b")
    loop.scan()
    assert lio.read_blocks(loop.open(b), 0, 1024)
    loop.remove()
    server.stop()
    b.remove()


@case
def a_device_that_was_closed_can_shrink():
    b = lio.Backstore("b", 16 * MIB)
    server, loop = lio.Server("b"), lio.Loop()
    disk = loop.export(b)
    assert lio.read_blocks(disk, 0, 1024)
    server.stop()
    shrink()
    server = lio.Server("b")
    assert lio.read_blocks(disk, 0, 1024)
    server.stop()
    loop.remove()
    b.remove()


def shrink():
    """Asks for memory back in every way there is."""
    for mb in (1, 2048):
        with contextlib.suppress(OSError):  # refused when it is less than what is reserved
            lio.set_parameter("global_max_data_area_mb", mb)
    lio.drop_caches()


@case
def a_device_removed_with_commands_unanswered_leaves_nothing():
    b = lio.Backstore("b", 16 * MIB)
    server, loop = lio.Server("b", hold=65536), lio.Loop()
    disk = loop.export(b)
    b.set("cmd_time_out", 1)
    late = [lio.background(lio.read_blocks, disk, n * 1024, 1024) for n in range(8)]
    assert not any(f.result(120) for f in late)
    loop.remove()
    server.stop("KILL")
    b.remove()  # the debug kernel counts what is lost


@case
def a_mapping_of_a_device_that_failed_to_come_up_stays_ours():
    listener = nl.Netlink()
    maker = lio.background(lio.Backstore, "b", MIB, nl_reply_supported=1)
    device = listener.event(nl.ADDED)
    ring = Ring("b")
    ring.set_entry(0, 8, OP_CMD, 77)
    assert listener.done(nl.ADDED_DONE, device, status=-22) == 0
    assert refused(lambda: maker.result(60))
    # What was mapped is still there and belongs to nobody else, whoever allocates now.
    filler = pathlib.Path("/tmp/filler")
    filler.write_bytes(bytes(64 * MIB))
    assert ring.entry(0) == (8, OP_CMD, 77)
    ring.set_entry(0, 16, OP_CMD, 78)
    assert filler.read_bytes() == bytes(64 * MIB)
    filler.unlink()
    ring.close()
    (lio.Backstore.hba / "b").rmdir()


@case
def a_command_that_waits_for_room_is_late_in_time_though_others_come_and_go():
    b = lio.Backstore("b", 16 * MIB, max_data_area_mb=1)
    server, loop = lio.Server("b", hold=4096), lio.Loop()
    server.release()
    disk = loop.export(b)
    server.hold()
    b.set("cmd_time_out", 0)
    b.set("qfull_time_out", 2)
    small, large = 60, 3
    held = [lio.background(lio.read_blocks, disk, n * 8, 8) for n in range(small)]
    server.wait_held(small)
    held += [lio.background(lio.read_blocks, disk, n * 512, 512) for n in range(large)]
    server.wait_held(small + large)
    late = lio.background(lio.read_blocks, disk, 8192, 1024, seconds=20)
    for _ in range(small):  # each that goes has the late one tried again; there is never room for it
        if int(b.get("timeouts_qfull")):
            break
        server.release_one()
        time.sleep(0.5)
    assert int(b.get("timeouts_qfull")) > 0
    server.release()
    assert all(f.result(60) for f in held)
    late.result(120)  # told that the queue was full, the initiator tries again
    server.stop()
    loop.remove()
    b.remove()


def main():
    origin = "in-tree" if "--in-tree" in sys.argv else "ours"
    wanted = [a for a in sys.argv[1:] if a != "--in-tree"]
    for f in CASES:
        if wanted and f.__name__ not in wanted:
            continue
        begin = time.monotonic()
        try:
            with lio.tcmu(origin):
                f()
            print(f"ok   {f.__name__} ({time.monotonic() - begin:.0f} s)", flush=True)
        except Exception:
            print(f"FAIL {f.__name__}\n{traceback.format_exc()}", flush=True)
            os._exit(1)  # what it left behind would only confuse the next


main()
