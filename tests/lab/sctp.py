"""One handshake of SCTP by hand, for kernels that have no SCTP of their own.

  sctp.py serve PORT           answers every INIT with an INIT ACK, and prints who asked
  sctp.py ask ADDRESS PORT     sends INITs until an INIT ACK is back, and prints who answered

RFC 9260, sections 3.1 and 3.3.2; the checksum is CRC32c (appendix A).
"""

import socket
import struct
import sys

INIT, INIT_ACK = 1, 2
OWN_TAG, OWN_PORT = 0x5C799001, 40000


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def packet(source, destination, tag, kind, own_tag):
    cookie = struct.pack("!HHI", 7, 8, 0) if kind == INIT_ACK else b""
    body = struct.pack("!IIHHI", own_tag, 65536, 1, 1, 1) + cookie
    chunk = struct.pack("!BBH", kind, 0, 4 + len(body)) + body
    head = struct.pack("!HHI", source, destination, tag)
    checksum = struct.pack("<I", crc32c(head + bytes(4) + chunk))
    return head + checksum + chunk


def parse(datagram):
    """Ports, tag, kind of chunk and the sender's tag; nothing of what is damaged."""
    segment = datagram[(datagram[0] & 15) * 4 :]
    source, destination, tag = struct.unpack("!HHI", segment[:8])
    whole = segment[:8] + bytes(4) + segment[12:]
    if struct.unpack("<I", segment[8:12])[0] != crc32c(whole):
        sys.exit("the checksum is wrong")
    return source, destination, tag, segment[12], struct.unpack("!I", segment[16:20])[0]


raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 132)
if sys.argv[1] == "serve":
    raw.settimeout(60)
    for _ in range(100):
        datagram, (client, _) = raw.recvfrom(2048)
        source, destination, _, kind, tag = parse(datagram)
        if (destination, kind) == (int(sys.argv[2]), INIT):
            raw.sendto(packet(destination, source, tag, INIT_ACK, 7), (client, 0))
            print(client, flush=True)
else:
    address, port = sys.argv[2], int(sys.argv[3])
    raw.settimeout(0.2)
    for _ in range(50):
        raw.sendto(packet(OWN_PORT, port, 0, INIT, OWN_TAG), (address, 0))
        try:
            datagram, (server, _) = raw.recvfrom(2048)
        except TimeoutError:
            continue
        source, destination, tag, kind, _ = parse(datagram)
        if (destination, tag, kind) == (OWN_PORT, OWN_TAG, INIT_ACK):
            print(server, source)
            sys.exit()
    sys.exit("nobody answers")
