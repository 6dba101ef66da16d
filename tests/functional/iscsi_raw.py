# SPDX-License-Identifier: GPL-2.0-or-later
"""An iSCSI initiator that says exactly what a test tells it to, right or wrong (RFC 7143)."""
import hashlib
import os
import socket
import struct

from conftest import SLOW

INITIATOR = "iqn.2026-11.test:raw"
NOP_OUT, CMD, TMF, LOGIN, TEXT, DATA_OUT, LOGOUT, SNACK = 0, 1, 2, 3, 4, 5, 6, 0x10
NOP_IN, RSP, TMF_RSP, LOGIN_RSP, TEXT_RSP, DATA_IN, LOGOUT_RSP = 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26
R2T, ASYNC, REJECT = 0x31, 0x32, 0x3F
IMM, FINAL, READ, WRITE = 0x40, 0x80, 0x40, 0x20
NONE = 0xFFFFFFFF
PATIENCE = 20 * SLOW  # seconds within which the target says something

TABLE = []
for _i in range(256):
    _c = _i
    for _ in range(8):
        _c = _c >> 1 ^ (0x82F63B78 if _c & 1 else 0)
    TABLE.append(_c)


def crc32c(data):
    c = 0xFFFFFFFF
    for b in data:
        c = TABLE[(c ^ b) & 0xFF] ^ c >> 8
    return (c ^ 0xFFFFFFFF).to_bytes(4, "little")


class Closed(Exception):
    pass


class Pdu:
    def __init__(self, bhs, data):
        self.bhs, self.data = bhs, data
        self.op, self.flags = bhs[0] & 0x3F, bhs[1]
        self.response, self.status = bhs[2], bhs[3]
        (self.itt, self.ttt, self.statsn, self.expcmdsn, self.maxcmdsn, self.datasn, self.offset,
         self.resid) = struct.unpack(">8I", bhs[16:48])

    def __repr__(self):
        return f"<PDU {self.op:#x} flags {self.flags:#x} rsp {self.response:#x}/{self.status:#x} {self.data[:40]!r}>"


def text(pairs):
    return b"".join(f"{k}={v}".encode() + b"\0" for k, v in pairs)


def parse(data):
    return dict(kv.decode().split("=", 1) for kv in data.rstrip(b"\0").split(b"\0") if kv)


