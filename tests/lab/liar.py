"""Sends frames that lie, by AF_PACKET: liar.rs runs it inside a container.

    python3 liar.py KIND LIAR VICTIM DESTINATION...

KIND says what is false of them; LIAR, VICTIM and each DESTINATION are
`mac,ipv4,ipv6`: who sends, whose addresses are claimed, who is to believe it.
Every frame bears the word LIARLIAR, if only behind its end. Prints how many
were sent. KIND `honest` sends one frame each of what is true, with the word
HONEST instead.
"""

import ipaddress
import socket
import struct
import sys

DEVICE = "eth0"


class Station:
    def __init__(self, text):
        mac, v4, v6 = text.split(",")
        self.mac = bytes.fromhex(mac.replace(":", ""))
        self.v4 = ipaddress.IPv4Address(v4).packed
        self.v6 = ipaddress.IPv6Address(v6).packed
        m = self.mac
        self.link_local = bytes.fromhex("fe80") + bytes(6) + bytes(
            [m[0] ^ 2, m[1], m[2], 0xFF, 0xFE, m[3], m[4], m[5]]
        )


kind, me, victim = sys.argv[1], Station(sys.argv[2]), Station(sys.argv[3])
destinations = [Station(text) for text in sys.argv[4:]]
WORD = b"HONEST" if kind == "honest" else b"LIARLIAR"
NOBODY4, NOBODY6 = bytes(4), bytes(16)
STRANGER4 = ipaddress.IPv4Address("198.51.100.66").packed
STRANGER6 = ipaddress.IPv6Address("2001:db8:66::66").packed


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def ether(dst, src, kind, payload):
    return dst + src + struct.pack("!H", kind) + payload


def ipv4(src, dst, fragment=0):
    udp = struct.pack("!HHHH", 1234, 9, 8 + len(WORD), 0) + WORD
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, fragment, 64, 17, 0) + src + dst
    return head[:10] + checksum(head) + head[12:] + udp


def ipv6(src, dst, what, payload, options=b""):
    """`options` is an extension header, whose next header is set here."""
    next_header = what
    if options:
        next_header, options = 0, bytes([what]) + options[1:]
    length = len(options) + len(payload)
    return struct.pack("!IHBB", 6 << 28, length, next_header, 255) + src + dst + options + payload


def udp6(src, dst):
    body = struct.pack("!HHHH", 1234, 9, 8 + len(WORD), 0) + WORD
    pseudo = src + dst + struct.pack("!II", len(body), 17)
    return ipv6(src, dst, 17, body[:6] + checksum(pseudo + body) + body[8:])


def icmp6(src, dst, kind, body, options=b""):
    message = bytes([kind, 0, 0, 0]) + body
    pseudo = src + dst + struct.pack("!II", len(message), 58)
    message = message[:2] + checksum(pseudo + message) + message[4:]
    return ipv6(src, dst, 58, message, options) + WORD


def source_is(mac):
    return bytes([1, 1]) + mac


def target_is(mac):
    return bytes([2, 1]) + mac


NONCE = bytes([14, 1]) + b"nonce!"
OVERRIDE, SOLICITED = bytes([0x20, 0, 0, 0]), bytes([0x60, 0, 0, 0])
HOP_BY_HOP = bytes([0, 0, 1, 4, 0, 0, 0, 0])


def advert(src, dst, target, option, extension=b""):
    return icmp6(src, dst, 136, SOLICITED + target + option, extension)


def solicit(src, dst, target, option):
    return icmp6(src, dst, 135, bytes(4) + target + option)


def arp(op, mac, ip, target_mac, target_ip):
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, op)
    return head + mac + ip + target_mac + target_ip + WORD


