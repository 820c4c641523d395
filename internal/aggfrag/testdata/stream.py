"""AGGFRAG payloads by the text of RFC 9347, Sections 2.2 and 6.1, as one stream of octets.

stream.py decode            payloads in hexadecimal, a line each, in order -> the packets
stream.py report            payloads in hexadecimal, a line each -> the header of sub-type 1, field by field
stream.py encode SEED       packets in hexadecimal, a line each -> payloads, made with every freedom that a sender has
"""
import random
import struct
import sys


def total_length(b):
    if b[0] >> 4 == 4:
        return struct.unpack("!H", b[2:4])[0] if len(b) >= 4 else None
    if b[0] >> 4 == 6:
        return 40 + struct.unpack("!H", b[4:6])[0] if len(b) >= 6 else None
    raise ValueError("no data block begins with %#x" % b[0])


def decode(payloads):
    """The data blocks of all payloads follow one another; BlockOffset says where the next begins."""
    under_way = b""
    for p in payloads:
        subtype, _, offset = struct.unpack("!BBH", p[:4])
        blocks = p[{0: 4, 1: 24}[subtype]:]
        if under_way:
            if offset == 0 and blocks[0] >> 4 == 0:
                continue  # an all-pad payload may stand between
            if (length := total_length(under_way + blocks[:6])) != len(under_way) + offset:
                raise ValueError("BlockOffset %d, and %d of %d octets are there" % (offset, len(under_way), length))
            under_way += blocks[:offset]
            if offset > len(blocks):
                continue
            yield under_way
            under_way, blocks = b"", blocks[offset:]
        elif offset:
            raise ValueError("BlockOffset %d, and no packet is under way" % offset)
        while blocks and blocks[0] >> 4:
            n = total_length(blocks)
            if n is None or n > len(blocks):
                under_way = blocks
                break
            yield blocks[:n]
            blocks = blocks[n:]
    if under_way:
        raise ValueError("the last packet is not complete")


def header(r, offset):
    if r.random() < 0.3:
        return struct.pack("!BBH", 1, 0, offset) + r.randbytes(20)
    return struct.pack("!BBH", 0, 0, offset)


def encode(r, packets):
    """Payloads of random lengths; packets cut anywhere, pads at the end, and all-pad payloads in between."""
    stream = [(i, p) for i, p in enumerate(packets)]
    rest = b""
    while stream or rest:
        if r.random() < 0.1:
            yield header(r, 0) + bytes(r.randrange(1, 60))
            continue
        room = r.choice([1, 7, 30, 200, 1400, 4000])
        p = header(r, len(rest))
        p, room, rest = p + rest[:room], room - len(rest[:room]), rest[room:]
        while room and stream and not rest:
            if r.random() < 0.1:
                p, room = p + bytes(room), 0
                break
            _, b = stream.pop(0)
            p, room, rest = p + b[:room], room - len(b[:room]), b[room:]
        yield p


def report(p):
    """Figure 5, bit by bit: Sub-type, Reserved, P, E, BlockOffset, LossEventRate, RTT, Echo Delay, Transmit Delay, TVal, TEcho."""
    bits = "".join("{:08b}".format(x) for x in p[:24])
    for n in (8, 6, 1, 1, 16, 32, 22, 21, 21, 32, 32):
        yield str(int(bits[:n], 2))
        bits = bits[n:]


def main():
    lines = [bytes.fromhex(line) for line in sys.stdin.read().split()]
    if sys.argv[1] == "report":
        for p in lines:
            print(",".join(report(p)))
        return
    out = decode(lines) if sys.argv[1] == "decode" else encode(random.Random(int(sys.argv[2])), lines)
    for b in out:
        print(b.hex())


main()
