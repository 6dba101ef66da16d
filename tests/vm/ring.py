"""A TCMU ring in the hands of a check: mailbox and entries as userspace sees them (linux/target_core_user.h)."""
import mmap
import os
import struct

from lio import find_uio, wait_for

HEAD, TAIL = 12, 64
OP_PAD, OP_CMD = 0, 1


class Ring:
    def __init__(self, name):
        """Opens and maps the device of backstore NAME."""
        uio = wait_for("the uio device", lambda: find_uio(name))
        self.fd = os.open(f"/dev/{uio.name}", os.O_RDWR | os.O_NONBLOCK)
        self.map = mmap.mmap(self.fd, int((uio / "maps/map0/size").read_text(), 16))
        self.version, self.flags, self.offset, self.size = struct.unpack_from("=HHII", self.map)

    def head(self):
        return struct.unpack_from("=I", self.map, HEAD)[0]

    def tail(self):
        return struct.unpack_from("=I", self.map, TAIL)[0]

    def set_tail(self, tail):
        struct.pack_into("=I", self.map, TAIL, tail & 0xFFFFFFFF)

    def entry(self, place):
        """(length, op, id) of the entry at PLACE of the ring."""
        len_op, cmd_id = struct.unpack_from("=IH", self.map, self.offset + place)
        return len_op & ~7, len_op & 7, cmd_id

    def set_entry(self, place, length, op, cmd_id=0, uflags=0):
        struct.pack_into("=IHBB", self.map, self.offset + place, length | op, cmd_id, 0, uflags)

    def answer(self, place, status=0):
        """Fills in the response of the entry at PLACE and returns where the next one is."""
        length, op, _ = self.entry(place)
        if op == OP_CMD:
            self.map[self.offset + place + 8:self.offset + place + 16] = bytes([status]) + bytes(7)
        return (place + length) % self.size

    def notify(self):
        os.write(self.fd, b"\1\0\0\0")

    def close(self):
        self.map.close()
        os.close(self.fd)