def lies(to):
    """What is sent to one destination: whole frames."""
    frame = lambda kind, payload, src=me.mac: ether(to.mac, src, kind, payload)
    v6 = lambda payload, src=me.mac: frame(0x86DD, payload, src)
    if kind == "mac":
        yield frame(0x0800, ipv4(me.v4, to.v4), victim.mac)
        yield frame(0x0800, ipv4(victim.v4, to.v4), victim.mac)
        yield frame(0x0800, ipv4(me.v4, to.v4), bytes.fromhex("020000000066"))
        yield frame(0x0806, arp(2, victim.mac, victim.v4, to.mac, to.v4), victim.mac)
        yield v6(udp6(victim.v6, to.v6), victim.mac)
        yield v6(advert(victim.v6, to.v6, victim.v6, target_is(victim.mac)), victim.mac)
        yield frame(0x88B5, WORD, victim.mac)
    elif kind == "arp":
        # Gratuitous, in both forms; an answer; a question that tells.
        yield ether(b"\xff" * 6, me.mac, 0x0806, arp(2, me.mac, victim.v4, b"\xff" * 6, victim.v4))
        yield ether(b"\xff" * 6, me.mac, 0x0806, arp(1, me.mac, victim.v4, bytes(6), victim.v4))
        yield frame(0x0806, arp(2, me.mac, victim.v4, to.mac, to.v4))
        yield frame(0x0806, arp(1, me.mac, victim.v4, bytes(6), to.v4))
        # Its own address at a MAC that is another's; a probe likewise.
        yield frame(0x0806, arp(2, victim.mac, me.v4, to.mac, to.v4))
        yield frame(0x0806, arp(1, victim.mac, NOBODY4, bytes(6), to.v4))
        yield frame(0x0806, arp(2, me.mac, NOBODY4, to.mac, to.v4))
        # Of other hardware, and cut off.
        yield frame(0x0806, arp(2, me.mac, victim.v4, to.mac, to.v4)[:12] + WORD)
    elif kind == "ipv4":
        yield frame(0x0800, ipv4(victim.v4, to.v4))
        yield frame(0x0800, ipv4(victim.v4, to.v4, fragment=0x2000))
        yield frame(0x0800, ipv4(victim.v4, to.v4, fragment=100))
        yield frame(0x0800, ipv4(STRANGER4, to.v4))
        yield frame(0x0800, ipv4(NOBODY4, b"\xff" * 4))
        yield frame(0x0800, WORD)
    elif kind == "ipv6":
        yield v6(udp6(victim.v6, to.v6))
        yield v6(udp6(victim.link_local, to.v6))
        yield v6(udp6(STRANGER6, to.v6))
        yield v6(udp6(NOBODY6, to.v6))
        yield v6(icmp6(NOBODY6, to.v6, 128, b"\0\1\0\1"))
        yield v6(WORD)
    elif kind == "nd":
        yield v6(advert(me.v6, to.v6, victim.v6, target_is(me.mac)))
        yield v6(advert(me.link_local, to.v6, victim.v6, target_is(me.mac)))
        yield v6(advert(victim.v6, to.v6, victim.v6, target_is(me.mac)))
        yield v6(advert(victim.v6, to.v6, victim.v6, b""))
        yield v6(advert(me.v6, to.v6, me.v6, target_is(victim.mac)))
        # Where rules may not look for it.
        yield v6(advert(me.v6, to.v6, victim.v6, target_is(me.mac), HOP_BY_HOP))
        yield v6(advert(me.v6, to.v6, victim.v6, b"", HOP_BY_HOP))
        yield v6(advert(me.v6, to.v6, me.v6, NONCE + target_is(victim.mac)))
        yield v6(solicit(victim.v6, to.v6, to.v6, source_is(me.mac)))
        yield v6(solicit(me.v6, to.v6, to.v6, source_is(victim.mac)))
        yield v6(solicit(me.v6, to.v6, to.v6, NONCE + source_is(victim.mac)))
        # Duplicate detection of what is another's; a router that is none.
        yield v6(solicit(NOBODY6, to.v6, victim.v6, b""))
        yield v6(solicit(NOBODY6, to.v6, victim.v6, NONCE))
        yield v6(icmp6(me.link_local, to.v6, 134, bytes(12) + source_is(me.mac)))
        yield v6(icmp6(me.link_local, to.v6, 137, bytes(4) + victim.v6 + victim.v6))
    elif kind == "ethertype":
        tag = struct.pack("!HH", 5, 0x0800)
        yield frame(0x8100, tag + ipv4(victim.v4, to.v4))
        yield frame(0x8100, struct.pack("!HH", 0, 0x0806) + arp(2, me.mac, victim.v4, to.mac, to.v4))
        yield frame(0x88A8, tag + ipv4(victim.v4, to.v4))
        yield frame(0x8864, bytes.fromhex("110000010000 0021") + ipv4(victim.v4, to.v4))
        yield frame(0x8847, bytes.fromhex("000011ff") + ipv4(victim.v4, to.v4))
        yield frame(0x88B5, WORD)
        yield ether(to.mac, me.mac, 40, b"\xaa\xaa\x03" + bytes(3) + b"\x08\x00" + ipv4(victim.v4, to.v4))
    elif kind == "reserved":
        # Groups that a bridge keeps to itself, before any rule.
        for last in (1, 2, 3, 14):
            group = bytes.fromhex("0180c20000") + bytes([last])
            yield ether(group, victim.mac, 0x88CC, WORD)
    elif kind == "honest":
        yield frame(0x0800, ipv4(me.v4, to.v4))
        yield v6(udp6(me.v6, to.v6))
        yield v6(udp6(me.link_local, to.v6))
        yield frame(0x0806, arp(2, me.mac, me.v4, to.mac, to.v4))
        yield frame(0x0806, arp(1, me.mac, NOBODY4, bytes(6), to.v4))
        yield v6(advert(me.v6, to.v6, me.v6, target_is(me.mac)))
        yield v6(advert(me.link_local, to.v6, me.link_local, target_is(me.mac)))
        yield v6(solicit(me.v6, to.v6, to.v6, source_is(me.mac)))
        yield v6(solicit(NOBODY6, to.v6, me.v6, NONCE))
        yield v6(icmp6(NOBODY6, to.v6, 143, bytes(4)))
    else:
        sys.exit(f"no such kind: {kind}")


sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
sock.bind((DEVICE, 0))
sent = 0
for to in destinations:
    for bytes_ in lies(to):
        sock.send(bytes_.ljust(60, b"\0"))
        sent += 1
print(sent)
