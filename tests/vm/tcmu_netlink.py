"""The userspace side of target_core_user's generic netlink family TCM-USER, for checks: hears events, answers them.

Layouts: linux/netlink.h, linux/genetlink.h, linux/target_core_user.h.
"""
import socket
import struct

NETLINK_GENERIC, SOL_NETLINK, ADD_MEMBERSHIP = 16, 270, 1
NLM_F_REQUEST, NLM_F_ACK, NLMSG_ERROR = 1, 4, 2
GENL_ID_CTRL, CTRL_GETFAMILY = 16, 3
CTRL_FAMILY_ID, CTRL_FAMILY_NAME, CTRL_MCAST_GROUPS, GROUP_ID = 1, 2, 7, 2
ADDED, REMOVED, RECONFIG, ADDED_DONE, REMOVED_DONE, RECONFIG_DONE, SET_FEATURES = range(1, 8)
DEVICE, MINOR, STATUS, DEVICE_ID, KERN_REPLY = 1, 2, 7, 8, 9


def attribute(kind, data):
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def attributes(data):
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3:]
    return found


class Netlink:
    """A listener of the family, which says of itself that it answers (so that the kernel waits for it)."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self.socket.bind((0, 0))
        self.socket.settimeout(60)
        self._send(GENL_ID_CTRL, CTRL_GETFAMILY, 1, attribute(CTRL_FAMILY_NAME, b"TCM-USER\0"))
        _, found = self._receive()
        self.family = struct.unpack("=H", found[CTRL_FAMILY_ID])[0]
        (group,) = attributes(found[CTRL_MCAST_GROUPS]).values()
        self.socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, struct.unpack("=I", attributes(group)[GROUP_ID])[0])
        self.command(SET_FEATURES, attribute(KERN_REPLY, b"\1"))

    def _send(self, kind, command, version, data, flags=NLM_F_REQUEST):
        self.socket.send(struct.pack("=IHHIIBBH", 20 + len(data), kind, flags, 1, 0, command, version, 0) + data)

    def _receive(self):
        message = self.socket.recv(65536)
        length, kind = struct.unpack_from("=IH", message)
        if kind == NLMSG_ERROR:
            return "error", struct.unpack_from("=i", message, 16)[0]
        return message[16], attributes(message[20:length])

    def command(self, command, data):
        """Sends a command; 0 or the -errno of the kernel's answer. Events that come before it are dropped."""
        self._send(self.family, command, 2, data, NLM_F_REQUEST | NLM_F_ACK)
        while True:
            kind, value = self._receive()
            if kind == "error":
                return value

    def event(self, wanted):
        """Waits for an event of kind WANTED; returns the device's id."""
        while True:
            kind, found = self._receive()
            if kind == wanted:
                return struct.unpack("=I", found[DEVICE_ID])[0]

    def done(self, command, device, status=0):
        return self.command(command, attribute(STATUS, struct.pack("=i", status)) + attribute(DEVICE_ID, struct.pack("=I", device)))
