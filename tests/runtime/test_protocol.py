"""Frames between the processes: whole or refused, descriptors included."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rootfs.runtime import protocol
from pytest_rootfs.runtime.client import Peer, PeerGone, StepFailed

Pair = tuple[socket.socket, socket.socket]
TEXT = st.text('aé€😀"\\\n\x00')
"""What JSON writes as it is, escapes, or writes as two escapes."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=10,
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    first, second = protocol.pair()
    with first, second:
        yield first, second


@settings(max_examples=30)
@given(st.dictionaries(TEXT, JSON))
def test_any_message_arrives(message: dict[str, object]) -> None:
    first, second = protocol.pair()
    with first, second:
        protocol.send(first, message)

        assert protocol.receive(second) == (message, [])


def test_descriptors_arrive(pair: Pair) -> None:
    read_fd, write_fd = os.pipe()
    protocol.send(pair[0], {"op": "x"}, [write_fd])
    _, [fd] = protocol.receive(pair[1])
    os.write(fd, b"through")

    assert os.read(read_fd, 100) == b"through"
    protocol.close_all([read_fd, write_fd, fd])


def test_descriptors_are_not_inherited(pair: Pair) -> None:
    protocol.send(pair[0], {}, [0])
    _, [fd] = protocol.receive(pair[1])

    assert not os.get_inheritable(fd)
    os.close(fd)


def test_many_descriptors_arrive(pair: Pair) -> None:
    protocol.send(pair[0], {}, [0] * protocol.MAX_FDS)
    _, fds = protocol.receive(pair[1])

    assert len(fds) == protocol.MAX_FDS
    protocol.close_all(fds)


@pytest.mark.parametrize("size", [protocol.INLINE_BYTES - 10, protocol.INLINE_BYTES, 5_000_000])
def test_long_message_arrives_with_its_descriptors(pair: Pair, size: int) -> None:
    message = {"text": "x" * size}
    protocol.send(pair[0], message, [0, 1])
    received, fds = protocol.receive(pair[1])

    assert received == message
    assert len(fds) == 2
    protocol.close_all(fds)


def test_end_of_file_is_no_message(pair: Pair) -> None:
    pair[0].close()

    assert protocol.receive(pair[1]) == (None, [])


@pytest.mark.parametrize("data", [b"{", b"[]", b"1", b"\xff", b'"x"', b"[" * 50_000])
def test_malformed_frame_is_refused(pair: Pair, data: bytes) -> None:
    pair[0].send(data)

    with pytest.raises(OSError, match="malformed frame"):
        protocol.receive(pair[1])


def test_refused_frame_closes_its_descriptors(pair: Pair) -> None:
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(pair[0], [b"nonsense"], [0, 1, 2])

    with pytest.raises(OSError, match="malformed frame"):
        protocol.receive(pair[1])

    assert len(os.listdir("/proc/self/fd")) == before


def test_frame_beyond_its_bound_is_refused(pair: Pair) -> None:
    fd = os.memfd_create("frame")
    os.ftruncate(fd, protocol.FRAME_BYTES + 1)
    socket.send_fds(pair[0], [protocol.OVERFLOW], [fd])
    os.close(fd)

    with pytest.raises(OSError, match="malformed frame"):
        protocol.receive(pair[1])


def test_frame_longer_than_the_buffer_is_refused(pair: Pair) -> None:
    pair[0].send(b'{"x":"' + b"x" * protocol.INLINE_BYTES + b'"}')

    with pytest.raises(OSError, match="longer than its bound"):
        protocol.receive(pair[1])


def test_error_travels_with_its_step(pair: Pair) -> None:
    error = FileNotFoundError(2, "No such file", "/x")
    frame = protocol.error_frame(error, "open")
    peer = Peer(pair[0])
    conversation = peer.ask({"op": "x"})
    _, [reply_fd] = protocol.receive(pair[1])
    with socket.socket(fileno=reply_fd) as reply:
        protocol.send(reply, frame)

    with pytest.raises(StepFailed) as failure:
        conversation.receive()

    assert (failure.value.step, failure.value.errno, failure.value.filename) == ("open", 2, "/x")
    conversation.close()


def test_call_to_a_dead_peer(pair: Pair) -> None:
    pair[1].close()

    with pytest.raises(PeerGone):
        Peer(pair[0]).call({"op": "x"})


def test_peer_that_dies_before_it_answers(pair: Pair) -> None:
    conversation = Peer(pair[0]).ask({"op": "x"})
    pair[1].close()

    with pytest.raises(PeerGone):
        conversation.receive(5)
    conversation.close()


def test_peer_that_does_not_answer_in_time(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        Peer(pair[0]).call({"op": "x"}, timeout_s=0.01)