class Raw:
    def __init__(self, port, host="127.0.0.1"):
        self.s = socket.create_connection((host, port), PATIENCE)
        self.cmdsn, self.expstatsn, self.itt = 100, 1, 1
        self.hd = self.dd = False
        self.isid = bytes.fromhex("80") + os.urandom(5)
        self.cid, self.keys = 7, {}

    def close(self):
        self.s.close()

    # --- PDUs ---
    def send(self, bhs, data=b"", bad_header=False, bad_data=False, dsl=None, ahs=b""):
        bhs = bytearray(bhs.ljust(48, b"\0"))
        bhs[4] = len(ahs) // 4
        bhs[5:8] = (len(data) if dsl is None else dsl).to_bytes(3, "big")
        out = bytes(bhs) + ahs
        if self.hd:
            d = crc32c(out)
            out += bytes([d[0] ^ 1]) + d[1:] if bad_header else d
        if data:
            data += b"\0" * (-len(data) % 4)
            out += data
            if self.dd:
                d = crc32c(data)
                out += bytes([d[0] ^ 1]) + d[1:] if bad_data else d
        self.s.sendall(out)

    def exactly(self, n):
        buf = b""
        while len(buf) < n:
            try:
                got = self.s.recv(n - len(buf))
            except ConnectionResetError:
                got = b""
            if not got:
                raise Closed()
            buf += got
        return buf

    def recv(self):
        bhs = self.exactly(48)
        if self.hd:
            assert self.exactly(4) == crc32c(bhs)
        n = int.from_bytes(bhs[5:8], "big")
        data = b""
        if n:
            whole = self.exactly((n + 3) & ~3)
            if self.dd:
                assert self.exactly(4) == crc32c(whole)
            data = whole[:n]
        p = Pdu(bhs, data)
        if p.op == LOGIN_RSP and p.bhs[36]:
            return p  # a login that was refused has no StatSN
        if p.op != DATA_IN or p.flags & 1:
            assert p.statsn == self.expstatsn, f"StatSN {p.statsn}, not {self.expstatsn}: {p}"
            # R2Ts and pings say the next StatSN and do not use it (RFC 7143 11.8.3, 11.19.2)
            if p.op != R2T and not (p.op == NOP_IN and p.itt == NONE):
                self.expstatsn = p.statsn + 1 & NONE
        return p

    def closed(self, seconds=PATIENCE):
        """The target closes; PDUs before that are returned."""
        got = []
        self.s.settimeout(seconds)
        try:
            while True:
                got.append(self.recv())
        except Closed:
            return got

    def silent(self, seconds=0.5):
        self.s.settimeout(seconds)
        try:
            p = self.recv()
        except socket.timeout:
            return True
        finally:
            self.s.settimeout(PATIENCE)
        raise AssertionError(f"not silent: {p}")

    def tag(self):
        self.itt += 1
        return self.itt

    # --- login ---
    def login_pdu(self, pairs, csg=1, nsg=3, transit=True, cont=False, tsih=0, data=None, version=0):
        flags = (FINAL if transit else 0) | (0x40 if cont else 0) | csg << 2 | (nsg if transit else 0)
        bhs = struct.pack(">BBBB4x6sHIH2xII", LOGIN | IMM, flags, version, version, self.isid, tsih, self.tag(),
                          self.cid, self.cmdsn, self.expstatsn)
        self.send(bhs, text(pairs) if data is None else data)
        p = self.recv()
        assert p.op == LOGIN_RSP
        p.login_status = p.bhs[36] << 8 | p.bhs[37]
        p.tsih = p.bhs[14] << 8 | p.bhs[15]
        p.keys = parse(p.data)
        return p

    def login(self, target, keys=(), initiator=INITIATOR, discovery=False, **kw):
        pairs = [("InitiatorName", initiator)]
        pairs += [("SessionType", "Discovery")] if discovery else [("TargetName", target), ("SessionType", "Normal")]
        p = self.login_pdu(pairs + list(keys), **kw)
        if p.login_status == 0 and p.flags & FINAL and p.flags & 3 == 3:
            self.keys = p.keys
            self.hd = p.keys.get("HeaderDigest") == "CRC32C"
            self.dd = p.keys.get("DataDigest") == "CRC32C"
        return p

    def chap(self, target, user, secret, alg, mutual=None, reflect=False, discovery=False):
        hashes = {5: hashlib.md5, 6: hashlib.sha1, 7: hashlib.sha256, 8: hashlib.sha3_256}
        p = self.login(target, [("AuthMethod", "CHAP,None")], csg=0, nsg=1, transit=False, discovery=discovery)
        if p.login_status:
            return p
        assert p.keys["AuthMethod"] == "CHAP"
        p = self.login_pdu([("CHAP_A", f"99,{alg}")], csg=0, transit=False)
        if p.login_status:
            return p
        assert p.keys["CHAP_A"] == str(alg)
        challenge = bytes.fromhex(p.keys["CHAP_C"][2:])
        digest = hashes[alg](bytes([int(p.keys["CHAP_I"])]) + secret.encode() + challenge).hexdigest()
        pairs = [("CHAP_N", user), ("CHAP_R", "0x" + digest)]
        mine = challenge if reflect else os.urandom(24)
        if mutual is not None:
            pairs += [("CHAP_I", "200"), ("CHAP_C", "0x" + mine.hex())]
        p = self.login_pdu(pairs, csg=0, nsg=1)
        if mutual and p.login_status == 0:
            want = hashes[alg](bytes([200]) + mutual.encode() + mine).hexdigest()
            assert p.keys["CHAP_R"].lower() == "0x" + want
        if p.login_status or not p.flags & FINAL:
            return p
        return self.login_pdu([])

    # --- full feature phase ---
    def command(self, cdb, edtl=0, flags=0, data=b"", final=True, imm=False, itt=None, cmdsn=None, lun=0, ahs=b"", **kw):
        itt = self.tag() if itt is None else itt
        sn = self.cmdsn if cmdsn is None else cmdsn
        bhs = struct.pack(">BBxx4xQIIII", CMD | (IMM if imm else 0), (FINAL if final else 0) | flags | 1, lun << 48, itt,
                          edtl, sn & NONE, self.expstatsn) + cdb.ljust(16, b"\0")
        if not imm and cmdsn is None:
            self.cmdsn += 1
        self.send(bhs, data, ahs=ahs, **kw)
        return itt

    def data_out(self, itt, ttt, datasn, offset, data, final=True, **kw):
        self.send(struct.pack(">BBxx4xQIIxxxxIxxxxII", DATA_OUT, FINAL if final else 0, 0, itt, ttt, self.expstatsn, datasn,
                              offset), data, **kw)

    def tmf(self, fn, ref=NONE, refsn=0, lun=0, imm=True):
        itt = self.tag()
        self.send(struct.pack(">BBxx4xQIIIII", TMF | (IMM if imm else 0), FINAL | fn, lun << 48, itt, ref, self.cmdsn,
                              self.expstatsn, refsn))
        if not imm:
            self.cmdsn += 1
        return itt

    def nop(self, data=b"", imm=True, itt=None, ttt=NONE, cmdsn=None):
        itt = self.tag() if itt is None else itt
        self.send(struct.pack(">BBxx4xQIIII", NOP_OUT | (IMM if imm else 0), FINAL, 0, itt, ttt,
                              self.cmdsn if cmdsn is None else cmdsn, self.expstatsn), data)
        if not imm and cmdsn is None:
            self.cmdsn += 1
        return itt

    def text(self, data, ttt=NONE, flags=FINAL):
        itt = self.tag()
        self.send(struct.pack(">BBxx4xQIIII", TEXT, flags, 0, itt, ttt, self.cmdsn, self.expstatsn), data)
        self.cmdsn += 1
        return self.recv()

    def logout(self, reason=0, cid=None):
        self.send(struct.pack(">BBxx4x8xIHxxII", LOGOUT | IMM, FINAL | reason, self.tag(),
                              self.cid if cid is None else cid, self.cmdsn, self.expstatsn))
        return self.recv()

    def wait(self, itt):
        """The status of @itt, its data before; other PDUs in .others."""
        data, others = bytearray(), []
        while True:
            p = self.recv()
            if p.itt != itt:
                others.append(p)
                continue
            if p.op == DATA_IN:
                assert p.offset == len(data)
                data += p.data
                if not p.flags & 1:
                    others.append(p)
                    continue
            if p.op in (DATA_IN, RSP, TMF_RSP, NOP_IN):
                p.all, p.others = bytes(data), others
                p.sense = p.data[2:] if p.op == RSP and p.data else b""
                p.asc = (p.sense[12] << 8 | p.sense[13]) if p.sense else None
                return p
            others.append(p)

    def ready(self):
        """Takes the unit attentions; then a command ends GOOD."""
        for _ in range(5):
            p = self.wait(self.command(bytes(6)))
            if p.status == 0:
                return self
        raise AssertionError(f"not ready: {p}")

    def write(self, lba, payload, **kw):
        return self.command(write10(lba, len(payload) // 512), len(payload), WRITE, **kw)

    def read(self, lba, blocks, edtl=None, **kw):
        return self.wait(self.command(read10(lba, blocks), blocks * 512 if edtl is None else edtl, READ, **kw))


def read10(lba, blocks):
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0)


def write10(lba, blocks):
    return struct.pack(">BBIBHB", 0x2A, 0, lba, 0, blocks, 0)
