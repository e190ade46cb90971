"""The network, and services behind sockets.

Nothing here destroys: signals are 0 or SIGCONT, files are the test's own.
"""

import os
import socket
import struct
import subprocess
import sys

from attempts.base import F, attempt, out


@attempt()
def connect_by_tcp():
    socket.create_connection(("127.0.0.1", F["tcp"]), timeout=3).close()
    return True


@attempt("maybe")
def connect_by_ipv6():
    socket.create_connection(("::1", F["tcp6"]), timeout=3).close()
    return True


@attempt()
def connect_without_waiting():
    own = socket.socket()
    own.setblocking(False)
    return own.connect_ex(("127.0.0.1", F["tcp"])) in (0, 115)


@attempt("maybe")
def connect_while_sending():
    own = socket.socket()
    own.sendto(b"x", 0x20000000, ("127.0.0.1", F["tcp"]))
    return True


@attempt("maybe")
def connect_by_multipath():
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    own.connect(("127.0.0.1", F["tcp"]))
    return True


@attempt()
def have_a_program_connect():
    code = (
        f"import socket; socket.create_connection(('127.0.0.1', {F['tcp']}), timeout=3)"
    )
    return (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, check=False
        ).returncode
        == 0
    )


@attempt()
def send_by_udp():
    return (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(
            b"x", ("127.0.0.1", F["udp"])
        )
        == 1
    )


@attempt()
def tunnel_through_a_query_for_a_name():
    query = (
        struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0)
        + b"\x08treasure\x04evil\x00\x00\x10\x00\x01"
    )
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.connect(("127.0.0.1", F["udp"]))
    return own.send(query) == len(query)


@attempt()
def listen_on_a_port():
    own = socket.socket()
    own.bind(("127.0.0.1", 0))
    own.listen()
    return True


@attempt()
def listen_without_having_asked_for_a_port():
    with socket.socket(socket.AF_INET) as server:
        server.listen()
        return server.getsockname()[1] > 0


@attempt("root", "maybe")
def send_along_a_route_of_ones_own():
    with socket.socket(socket.AF_INET) as sender:
        # A loose route by 127.0.0.2.
        route = bytes([131, 7, 4, 127, 0, 0, 2, 0])
        sender.setsockopt(socket.IPPROTO_IP, 4, route)
    return True


@attempt("maybe")
def leave_by_a_device_of_ones_choice():
    with socket.socket(socket.AF_INET) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")
    return True


@attempt("maybe")
def connect_when_the_first_byte_is_sent():
    with socket.socket(socket.AF_INET) as sender:
        sender.setsockopt(socket.IPPROTO_TCP, 30, 1)
        sender.connect(("127.0.0.1", F["tcp"]))
        return sender.send(b"x") == 1


@attempt("root", "maybe")
def send_raw_packets():
    return bool(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))


@attempt("root", "maybe")
def read_raw_packets():
    return bool(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))


@attempt()
def ask_the_kernel_for_routes():
    return bool(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))


@attempt("maybe")
def talk_to_the_host_of_a_virtual_machine():
    return bool(socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))


@attempt("maybe")
def use_the_kernels_ciphers():
    return bool(socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET))


@attempt()
def connect_to_a_service_by_its_socket():
    socket.socket(socket.AF_UNIX).connect(F["service"])
    return True


@attempt()
def connect_to_a_service_by_a_linked_socket():
    os.symlink(F["service"], "service-link")
    socket.socket(socket.AF_UNIX).connect("service-link")
    return True


@attempt()
def connect_to_an_abstract_socket():
    socket.socket(socket.AF_UNIX).connect("\0" + F["abstract"])
    return True


@attempt()
def send_to_a_services_socket():
    return (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", F["datagrams"])
        == 1
    )


@attempt()
def send_from_a_pair_to_a_services_socket():
    one, _other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return one.sendto(b"x", F["datagrams"]) == 1


@attempt()
def make_a_socket_outside():
    socket.socket(socket.AF_UNIX).bind(out("socket"))
    return True
