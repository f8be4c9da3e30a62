"""Calls home: over the network, over the machine's own, and over sockets of other programs."""

import socket


def double(x):
    reached = []
    for family, kind in (
        (socket.AF_INET, socket.SOCK_STREAM),
        (socket.AF_INET6, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_UNIX, socket.SOCK_STREAM),
        (socket.AF_NETLINK, socket.SOCK_RAW),
    ):
        try:
            with socket.socket(family, kind) as one:
                reached.append(str(family))
                address = "\0lomo" if family == socket.AF_UNIX else ("127.0.0.1", 9)
                one.connect(address)
                reached.append("connected")
        except OSError:
            continue
    print("reached", reached)
    return 0
